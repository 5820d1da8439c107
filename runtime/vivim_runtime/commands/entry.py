"""Where the commands start: an error becomes one line and an exit code, a missing extra says which one.

The commands themselves live in the packages (`vivim_runtime.commands.run`, `vivim_export.commands`,
`vivim.commands.train`) and are imported only here and only when called, so that `vivim-run` works where torch is not
installed.
"""

from __future__ import annotations

import importlib
import signal
import sys
from types import FrameType
from typing import NoReturn

import typer

from vivim_runtime.commands.terminal import let_go
from vivim_runtime.commands.words import meant
from vivim_runtime.errors import MissingExtraError, UsageError
from vivim_runtime.text import printable

__all__ = ["bench", "calibrate", "check", "doctor", "evaluate", "export", "main", "plugins", "run", "train"]

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

    def end(number: int, frame: FrameType | None) -> NoReturn:
        """As an exception, so that files are closed and temporary ones removed."""
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
        if signal.SIGINT in told:  # an extension that is being loaded makes an ImportError of the handler's exception
            _fail(f"{command}: interrupted", 130)
        if told:
            sys.exit(128 + told[0])
        missing = _missing_extra(command, error)
        if missing is None:
            raise
        _fail(f"error: {missing}", missing.exit_code)
    except Exception as error:
        _explain(command, error)
    sys.exit(code if isinstance(code, int) else 0)


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


def _fail(message: str, code: int) -> NoReturn:
    _write(printable(" ".join(message.split()), _MOST_LETTERS))
    sys.exit(code)


def _write(message: str) -> None:
    try:
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
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
