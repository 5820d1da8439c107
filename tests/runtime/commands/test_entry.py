"""Where the commands start: outcomes become lines and exit codes."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import pytest
import typer

from vivim_runtime import errors
from vivim_runtime.commands import entry

ROOT = Path(__file__).parents[3]

Install = Callable[[Callable[..., object]], str]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a module whose `app` is the given callable, and returns its name."""

    def install(app: Callable[..., object]) -> str:
        module = ModuleType("an_application")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return module.__name__

    return install


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def app(**options: object) -> NoReturn:
        raise error

    return app


class OddExitCode(Exception):
    exit_code = "two"


def test_success_exits_with_zero_and_passes_the_name_on(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    names = []
    with pytest.raises(SystemExit) as caught:
        entry.main("vivim-run", install(lambda prog_name, **options: names.append(prog_name)))
    assert caught.value.code == 0 and names == ["vivim-run"]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.VivimError("a defect"), 1),
        (errors.SourceError("no video"), 2),
        (errors.MissingExtraError("reading a.dcm", "dicom"), 2),
        (type("Budget", (Exception,), {"exit_code": 3})("over budget"), 3),
        (type("Machine", (Exception,), {"exit_code": 4})("another GPU"), 4),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_error_with_an_exit_code_becomes_one_line(
    error: Exception, code: int, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main("vivim-run", install(raising(error)))
    assert caught.value.code == code
    assert capsys.readouterr() == ("", f"error: {error}\n")


def test_message_of_several_lines_becomes_one(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        entry.main("vivim-run", install(raising(errors.ModelError("line one\n  line two\n"))))
    assert capsys.readouterr().err == "error: line one line two\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("a defect"), OddExitCode("not a number")])
def test_other_errors_keep_their_traceback(
    error: Exception, install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(type(error)) as caught:
        entry.main("vivim-run", install(raising(error)))
    assert caught.value is error
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [
        ("vivim-export", "onnx", "export"),
        ("vivim-export", "onnxscript.rewriter", "export"),  # a part of a package names its root
        ("vivim-export", "torch", "export"),
        ("vivim-train", "torch", "train"),
        ("vivim-train", "safetensors.torch", "train"),
        ("vivim-run", "onnxruntime", "cpu"),
        ("vivim-run", "pydicom", "dicom"),
        ("vivim-run", "PIL", "dicom"),
    ],
)
def test_missing_module_names_the_extra_to_install(
    command: str,
    module: str,
    extra: str,
    install: Install,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", [command, "argument"])  # without any, a command may tell of itself
    error = ModuleNotFoundError(f"No module named {module!r}", name=module)
    with pytest.raises(SystemExit) as caught:
        entry.main(command, install(raising(error)))
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1 and line.startswith(f"error: {command} ")
    assert f"pip install 'vivim-edge[{extra}]'" in line and module.partition(".")[0] in line


def test_missing_module_is_noticed_while_the_application_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "needs_onnxscript.py").write_text("import onnxscript\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)  # as if it were not installed
    with pytest.raises(SystemExit) as caught:
        entry.main("vivim-export", "needs_onnxscript")
    assert caught.value.code == 2 and "vivim-edge[export]" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["vivim_runtime.nothing", "torchvision", None])
def test_missing_module_of_no_extra_is_a_defect(name: str | None, install: Install) -> None:
    with pytest.raises(ModuleNotFoundError):
        entry.main("vivim-run", install(raising(ModuleNotFoundError("gone", name=name))))


def test_ctrl_c_exits_with_130(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry.main("vivim-run", install(raising(KeyboardInterrupt())))
    assert caught.value.code == 130
    assert capsys.readouterr() == ("", "vivim-run: interrupted\n")


@pytest.fixture
def typer_app() -> typer.Typer:
    """An application whose commands stop with Ctrl-C, with an exit code, with an error, or not at all."""
    app = typer.Typer()

    @app.command(no_args_is_help=True)
    def stop(how: str, times: int = 1) -> None:
        if how == "ctrl-c":
            raise KeyboardInterrupt
        if how == "exit-3":
            raise typer.Exit(3)
        if how == "error":
            raise errors.SinkError("disk full")
        if how == "defect":
            raise ZeroDivisionError

    return app


@pytest.mark.parametrize(
    ("arguments", "code", "lines"),
    [
        ("well", 0, ""),
        ("exit-3", 3, ""),
        ("error", 2, r"error: disk full\n"),
        ("ctrl-c", 130, r"vivim-run: interrupted\n"),
        ("well --times many", 2, r"error: .*--times.*integer.*; see vivim-run --help\n"),
        ("well --nothing", 2, r"error: .*--nothing; see vivim-run --help\n"),
    ],
)
def test_outcomes_of_a_typer_application(
    arguments: str,
    code: int,
    lines: str,
    typer_app: typer.Typer,
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["vivim-run", *arguments.split()])
    with pytest.raises(SystemExit) as caught:
        entry.main("vivim-run", install(typer_app))
    assert caught.value.code == code
    captured = capsys.readouterr()
    assert captured.out == "" and re.fullmatch(lines, captured.err)


def test_defect_within_a_typer_application_keeps_its_traceback(
    typer_app: typer.Typer, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["vivim-run", "defect"])
    with pytest.raises(ZeroDivisionError):
        entry.main("vivim-run", install(typer_app))


def test_command_without_arguments_shows_its_help(
    typer_app: typer.Typer, install: Install, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["vivim-run"])
    with pytest.raises(SystemExit):
        entry.main("vivim-run", install(typer_app))
    captured = capsys.readouterr()
    shown = captured.out + captured.err
    assert "Usage: vivim-run" in shown and "--times" in shown and "error:" not in shown


def test_every_command_of_the_distribution_has_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = dict(
        re.findall(
            r'^(vivim-\w+) = "vivim_runtime\.commands\.entry:(\w+)"$', (ROOT / "pyproject.toml").read_text(), re.M
        )
    )
    assert scripts == {
        "vivim-run": "run",
        "vivim-check": "check",
        "vivim-export": "export",
        "vivim-train": "train",
        "vivim-eval": "evaluate",
        "vivim-calibrate": "calibrate",
        "vivim-doctor": "doctor",
        "vivim-bench": "bench",
        "vivim-plugins": "plugins",
    }
    started = []
    monkeypatch.setattr(entry, "main", lambda command, module: started.append((command, module)))
    for name in scripts.values():
        getattr(entry, name)()
    assert started == [
        ("vivim-run", "vivim_runtime.commands.run"),
        ("vivim-check", "vivim_runtime.commands.check"),
        ("vivim-export", "vivim_export.commands"),
        ("vivim-train", "vivim.commands.train"),
        ("vivim-eval", "vivim_runtime.commands.evaluate"),
        ("vivim-calibrate", "vivim_calibration.commands"),
        ("vivim-doctor", "vivim_runtime.commands.doctor"),
        ("vivim-bench", "vivim_runtime.commands.bench"),
        ("vivim-plugins", "vivim_runtime.commands.plugins"),
    ]
