"""Whole archives: what is found, what is kept, what fails alone, and that a cluster gives the same bytes."""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import pytest
from pydicom.data import get_testdata_file

from tests.runtime.commands.test_run import call
from tests.runtime.models import brightness_model
from vivim_runtime import cluster
from vivim_runtime.archive import RESULTS, Archive, Job, Outcome, find_sources, process, run_archive
from vivim_runtime.cluster import RayExecutor
from vivim_runtime.errors import SourceError, UsageError
from vivim_runtime.files import sha256_file
from vivim_runtime.offline import RunOptions
from vivim_runtime.sessions import open_session
from vivim_runtime.sinks import open_sink
from vivim_runtime.sinks.base import MaskedFrame, Segmented
from vivim_runtime.sources import open_source

CINE = get_testdata_file("examples_ybr_color.dcm", download=False)


def film(path: Path, seed: int, model: Path, frames: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_source(f"phantom:seed={seed},frames={frames},size=48x64") as source,
        open_session(model) as session,
        open_sink(str(path), source, session.info, {}) as sink,
    ):
        for frame in source:
            sink.write(Segmented.drawn(MaskedFrame.none(frame, 1), frame.image))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, and in archive/ films, a DICOM loop, a folder of pictures, a broken film, and what is no source."""
    folder = tmp_path_factory.mktemp("archive")
    model = brightness_model(folder / "model.onnx")
    root = folder / "archive"
    film(root / "a" / "one.mp4", 1, model)
    film(root / "b" / "one.mp4", 2, model)
    (root / "a" / "loops").mkdir()
    shutil.copy(str(CINE), root / "a" / "loops" / "IM0001")
    (root / "stills").mkdir()
    for index in (10, 9):
        with open_source(f"phantom:seed={index},frames=1,size=48x64") as source:
            cv2.imwrite(str(root / "stills" / f"f{index}.png"), next(iter(source)).image)
    (root / "broken.mp4").write_bytes(b"no film")
    shutil.copy(str(get_testdata_file("reportsi.dcm", download=False)), root / "report.dcm")
    (root / "notes.txt").write_text("no source")
    (root / ".hidden.mp4").write_bytes(b"no source")
    return folder


NAMES = ["a/loops/IM0001", "a/one.mp4", "b/one.mp4", "broken.mp4", "report.dcm", "stills"]


def archive(made: Path, out: Path, options: RunOptions | None = None) -> Archive:
    model = made / "model.onnx"
    return Archive(made / "archive", out, model, sha256_file(model), options or RunOptions(), "cpu", 1)


def states(outcomes: Sequence[Outcome]) -> dict[str, str]:
    return {outcome.name: outcome.state for outcome in outcomes}


def contents(out: Path) -> dict[str, bytes]:
    """Of all that must be the same wherever it is made: a DICOM Segmentation has new UIDs and the hour in it."""
    files = [path for path in sorted(out.rglob("*")) if path.is_file() and path.suffix != ".dcm"]
    return {str(path.relative_to(out)): path.read_bytes() for path in files if path.name != RESULTS}


def test_what_can_be_a_source_is_found_and_nothing_else(made: Path, tmp_path: Path) -> None:
    assert find_sources(made / "archive", tmp_path) == NAMES
    with pytest.raises(SourceError, match="no videos, DICOM files or pictures"):
        find_sources(tmp_path, tmp_path / "out")
    with pytest.raises(SourceError, match="is no folder"):
        find_sources(made / "model.onnx", tmp_path)


def test_every_source_gets_its_results_and_one_that_fails_is_a_row(made: Path, tmp_path: Path) -> None:
    outcomes = run_archive(archive(made, tmp_path))
    others = {"broken.mp4": "failed", "report.dcm": "no picture"}
    assert states(outcomes) == {name: others.get(name, "done") for name in NAMES}
    rows = list(csv.DictReader((tmp_path / RESULTS).read_text().splitlines()))
    assert [row["name"] for row in rows] == NAMES
    assert [row["frames"] for row in rows] == ["30", "7", "7", "0", "0", "2"]
    assert "no video that FFmpeg can read" in rows[3]["error"] and not (tmp_path / "broken.mp4").exists()
    assert sorted(path.name for path in (tmp_path / "a" / "loops" / "IM0001").iterdir()) == [
        "done.json",
        "masks",
        "overlay.mp4",
        "segmentation.dcm",
    ]
    assert len(list((tmp_path / "stills" / "masks").iterdir())) == 2
    assert not list(tmp_path.rglob(".*"))


def test_a_second_run_keeps_what_is_the_same_by_content_model_and_options(made: Path, tmp_path: Path) -> None:
    root = tmp_path / "archive"
    shutil.copytree(made / "archive" / "b", root)
    given = Archive(root, tmp_path / "out", made / "model.onnx", "0" * 64, RunOptions(), "cpu", 1)
    assert states(run_archive(given)) == {"one.mp4": "done"}
    before = contents(tmp_path / "out")
    (root / "one.mp4").touch()  # a new date is no new content
    assert states(run_archive(given)) == {"one.mp4": "kept"}
    assert contents(tmp_path / "out") == before
    for changed in (
        Archive(root, tmp_path / "out", made / "model.onnx", "1" * 64, RunOptions(), "cpu", 1),
        Archive(root, tmp_path / "out", made / "model.onnx", "1" * 64, RunOptions(threshold=0.7), "cpu", 1),
    ):
        assert states(run_archive(changed)) == {"one.mp4": "done"}
    shutil.copy(made / "archive" / "a" / "one.mp4", root / "one.mp4")
    assert states(run_archive(changed)) == {"one.mp4": "done"}


def test_a_folder_that_is_no_result_is_not_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / "a" / "one.mp4").mkdir(parents=True)
    (tmp_path / "a" / "one.mp4" / "precious").write_text("mine")
    outcomes = {outcome.name: outcome for outcome in run_archive(archive(made, tmp_path))}
    assert outcomes["a/one.mp4"].state == "failed" and "is no result" in outcomes["a/one.mp4"].error
    assert (tmp_path / "a" / "one.mp4" / "precious").read_text() == "mine"


def test_results_do_not_lie_among_what_is_read_unless_in_a_folder_of_their_own(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="would lie among what is read"):
        run_archive(archive(made, made / "archive"))
    root = tmp_path / "archive"
    shutil.copytree(made / "archive" / "b", root)
    given = Archive(root, root / "results", made / "model.onnx", "0" * 64, RunOptions(), "cpu", 1)
    assert states(run_archive(given)) == states(run_archive(given)) | {"one.mp4": "done"}
    assert states(run_archive(given)) == {"one.mp4": "kept"}  # its own overlay.mp4 is no source


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--recursive"], "takes one folder for the results; there are 0"),
        (["o", "--recursive", "--on", "slurm"], "expected ray"),
        (["o", "--recursive", "--workers", "2"], "add --on ray"),
        (["o", "--on", "ray"], "add --recursive"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    words: list[str], says: str, made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    assert call(monkeypatch, "archive", *words, "--model", "model.onnx") == 2
    assert says in capsys.readouterr().err


def test_the_command_says_what_it_did_and_fails_where_a_source_did(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(made / "archive"), str(tmp_path), "--recursive", "--model", str(made / "model.onnx")]
    assert call(monkeypatch, *given) == 2
    said = capsys.readouterr().err
    assert "failed: broken.mp4: " in said and "6 sources: 4 done, 1 no picture, 1 failed; 46 frames" in said
    assert call(monkeypatch, *given) == 2
    assert "6 sources: 4 kept, 1 no picture, 1 failed" in capsys.readouterr().err


def _dies_once(job: Job) -> Outcome:
    """Kills its own worker in the middle of one source, the first time."""
    mark = job.archive.out / ".died"
    if job.name == "a/one.mp4" and not mark.exists():
        mark.write_text("")
        part = job.folder.with_name(f".{job.folder.name}.part")
        part.mkdir(parents=True)
        (part / "half").write_text("of a result")
        os.kill(os.getpid(), signal.SIGKILL)
    return PROCESS(job)


PROCESS = cluster.process_anywhere


@pytest.fixture
def ray_finds_this_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers import what the driver can: they get its path."""
    import sys

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in sys.path if part))
    yield


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray_finds_this_module: None
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'vivim-edge[cluster]'")
    here, there = tmp_path / "here", tmp_path / "there"
    local = run_archive(archive(made, here))
    executor = RayExecutor(workers=2)
    there.mkdir()
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["_"]))
    monkeypatch.setattr("vivim_runtime.cluster.process_anywhere", _dies_once)
    remote = run_archive(archive(made, there), executor)
    assert (there / ".died").exists()
    (there / ".died").unlink()
    assert sorted(map(repr, local)) == sorted(map(repr, remote))
    assert contents(here) == contents(there)


def test_a_job_of_nothing_is_an_outcome(made: Path, tmp_path: Path) -> None:
    with open_session(made / "model.onnx", "cpu", 1) as session:
        assert process(Job(archive(made, tmp_path), "gone.mp4"), session).state == "failed"
