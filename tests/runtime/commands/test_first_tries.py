"""What somebody types who has never seen this: each first try ends in the right thing, or in the right sentence.

A row is a command line as it is typed in a folder that holds clip.mp4 and model.onnx, its exit code, what it says, and
the files that are there afterwards.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from tests.runtime.models import brightness_model
from vivim_runtime.commands import entry
from vivim_runtime.commands.destinations import destinations, film_name
from vivim_runtime.errors import SourceError
from vivim_runtime.installation import installed_version
from vivim_runtime.live.screens import SCREEN
from vivim_runtime.sinks import open_sink
from vivim_runtime.sources import open_source
from vivim_runtime.sources.gstreamer import csi_pipeline

ROOT = Path(__file__).parents[3]
MODULES = {
    "vivim-run": "vivim_runtime.commands.run",
    "vivim-export": "vivim_export.commands",
    "vivim-train": "vivim.commands.train",
    "vivim-calibrate": "vivim_calibration.commands",
    "vivim-check": "vivim_runtime.commands.check",
    "vivim-eval": "vivim_runtime.commands.evaluate",
    "vivim-doctor": "vivim_runtime.commands.doctor",
    "vivim-bench": "vivim_runtime.commands.bench",
    "vivim-plugins": "vivim_runtime.commands.plugins",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mp4, and model.onnx, which marks what is bright."""
    made = tmp_path_factory.mktemp("first")
    brightness_model(made / "model.onnx")
    with open_source("phantom:frames=7,size=48x64") as source:
        from vivim_runtime.sessions import open_session
        from vivim_runtime.sinks.base import MaskedFrame, Segmented

        with (
            open_session(made / "model.onnx") as session,
            open_sink(str(made / "clip.mp4"), source, session.info, {}) as sink,
        ):
            for frame in source:
                sink.write(Segmented.drawn(MaskedFrame.none(frame, 1), frame.image))
    return made


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return tmp_path


def typed(monkeypatch: pytest.MonkeyPatch, line: str) -> int:
    """The exit code of a command line, run in this process."""
    command, *words = line.split()
    monkeypatch.setattr(sys, "argv", [command, *words])
    with pytest.raises(SystemExit) as caught:
        entry.main(command, MODULES[command])
    return int(caught.value.code or 0)


PHANTOM = "phantom:frames=7,size=48x64"
MEANT = "this says the same: "
TRIES = [
    # offline, without an output
    pytest.param("vivim-run clip.mp4", 0, "writing clip-vivim.mp4", ["clip-vivim.mp4"], id="a clip"),
    pytest.param(f"vivim-run {PHANTOM}", 0, "writing phantom-vivim.mp4", ["phantom-vivim.mp4"], id="a phantom"),
    pytest.param("vivim-run clip.mp4 --no-save", 0, "frames", [], id="nothing is written where that is asked for"),
    # outputs
    pytest.param("vivim-run clip.mp4 -o a.mkv -o b.jsonl", 0, "a.mkv", ["a.mkv", "b.jsonl"], id="-o, twice"),
    pytest.param("vivim-run clip.mp4 a.avi", 0, "a.avi", ["a.avi"], id="AVI"),
    pytest.param("vivim-run clip.mp4 a.webm", 0, "a.webm", ["a.webm"], id="WebM"),
    pytest.param("vivim-run clip.mp4 a.jsonl --save", 0, "wr", ["a.jsonl", "clip-vivim.mp4"], id="--save besides"),
    pytest.param("vivim-run clip.mp4 a.gif", 2, "expected a name ending in .mp4, .mkv", [], id="GIF"),
    pytest.param("vivim-run clip.mp4 clip.mp4 --overwrite", 2, "both read and written", [], id="onto itself"),
    # what every command has
    pytest.param("vivim-run -h", 0, "--model", [], id="-h"),
    pytest.param("vivim-run --version", 0, installed_version(), [], id="--version"),
    pytest.param("vivim-bench --version", 0, installed_version(), [], id="--version of a group"),
    pytest.param("vivim-export onnx -h", 0, "WEIGHTS", [], id="-h of a subcommand"),
    # a first try without a model, or a source
    pytest.param("vivim-run", 2, "", [], id="nothing at all"),
    pytest.param("vivim-run clip.mp4 --model no.onnx", 2, "vivim-export onnx tiny -o no.onnx", [], id="no model"),
    pytest.param("vivim-run --camera /dev/video77", 2, "there is no camera /dev/video77", [], id="no camera"),
    pytest.param("vivim-run csi://x", 2, "expected csi://0", [], id="csi without a number"),
    pytest.param("vivim-export onnx", 2, "such as vivim-export onnx tiny", [], id="export without weights"),
    pytest.param("vivim-export onnx tiny --weights tiny", 2, "expected one name", [], id="weights twice"),
    # words of other tools
    pytest.param(
        "vivim-run predict model=m.onnx source=0 show=True",
        2,
        MEANT + "vivim-run 0 screen --model m.onnx",
        [],
        id="yolo predict",
    ),
    pytest.param(
        "vivim-run source=clip.mp4 conf=0.4 save=True",
        2,
        MEANT + "vivim-run clip.mp4 --threshold 0.4 --save",
        [],
        id="yolo without a verb",
    ),
    pytest.param(
        "vivim-export model=tiny format=engine half=True",
        2,
        MEANT + "vivim-export trt tiny --fp16",
        [],
        id="yolo export",
    ),
    pytest.param(
        "vivim-export model=tiny format=onnx imgsz=320",
        2,
        MEANT + "vivim-export onnx tiny --imgsz 320",
        [],
        id="to ONNX",
    ),
    pytest.param("vivim-train data=D epochs=5", 2, MEANT + "vivim-train fit --data D --epochs 5", [], id="yolo train"),
    pytest.param("vivim-run mode=val model=tiny data=D", 2, MEANT + "vivim-eval tiny --data D", [], id="yolo val"),
    pytest.param("vivim-bench model=tiny imgsz=64", 2, MEANT + "vivim-bench tiny --imgsz 64", [], id="yolo benchmark"),
]


@pytest.mark.parametrize(("line", "code", "says", "files"), TRIES)
def test_a_first_try_ends_in_the_right_thing_or_the_right_sentence(
    line: str,
    code: int,
    says: str,
    files: list[str],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = {path.name for path in here.iterdir()}
    assert typed(monkeypatch, line) == code
    output, error = capsys.readouterr()
    assert says in " ".join((output + error).split())
    assert sorted({path.name for path in here.iterdir()} - before) == files
    if code == 2 and says:
        assert error.startswith("error: ") and error.count("\n") == 1
    for name in files:
        if Path(name).suffix in (".mp4", ".mkv", ".avi", ".webm"):
            with open_source(name) as film:
                assert len(list(film)) == 7, name


WITHOUT_PYTORCH = [
    pytest.param(f"vivim-run {PHANTOM} --model tiny", "needs no PyTorch) needs the extra 'export'", id="a run"),
    pytest.param("vivim-check tiny model.onnx", "the checkpoint tiny needs the extra 'train'", id="a comparison"),
    pytest.param("vivim-eval tiny --data phantom:clips=1", "tiny needs the extra 'train'", id="an evaluation"),
]


@pytest.fixture
def without_pytorch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in an environment of the extras cpu and display: no torch, and nothing imported that needs it."""
    ours = {name for name in sys.modules if name.partition(".")[0] in ("vivim", "vivim_export")}
    for name in ours:
        monkeypatch.delitem(sys.modules, name)
    for name in ("torch", "onnx", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in ("vivim", "vivim_export")]:
        del sys.modules[name]  # halves of packages; those from before come back with the monkeypatch


@pytest.mark.parametrize(("line", "says"), WITHOUT_PYTORCH)
@pytest.mark.usefixtures("without_pytorch")
def test_where_pytorch_is_missing_one_line_says_what_installs_it_and_that_its_small_build_is_enough(
    line: str, says: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, line) == 2
    error = capsys.readouterr().err
    assert says in error and "pip install" in error and "its CPU build is the small one" in error
    assert error.count("\n") == 1 and {path.name for path in here.iterdir()} == {"clip.mp4", "model.onnx"}


def test_training_is_offered_only_devices_that_it_takes(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = get_command(importlib.import_module("vivim.commands.train").app).commands["fit"]
    (told,) = [parameter.help for parameter in words.params if parameter.name == "device"]
    assert "openvino" not in told
    assert typed(monkeypatch, "vivim-train fit --preset tiny --device openvino --out runs") == 2
    assert "expected auto, cpu, cuda or cuda:<index>" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["o.mp4", "o.mkv", "o.jsonl", "s.json"])
def test_no_output_is_replaced_unless_that_is_asked_for(
    name: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(name).write_text("precious")
    given = f"--no-save --json {name}" if name == "s.json" else name
    assert typed(monkeypatch, f"vivim-run clip.mp4 {given} --quiet") == 2
    assert f"{name} is there already; add --overwrite" in capsys.readouterr().err
    assert Path(name).read_text() == "precious"
    assert typed(monkeypatch, f"vivim-run clip.mp4 {given} --overwrite --quiet") == 0
    assert Path(name).read_bytes() != b"precious"


def test_a_name_that_was_chosen_replaces_nothing(here: Path) -> None:
    Path("clip-vivim.mp4").write_text("precious")
    assert film_name("clip.mp4", False) == "clip-vivim-2.mp4" and film_name("clip.mp4", True) == "clip-vivim.mp4"


@pytest.mark.parametrize(
    ("names", "source", "live", "save", "outputs"),
    [
        pytest.param([], "0", True, None, [SCREEN], id="a camera: the screen"),
        pytest.param([], "0", True, True, [SCREEN, "camera0-vivim.mp4"], id="a camera, recorded too"),
        pytest.param(["o.mp4"], "0", True, None, ["o.mp4"], id="a camera into a file alone"),
        pytest.param([], "rtsp://u:secret@host/a", True, True, [SCREEN, "rtsp-vivim.mp4"], id="no password in a name"),
        pytest.param([], "dir/a b.dcm", False, None, ["a-b-vivim.mp4"], id="a DICOM loop"),
        pytest.param([], "cine/", False, None, ["cine-vivim.mp4"], id="a folder of pictures"),
        pytest.param(["m/"], "clip.mp4", False, None, ["m/"], id="a recorded source with an output"),
    ],
)
def test_where_a_run_goes_when_nothing_is_said(
    names: list[str], source: str, live: bool, save: bool | None, outputs: list[str], here: Path
) -> None:
    assert destinations(names, source, live, save, False)[0] == outputs


def test_without_a_display_live_pictures_go_to_a_page_whose_address_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert typed(monkeypatch, "vivim-run clip.mp4 --realtime") == 0
    assert "watch at http://127.0.0.1:" in capsys.readouterr().err
    assert not list(here.glob("*-vivim.mp4"))


def test_a_camera_at_a_ribbon_cable_is_named_as_in_jetson_inference() -> None:
    pipeline = csi_pipeline("csi://1", (480, 640), 60.0)
    assert "nvarguscamerasrc sensor-id=1 " in pipeline and "width=640,height=480,framerate=60/1" in pipeline
    with pytest.raises(SourceError, match="GStreamer"), open_source("csi://0"):
        pytest.skip("this OpenCV has GStreamer")
    with pytest.raises(SourceError, match="there is no camera /dev/video77"):
        open_source("v4l2:///dev/video77")


def test_python_m_is_vivim_run() -> None:
    done = subprocess.run([sys.executable, "-m", "vivim_runtime", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and installed_version() in done.stdout


def test_a_shell_completes_options() -> None:
    words = {"_VIVIM_RUN_COMPLETE": "complete_bash", "COMP_WORDS": "vivim-run --fullsc", "COMP_CWORD": "1"}
    code = "from vivim_runtime.commands.entry import run; run()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **words})
    assert done.stdout.split() == ["--fullscreen"]


# Every command with --help, one after the other: its exit code and what it printed.
WITHOUT = """
import contextlib, importlib, io, json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {'torch', 'onnx', 'onnxscript', 'onnxruntime', 'safetensors', 'pygame',
                                      'tensorboardX', 'pydicom', 'tensorrt', 'cuda'}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
from vivim_runtime.commands.entry import main
found = {}
for command, module in json.loads(sys.argv[1]).items():
    sys.argv = [command, '--help']
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            main(command, module)
        except SystemExit as end:
            found[command] = [end.code or 0, out.getvalue(), err.getvalue()]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def helped() -> dict[str, list[Any]]:
    """What all commands say to --help in a process where no extra is installed: exit code, output, errors."""
    run = [sys.executable, "-c", WITHOUT, json.dumps(MODULES)]
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", MODULES)
def test_help_needs_no_extra_and_says_which_one_the_command_does(helped: dict[str, list[Any]], command: str) -> None:
    code, out, err = helped[command]
    assert code == 0, err
    assert "Usage:" in out
    extra = {"vivim-train": "train", "vivim-export": "export", "vivim-calibrate": "quant"}.get(command)
    assert extra is None or f"Needs the extra '{extra}': pip install" in out


def commands() -> Iterator[tuple[str, Any]]:
    """Every command and subcommand, with its name."""

    def below(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for word, inner in command.commands.items():
                yield from below(f"{name} {word}", inner)
        else:
            yield name, command

    for name, module in {**MODULES, "vivim-bench paper": "vivim.commands.paper"}.items():
        yield from below(name, get_command(importlib.import_module(module).app))


def test_what_is_told_of_a_command_without_its_extra_is_what_it_says_itself() -> None:
    for command, (text, subcommands) in entry.SUMMARIES.items():
        group = get_command(importlib.import_module(MODULES[command]).app)
        assert text == group.help
        assert list(subcommands) == list(group.commands)
        for name, told in subcommands.items():
            assert str(group.commands[name].help).startswith(told.rstrip("."))


def test_an_option_name_is_of_one_kind_in_all_commands() -> None:
    """A switch here that is a value there, or several values, has two meanings."""
    kinds: dict[str, dict[tuple[bool, bool], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, command in commands():
        for parameter in command.params:
            option = parameter.opts[0]
            if getattr(parameter, "hidden", False) or not option.startswith("-"):
                continue
            # vivim-run writes several outputs, all others one.
            several = bool(parameter.multiple) and option != "--output"
            kinds[option][bool(getattr(parameter, "is_flag", False)), several].append(name)
    assert {option: dict(found) for option, found in kinds.items() if len(found) > 1} == {}


def test_old_spellings_still_work() -> None:
    accepted = {option for _, command in commands() for parameter in command.params for option in parameter.opts}
    assert accepted >= {"--weights", "--encoder", "--clips", "--ema", "--target", "--fp16", "--json", "--out"}
