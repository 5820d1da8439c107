"""Where the commands start: an error becomes one line and an exit code, a missing extra says which one.

The commands themselves live in the packages (`vivim_runtime.commands.run`, `vivim_export.commands`,
`vivim.commands.train`) and are imported only here and only when called, so that `vivim-run` works where torch is not
installed. Nothing is imported before that takes longer than Python itself: an interrupt that is raised while extensions
load can crash them, so it has to be handled before (`vivim_runtime.commands.signals`).
"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, TextIO

from vivim_runtime.commands.signals import Signals
from vivim_runtime.commands.words import meant
from vivim_runtime.errors import MissingExtraError, UsageError
from vivim_runtime.text import printable

if TYPE_CHECKING:
    import typer

__all__ = [
    "SUMMARIES",
    "bench",
    "calibrate",
    "check",
    "doctor",
    "evaluate",
    "export",
    "main",
    "plugins",
    "run",
    "train",
]

_BROKEN_PIPE = 128 + signal.SIGPIPE
_MOST_LETTERS = 1000  # of a line that ends a command

# Modules whose absence means that an extra is not installed, and the extra that a command (or one of its subcommands)
# asks for first.
_MODULES_OF_EXTRA = {
    "export": ("onnx", "onnxscript", "torch", "safetensors"),
    "train": ("torch", "safetensors", "tensorboardX", "tomli"),
    "engine": ("onnx",),
    "quant": ("onnx",),
    "cpu": ("onnxruntime",),
    "dicom": ("pydicom", "PIL"),
    "display": ("pygame",),
}
_EXTRA_OF_COMMAND = {
    "vivim-export": "export",
    "vivim-export trt": "engine",
    "vivim-train": "train",
    "vivim-calibrate": "quant",
}
# What is told of a command whose help cannot be made without an extra, since its options are those of a network:
# its summary and its subcommands, in its own words (tests/runtime/commands/test_first_tries.py).
SUMMARIES: dict[str, tuple[str, dict[str, str]]] = {
    "vivim-train": (
        "Train and evaluate Vivim, and convert checkpoints.",
        {
            "fit": "Train a network, by default as in the paper",
            "check-data": "Check a data set: count it, list everything that is wrong, draw a contact sheet",
            "calibrate-confidence": "Calibrate the confidence of a network on validation data (temperature scaling)",
            "boundary": "Train the affine regressor of Eq. 8, and report its error on held-out masks.",
            "ablate": "Train the rows of Table III side by side",
            "folds": "Split the videos into folds by patient, and print the commands that train and evaluate each.",
            "evaluate": "The same as vivim-eval.",
            "plot": "Plot runs: training loss and validation Dice of every epoch.",
            "convert": "Convert a checkpoint to safetensors with its configuration inside.",
        },
    ),
}


def _missing_extra(command: str, error: ImportError) -> MissingExtraError | None:
    if not isinstance(error, ModuleNotFoundError):
        return None
    root = (error.name or "").partition(".")[0]
    extras = [extra for extra, modules in _MODULES_OF_EXTRA.items() if root in modules]
    if not extras:
        return None
    subcommand = " ".join([command, *sys.argv[1:2]])
    if subcommand in _EXTRA_OF_COMMAND:
        command = subcommand
    own = _EXTRA_OF_COMMAND.get(command)
    return MissingExtraError(f"{command} (module {root} is missing)", own if own in extras else extras[0])


def main(command: str, module: str) -> NoReturn:
    """Run the Typer application `module.app` as `command` and exit with the code of the outcome.

    Every exception class of ours carries `exit_code`; anything else is a defect and keeps its traceback.
    """
    signals = Signals(command)
    signals.take()
    try:
        code = _outcome(command, module, signals)
    except KeyboardInterrupt:
        code = _told(f"{command}: interrupted", 130)
    except BrokenPipeError:
        _let_go()
        code = _BROKEN_PIPE
    except SystemExit as ended:
        if isinstance(ended.code, str):
            raise
        code = ended.code or 0
    except Exception as error:
        code = _explained(command, error, signals.told)
    signals.working = False
    if signals.told is not None:
        signals.leave(code)
    sys.exit(code)


def _outcome(command: str, module: str, signals: Signals) -> int:
    if instead := meant(command, sys.argv[1:]):
        raise UsageError(f"options are written --name value here, not name=value; this says the same: {instead}")
    app: typer.Typer = importlib.import_module(module).app
    signals.working = True
    code = app(prog_name=command, standalone_mode=False)
    if code == 130:  # what Typer makes of a KeyboardInterrupt
        raise KeyboardInterrupt
    sys.stdout.flush()  # here, where a broken pipe can still be told from a defect
    return code if isinstance(code, int) else 0


def _explained(command: str, error: Exception, told: int | None) -> int:
    """The exit code of an error of ours or of the command line, told in one line; anything else goes on as it is."""
    exit_code = getattr(error, "exit_code", None)
    kind = type(error).__name__  # Typer has carried its own copy of these classes since 0.16, so names it is
    # An extension that is being loaded makes an ImportError of the exception of a signal, a package that catches
    # everything goes on, and fails of what is missing, and we blame a network's code for what it did not catch.
    ended = told is not None and (not isinstance(exit_code, int) or _comes_of_an_end(error))
    if kind == "Abort" or (ended and told == signal.SIGINT):
        return _told(f"{command}: interrupted", 130)
    if ended and told is not None:
        return 128 + told
    if isinstance(error, ImportError) and (missing := _missing_extra(command, error)):
        if command in SUMMARIES and (not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:])):
            _write(_summary(command), sys.stdout)
            return 0
        return _told(f"error: {missing}", missing.exit_code)
    if not isinstance(exit_code, int):
        raise error
    message = str(error)
    if hasattr(error, "format_message"):
        message = error.format_message()
        if kind == "NoArgsIsHelpError":
            _write(message)
            return exit_code
        message = f"{message.rstrip('.')}; see {command} --help"
    return _told(f"error: {message}", exit_code)


def _comes_of_an_end(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, (KeyboardInterrupt, SystemExit)):
        error = error.__cause__ or error.__context__
    return error is not None


def _summary(command: str) -> str:
    """The help of a command whose options are not known here."""
    from vivim_runtime.commands.application import needs  # late, like all that loads packages of others

    text, subcommands = SUMMARIES[command]
    width = max(map(len, subcommands))
    lines = [f"  {name:{width}}  {what}" for name, what in subcommands.items()]
    last = f"{needs(_EXTRA_OF_COMMAND[command])}; then each command has a --help of its own."
    return "\n".join([f"Usage: {command} COMMAND [OPTIONS]", "", text, "", *lines, "", last])


def _told(message: str, code: int) -> int:
    _write(printable(" ".join(message.split()), _MOST_LETTERS))
    return code


def _write(message: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stderr
    try:
        stream.write(message + "\n")
        stream.flush()
    except OSError:  # nobody reads
        _let_go()


def _let_go() -> None:
    from vivim_runtime.commands.terminal import let_go

    let_go()


def run() -> NoReturn:
    """Entry point of `vivim-run`."""
    main("vivim-run", "vivim_runtime.commands.run")


def export() -> NoReturn:
    """Entry point of `vivim-export`."""
    main("vivim-export", "vivim_export.commands")


def train() -> NoReturn:
    """Entry point of `vivim-train`."""
    main("vivim-train", "vivim.commands.train")


def calibrate() -> NoReturn:
    """Entry point of `vivim-calibrate`."""
    main("vivim-calibrate", "vivim_calibration.commands")


def check() -> NoReturn:
    """Entry point of `vivim-check`."""
    main("vivim-check", "vivim_runtime.commands.check")


def evaluate() -> NoReturn:
    """Entry point of `vivim-eval`."""
    main("vivim-eval", "vivim_runtime.commands.evaluate")


def doctor() -> NoReturn:
    """Entry point of `vivim-doctor`."""
    main("vivim-doctor", "vivim_runtime.commands.doctor")


def bench() -> NoReturn:
    """Entry point of `vivim-bench`."""
    main("vivim-bench", "vivim_runtime.commands.bench")


def plugins() -> NoReturn:
    """Entry point of `vivim-plugins`."""
    main("vivim-plugins", "vivim_runtime.commands.plugins")
