"""A whole archive through a model: every video, DICOM file and folder of pictures below a folder, each into its own.

OUT/
├── results.csv              a row a source: what became of it
└── patient1/loop.dcm/       one folder a source, under its own name
    ├── overlay.mp4  masks/  segmentation.dcm (of a DICOM loop)
    └── done.json            of what it was made: contents of source and model, and the options

A source is done when its folder has a done.json that says the same contents and options; then it is kept. It is made
beside its place and named at the end, so that a killed run leaves no half result, and the next one begins that source
again. What cannot be read is a row in the table, and ends nothing.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from vivim_runtime.errors import NoPictureError, SinkError, SourceError, UsageError, VivimError
from vivim_runtime.files import sha256_file, writable_folder, write_text
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import Session
from vivim_runtime.sinks import open_sink
from vivim_runtime.sources import open_source
from vivim_runtime.sources.dicom import is_dicom
from vivim_runtime.sources.names import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_foreign, natural_key
from vivim_runtime.text import parse_json

__all__ = ["RESULTS", "Archive", "Job", "Outcome", "find_sources", "process", "run_archive", "run_here"]

RESULTS, _DONE, _PART = "results.csv", "done.json", ".part"


@dataclass(frozen=True)
class Archive:
    """An archive and where its results go; the same for all sources.

    Attributes:
        root, out: folders.
        model: a .onnx or .engine file.
        model_sha256: of its content.
        options: of every run.
        device, threads: as vivim_runtime.sessions.open_session takes them.
    """

    root: Path
    out: Path
    model: Path
    model_sha256: str
    options: RunOptions
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True)
class Job:
    """One source of an archive; `name` is its path below the root."""

    archive: Archive
    name: str

    @property
    def source(self) -> Path:
        """The file or folder."""
        return self.archive.root / self.name

    @property
    def folder(self) -> Path:
        """Where its results go."""
        return self.archive.out / self.name


@dataclass(frozen=True)
class Outcome:
    """What became of a source: a row of the table.

    Attributes:
        name: its path below the root.
        state: done (now), kept (from an earlier run), failed, or "no picture" (a DICOM segmentation or report).
        frames, with_mask: of it; 0 where it failed.
        lost: frames that could not be read.
        error: why it failed, or what it is instead of pictures; else "".
    """

    name: str
    state: str
    frames: int = 0
    with_mask: int = 0
    lost: int = 0
    error: str = ""


class Executor(Protocol):
    """Processes jobs, in any order, and gives each outcome once."""

    def __call__(self, jobs: Sequence[Job]) -> Iterable[Outcome]: ...


def find_sources(root: Path, out: Path) -> list[str]:
    """Paths below `root` of all that can be a source, in natural order; nothing below `out`, nothing hidden.

    A folder of pictures is one source. Links to folders are not followed.

    Raises:
        SourceError: there is no such folder, or nothing in it.
    """
    if not root.is_dir():
        raise SourceError(f"{root} is no folder; --recursive takes a folder of videos, DICOM files or pictures")
    found = list(_sources_below(root, root, Path(os.path.realpath(out))))
    if not found:
        raise SourceError(f"there are no videos, DICOM files or pictures below {root}")
    return found


def _sources_below(folder: Path, root: Path, out: Path) -> Iterator[str]:
    entries = sorted((path for path in folder.iterdir() if not is_foreign(path)), key=natural_key)
    files = [path for path in entries if path.is_file()]
    if any(path.suffix.lower() in IMAGE_SUFFIXES for path in files) and folder != root:
        yield str(folder.relative_to(root))
    for path in entries:
        if path.is_dir() and not path.is_symlink() and Path(os.path.realpath(path)) != out:
            yield from _sources_below(path, root, out)
        elif path.is_file() and _is_film(path):
            yield str(path.relative_to(root))


def _is_film(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in VIDEO_SUFFIXES or (suffix not in IMAGE_SUFFIXES and is_dicom(path))


def _content(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of a folder's pictures."""
    if path.is_file():
        return sha256_file(path)
    digest = hashlib.sha256()
    for file in sorted(path.iterdir(), key=natural_key):
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
            digest.update(f"{file.name} {sha256_file(file)}\n".encode())
    return digest.hexdigest()


def _made_of(job: Job) -> dict[str, object]:
    """What a result depends on; the same where nothing has changed."""
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in _plain(job.archive.options)}
    return {"source_sha256": _content(job.source), "model_sha256": job.archive.model_sha256, "options": options}


def _plain(options: RunOptions) -> Iterator[tuple[str, object]]:
    for field in fields(options):
        value = getattr(options, field.name)
        yield field.name, value if isinstance(value, str | int | float | tuple | None) else str(value)


def process(job: Job, session: Session) -> Outcome:
    """Make the results of one source, or keep those that are there."""
    try:
        made_of = _made_of(job)
        earlier = _earlier(job.folder)
        if earlier and earlier.get("made_of") == made_of:
            frames, with_mask, lost = (int(earlier[key]) for key in _COUNTS)
            return Outcome(job.name, "kept", frames, with_mask, lost)
        return _made(job, session, made_of)
    except (VivimError, OSError) as error:
        state = "no picture" if isinstance(error, NoPictureError) else "failed"
        return Outcome(job.name, state, error=" ".join(str(error).split()))


def _earlier(folder: Path) -> dict[str, Any] | None:
    try:
        said = parse_json((folder / _DONE).read_text(encoding="utf-8"))
        return said if isinstance(said, dict) and all(isinstance(said[key], int) for key in _COUNTS) else None
    except (OSError, ValueError, KeyError):
        return None


_COUNTS = ("frames", "with_mask", "lost")


def _made(job: Job, session: Session, made_of: dict[str, object]) -> Outcome:
    part = job.folder.with_name(f".{job.folder.name}{_PART}")
    shutil.rmtree(part, ignore_errors=True)  # of a run that was killed
    writable_folder(part)
    try:
        with ExitStack() as stack:
            source = stack.enter_context(open_source(str(job.source)))
            names = ["overlay.mp4", "masks/"]
            if job.source.is_file() and is_dicom(job.source):
                names.append("segmentation.dcm")
            settings = {"source": job.name}
            sinks = [stack.enter_context(open_sink(f"{part}/{name}", source, session.info, settings)) for name in names]
            report = run(source, session, sinks, job.archive.options)
        if report.interrupted:
            raise KeyboardInterrupt
        counts = {"frames": report.frames, "with_mask": report.with_mask, "lost": report.lost}
        write_text(part / _DONE, json.dumps({"made_of": made_of, **counts}, indent=1) + "\n")
        if job.folder.exists():
            if _earlier(job.folder) is None:
                raise SinkError(f"{job.folder} is there already, and is no result; choose another folder for results")
            shutil.rmtree(job.folder)
        part.rename(job.folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return Outcome(job.name, "done", report.frames, report.with_mask, report.lost)


def run_here(jobs: Sequence[Job]) -> Iterator[Outcome]:
    """One job after the other, in this process."""
    archive = jobs[0].archive
    with open_session(archive.model, archive.device, archive.threads) as session:
        for job in jobs:
            yield process(job, session)


def run_archive(
    archive: Archive, execute: Executor = run_here, on_outcome: Callable[[Outcome, int], None] = lambda outcome, n: None
) -> list[Outcome]:
    """All sources of an archive; the table is written after each, so that it is true whenever the run ends.

    Args:
        execute: where the work is done (`run_here`, vivim_runtime.cluster.RayExecutor).
        on_outcome: told of each, and of the number of all sources.

    Raises:
        SourceError: there is nothing to do.
        UsageError: results would lie among what is read.
    """
    root, out = Path(os.path.realpath(archive.root)), Path(os.path.realpath(archive.out))
    if root == out or out in root.parents:
        raise UsageError(f"the results would lie among what is read: {archive.out}; choose another folder")
    names = find_sources(archive.root, archive.out)
    writable_folder(archive.out)
    outcomes: dict[str, Outcome] = {}
    for outcome in execute([Job(archive, name) for name in names]):
        outcomes[outcome.name] = outcome
        write_text(archive.out / RESULTS, _table([outcomes[name] for name in names if name in outcomes]))
        on_outcome(outcome, len(names))
    return [outcomes[name] for name in names]


def _table(outcomes: Iterable[Outcome]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Outcome)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, outcomes))
    return text.getvalue()
