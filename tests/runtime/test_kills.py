"""Programs that are stopped at random points: final names are whole or absent, and the next run works.

`VIVIM_KILLS` says how often each (100 where it is not set), and `VIVIM_KILLS_SEED` gives other moments. SIGKILL may
leave parts under names that say so; SIGTERM and Ctrl-C leave none but those that hold what was done. Every program
starts over what the one before it left. One in five begins with Python; the others have loaded their packages before
(a load is most of an export's time, and a signal within it ends the program at once).
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from safetensors.numpy import load_file

from tests.runtime.models import brightness_model
from tests.runtime.test_sinks import decoded

pytestmark = pytest.mark.slow

_KILLS = int(os.environ.get("VIVIM_KILLS", "100"))
_MADE = "phantom:?frames=40&size=64x96"
_COMMANDS = {
    "run": ("run", [_MADE, "o.mp4", "o.jsonl", "m", "--overwrite", "--json", "o.json", "--model", "model.onnx"]),
    "live": (
        "run",
        [_MADE, "o.mp4", "o.jsonl", "--overwrite", "--json", "o.json", "--realtime", "--model", "model.onnx"],
    ),
    "export": ("export", ["onnx", "--weights", "tiny", "--imgsz", "128", "-o", "o.onnx", "--json", "o.json"]),
    "calibrate": (
        "calibrate",
        [
            "tiny.onnx",
            "--calib-data",
            "phantom:?frames=10&size=128x128",
            "--eval-data",
            "phantom:?frames=5&size=128x128&seed=9",
            "--max-clips",
            "2",
            "--eval-clips",
            "1",
            "--runs",
            "1",
            "--target",
            "test",
            "-o",
            "o.onnx",
            "--json",
            "o.json",
            "--cache",
            "cache.json",
        ],
    ),
    "fit": (
        "train",
        [
            "fit",
            "--preset",
            "tiny",
            "--affine",
            "0",
            "--clips",
            "1",
            "--validation-clips",
            "1",
            "--frames",
            "1",
            "--imgsz",
            "32",
            "--batch",
            "1",
            "--epochs",
            "3",
            "--threads",
            "1",
            "--out",
            "fit",
        ],
    ),
}


def _film(path: Path) -> None:
    assert 1 <= len(decoded(path)[1]) <= 40  # fewer where Ctrl-C ended it, which keeps what was done


def _ledger(path: Path) -> None:
    lines = [json.loads(line)["type"] for line in path.read_text().splitlines()]
    assert lines[0] == "run" and lines[-1] == "summary"


def _archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


_WHOLE: dict[str, Callable[[Path], object]] = {
    ".mp4": _film,
    ".jsonl": _ledger,
    ".json": lambda path: json.loads(path.read_text()),
    ".onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
    ".png": lambda path: path.read_bytes().index(b"IEND"),
    ".pt": _archive,
    ".safetensors": load_file,  # which compares the header with the size
}


def _arguments(folder: Path, name: str) -> list[str]:
    _, args = _COMMANDS[name]
    return [*args, "--resume"] if (folder / "fit/state.pt").is_file() else args


class Cold:
    """A program of its own, from the start of Python on.

    Args:
        modules: gets the names of what it has loaded, if it ends by itself.
    """

    def __init__(self, folder: Path, name: str, modules: Path) -> None:
        code = (
            f"import sys; from vivim_runtime.commands.entry import {_COMMANDS[name][0]} as run\n"
            f"try:\n    run()\nfinally:\n    open({str(modules)!r}, 'w').write('\\n'.join(sys.modules))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *_arguments(folder, name)],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.SIG_DFL
            ),  # which a shell's jobs in the background ignore
        )

    def ends_within(self, seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self._process.returncode is not None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> tuple[int, str]:
        """Exit code and standard error."""
        _, error = self._process.communicate(timeout=240)
        return self._process.returncode, error


_WARM = """
import atexit, contextlib, importlib, json, os, signal, sys, traceback
from vivim_runtime.commands import entry

name, modules, error = sys.argv[1:]
for module in open(modules).read().split():
    with contextlib.suppress(Exception):
        importlib.import_module(module)
print(0, flush=True)
for line in sys.stdin:
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(240)  # a hang ends, and fails
        null, told = os.open(os.devnull, os.O_RDWR), os.open(error, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, file in enumerate((null, null, told)):
            os.dup2(file, descriptor)
        sys.argv = ["vivim", *json.loads(line)]
        code = 130  # where an interrupt comes before it is handled
        try:
            getattr(entry, name)()
        except KeyboardInterrupt:
            pass
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
            code = 99
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)  # threads that packages began are not in a fork, and their end would not find them
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Warm:
    """Programs that have loaded their packages when they begin, by forking: all that comes behind the imports."""

    def __init__(self, folder: Path, name: str, modules: Path) -> None:
        self._folder, self._name, self._error = folder, name, modules.with_name("error.txt")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WARM, _COMMANDS[name][0], str(modules), str(self._error)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that `select` tells of all that was not read
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # a fork takes no threads along
        )

    def __enter__(self) -> Warm:
        assert self._told() == 0  # all is loaded
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def start(self) -> Warm:
        assert self._process.stdin is not None
        self._error.unlink(missing_ok=True)
        self._process.stdin.write(f"{json.dumps(_arguments(self._folder, self._name))}\n".encode())
        self._child = self._told()
        return self

    def ends_within(self, seconds: float) -> bool:
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):  # it has ended
            os.kill(self._child, number)

    def ended(self) -> tuple[int, str]:
        code = self._told()
        return code, self._error.read_text() if self._error.exists() else ""

    def _told(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


def _hidden(folder: Path) -> set[Path]:
    return {path for path in folder.rglob(".*") if path.is_file()}


@pytest.mark.parametrize("name", _COMMANDS)
def test_what_is_stopped_anywhere_leaves_whole_files_or_none(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(name + os.environ.get("VIVIM_KILLS_SEED", ""))
    brightness_model(tmp_path / "model.onnx")
    if name == "calibrate":
        code = "from vivim_runtime.commands.entry import export; export()"
        made = [sys.executable, "-c", code, "onnx", "--weights", "tiny", "--imgsz", "128", "-o", "tiny.onnx"]
        subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    given = {path.name for path in tmp_path.iterdir()}
    temporary = tmp_path.with_name(f"{tmp_path.name}-temporary")
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    modules = temporary.with_name(f"{temporary.name}-modules.txt")
    programs: dict[type, Callable[[], Cold | Warm]] = {Cold: lambda: Cold(tmp_path, name, modules)}
    usual: dict[type, float] = {}

    def complete(kind: type) -> int:
        began = time.monotonic()
        code, error = programs[kind]().ended()
        # An int8 file of a tiny network may be refused; of the others something has to be there.
        assert code in ((0, 3) if name == "calibrate" else (0,)), error
        usual[kind] = time.monotonic() - began
        return code

    code = complete(Cold)
    ended: Counter[str] = Counter()
    with Warm(tmp_path, name, modules) as warm:
        programs[Warm] = warm.start
        _clear(tmp_path, given)
        code = complete(Warm)
        for number in range(_KILLS):
            fresh = code == 0 and (name == "fit" or number % 2 == 1)  # else over what is complete
            if fresh:
                _clear(tmp_path, given)
            before = _hidden(tmp_path)
            form = Cold if number % 5 == 0 else Warm
            process = programs[form]()
            began = time.monotonic()
            if process.ends_within(chance.uniform(0.0, 1.1 * usual[form])):
                usual[form] = time.monotonic() - began  # the machine may do more or less at once than before
            kind = chance.choice((signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
            process.send(kind)
            code, error = process.ended()
            where = f"{name}, stop {number}, {form.__name__}, {kind.name}, exit code {code}: {error[-2000:]}"
            ended[f"{kind.name} {code}"] += 1
            sys.stdout.write(f"{number + 1} {form.__name__} {kind.name} {code}\n")
            sys.stdout.flush()
            # Before Python has begun, and behind its end, a signal does what signals do; while it sets itself up,
            # before a line of ours, an interrupt is a fatal error of its own.
            python_alone = kind == signal.SIGINT and error.startswith("Fatal Python error: init_import_site")
            assert python_alone or code in (0, 3, 128 + kind, -kind), where
            assert python_alone or "Traceback" not in error or code == -kind, where
            for path in tmp_path.rglob("*"):
                if path.is_file() and path.name not in given and ".part" not in path.name and path.suffix in _WHOLE:
                    if name == "fit" and path.suffix == ".jsonl":
                        continue  # its log has lines of its own
                    _WHOLE[path.suffix](path)
            if name == "run" and fresh and (tmp_path / "o.mp4").exists() and (tmp_path / "o.jsonl").exists():
                frames = [json.loads(line)["type"] for line in (tmp_path / "o.jsonl").read_text().splitlines()].count(
                    "frame"
                )
                assert len(decoded(tmp_path / "o.mp4")[1]) == frames, where
            if kind is not signal.SIGKILL:
                assert _hidden(tmp_path) == before, where
                assert not [path for path in temporary.iterdir() if path.name.startswith("tmp")], where
            _clear(temporary, set())
        complete(Warm)  # what the last one left disturbs nobody
    sys.stdout.write(f"{name}: {_KILLS} stops in {usual[Cold]:.1f} s, warm {usual[Warm]:.1f} s, {dict(ended)}\n")


def _clear(folder: Path, given: set[str]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.relative_to(folder).parts[0] not in given:
            path.rmdir() if path.is_dir() else path.unlink()
