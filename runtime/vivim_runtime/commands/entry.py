"""Where the commands start: an error becomes one line and an exit code, a missing extra says which one.

The commands themselves live in the packages (`vivim_runtime.commands.run`, `vivim_export.commands`,
`vivim.commands.train`) and are imported only here and only when called, so that `vivim-run` works where torch is not
installed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
from types import FrameType
from typing import NoReturn, TextIO

import typer

from vivim_runtime.commands.application import needs
from vivim_runtime.commands.terminal import let_go
from vivim_runtime.commands.words import meant
from vivim_runtime.errors import MissingExtraError, UsageError
from vivim_runtime.text import printable

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
    told: list[int] = []
    importing = True

    def end(number: int, frame: FrameType | None) -> NoReturn:
        """As an exception, so that files are closed and temporary ones removed; but not while packages are imported:
        nothing is open yet, and an exception within the start of compiled ones can crash them."""
        if importing:
            if number == signal.SIGINT:
                with contextlib.suppress(OSError):
                    os.write(2, f"{command}: interrupted\n".encode())
            os._exit(128 + number)
        told.append(number)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)  # a second one does not wait
        sys.exit(128 + number)

    try:
        signal.signal(signal.SIGTERM, end)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a job in the background ignores it
            signal.signal(signal.SIGINT, end)
        if instead := meant(command, sys.argv[1:]):
            raise UsageError(f"options are written --name value here, not name=value; this says the same: {instead}")
        app: typer.Typer = importlib.import_module(module).app
        importing = False
        code = app(prog_name=command, standalone_mode=False)
        if code == 130:  # what Typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        sys.stdout.flush()  # here, where a broken pipe can still be told from a defect
    except KeyboardInterrupt:
        _fail(f"{command}: interrupted", 130)
    except BrokenPipeError:
        let_go()
        sys.exit(_BROKEN_PIPE)
    except ImportError as error:
        _check_told(command, told, error)
        missing = _missing_extra(command, error)
        if missing is None:
            raise
        if command in SUMMARIES and (not sys.argv[1:] or {"-h", "--help"} & set(sys.argv[1:])):
            _write(_summary(command), sys.stdout)
            sys.exit(0)
        _fail(f"error: {missing}", missing.exit_code)
    except Exception as error:
        _check_told(command, told, error)
        _explain(command, error)
    sys.exit(code if isinstance(code, int) else 0)


def _check_told(command: str, told: list[int], error: Exception) -> None:
    """End as interrupted where an error that is not ours came after a signal.

    An extension that is being loaded makes an ImportError of the handler's exception, and a package that catches
    everything goes on, and fails of what is missing.
    """
    if not told or isinstance(getattr(error, "exit_code", None), int):
        return
    if signal.SIGINT in told:
        _fail(f"{command}: interrupted", 130)
    sys.exit(128 + told[0])


def _explain(command: str, error: Exception) -> NoReturn:
    """One line for an error of ours or of the command line; anything else goes on as it is."""
    kind = type(error).__name__  # Typer has carried its own copy of these classes since 0.16, so names it is
    if kind == "Abort":
        _fail(f"{command}: interrupted", 130)
    exit_code = getattr(error, "exit_code", None)
    if not isinstance(exit_code, int):
        raise error
    message = str(error)
    if hasattr(error, "format_message"):
        message = error.format_message()
        if kind == "NoArgsIsHelpError":
            _write(message)
            sys.exit(exit_code)
        message = f"{message.rstrip('.')}; see {command} --help"
    _fail(f"error: {message}", exit_code)


def _summary(command: str) -> str:
    """The help of a command whose options are not known here."""
    text, subcommands = SUMMARIES[command]
    width = max(map(len, subcommands))
    lines = [f"  {name:{width}}  {what}" for name, what in subcommands.items()]
    last = f"{needs(_EXTRA_OF_COMMAND[command])}; then each command has a --help of its own."
    return "\n".join([f"Usage: {command} COMMAND [OPTIONS]", "", text, "", *lines, "", last])


def _fail(message: str, code: int) -> NoReturn:
    _write(printable(" ".join(message.split()), _MOST_LETTERS))
    sys.exit(code)


def _write(message: str, stream: TextIO | None = None) -> None:
    stream = stream or sys.stderr
    try:
        stream.write(message + "\n")
        stream.flush()
    except OSError:  # nobody reads
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
