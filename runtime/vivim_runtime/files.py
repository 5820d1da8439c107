"""Files that are whole or absent: written under a temporary name beside the target, then renamed.

Nothing that is there is touched before: temporary names are new ones, made by this process alone and never through a
link, so that neither what is read, nor what a killed run left, nor what another run writes can be overwritten.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import Any

from vivim_runtime.errors import SinkError, UsageError
from vivim_runtime.interrupts import undisturbed

__all__ = [
    "GrowingFile",
    "SeekingFile",
    "atomic_path",
    "cache_folder",
    "check_names",
    "hold_folder",
    "json_value",
    "part_name",
    "sha256_file",
    "writable_file",
    "writable_folder",
    "write_text",
]

# The end of the stem of a name that is ours: `film.part.mp4`, `film.part-2.mp4`, `.report.3f2a9c1b.part.json`.
_PART = re.compile(r"\.part(-[1-9][0-9]*)?$")
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# What is only looked at: a FIFO in the place of a file is not waited for.
_LOOK = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
# Written about a run and never read as pictures: they may lie, and be replaced, in a folder that is read.
_REPORTS = {".csv", ".html", ".json", ".jsonl", ".md", ".svg", ".tex"}
# Masks that go to a folder take names of pictures, which may be those that are read.
_MASKS = {".png"}


def writable_folder(folder: Path) -> Path:
    """Create `folder` if need be and return it; SinkError when it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"cannot create the folder {folder}: {error.strerror}; choose another output") from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SinkError(f"cannot write into the folder {folder}: permission denied; choose another output")
    return folder


def part_name(target: Path, number: int = 1) -> Path:
    """Where a file that grows for long is written until it is complete: `film.mp4` -> `film.part.mp4`.

    Args:
        number: of the part, where killed runs left earlier ones: `film.part-2.mp4`.
    """
    return target.with_name(f"{target.stem}.part{'' if number == 1 else f'-{number}'}{target.suffix}")


def writable_file(target: Path) -> Path:
    """Create the folder of `target` if need be and return `target`; SinkError when it cannot be written."""
    if target.is_dir():
        raise SinkError(f"{target} is a folder; expected a file name")
    if os.path.lexists(target) and not target.is_file():
        raise SinkError(f"{target} is not a regular file, and would be replaced by one; choose another output")
    writable_folder(target.parent)
    return target


def check_names(outputs: Sequence[str | Path], inputs: Sequence[str | Path]) -> None:
    """Refuse, before anything is opened, that an output replaces what is read, or another output.

    Args:
        outputs: files and folders to write.
        inputs: what is read; what is no path (a camera, a stream) does not matter.

    Raises:
        UsageError: two names stand for one file, an output is part of a folder that is read, or it has the name of an
            unfinished file, which another run may replace.
    """
    for output in outputs:
        if _PART.search(Path(output).stem):
            raise UsageError(f"{output} has the name of an unfinished file; expected one that does not end in .part")
    if any(_same(one, other) for one, other in combinations(outputs, 2)):
        raise UsageError("an output is named twice; expected different ones")
    for read in inputs:
        for output in outputs:
            if _same(read, output):
                raise UsageError(f"{read} is both read and written; choose another output")
            written, source = Path(os.path.realpath(output)), Path(os.path.realpath(read))
            if source.is_dir() and source in written.parents and _is_taken(written):
                raise UsageError(f"{output} is there already, and part of {read}, which is read; choose another output")
            if source.suffix.lower() in _MASKS and not written.suffix and source.parent == written:
                raise UsageError(f"{output} holds {read}, which is read; choose another folder for masks")


def _same(one: str | Path, other: str | Path) -> bool:
    try:
        return Path(one).samefile(other)
    except (OSError, ValueError):
        return os.path.realpath(one) == os.path.realpath(other)


def _is_taken(path: Path) -> bool:
    """Whether there is something that a data set may hold: a picture, a film, a folder with anything in it."""
    if path.is_dir():
        return any(path.iterdir())
    return os.path.lexists(path) and path.suffix.lower() not in _REPORTS


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Keep a folder for one run; SinkError where another run writes into it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if not _lock(descriptor):
            raise SinkError(f"another run writes into {folder}; wait for its end, or choose another folder")
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Lock an open file until it is closed; False where somebody else has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks
    return True


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, _LOOK)
    except OSError:
        return False  # gone, a link, or not ours to read: nobody of ours writes there
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


class GrowingFile:
    """A file that is written for long: `film.part.mp4`, which becomes `film.mp4` when it is complete.

    The part is a new file (`film.part-2.mp4` where a killed run left one), and locked while it grows: a second run on
    the same target is refused.

    Attributes:
        target: the name at the end.
        path: of the part.

    Raises:
        SinkError: it cannot be written, or another run writes it.
    """

    @undisturbed
    def __init__(self, target: Path) -> None:
        self.target = writable_file(target)
        self._error: OSError | None = None
        self._bytes = 0
        try:
            self._descriptor = self._claimed()
        except OSError as error:
            raise SinkError(f"cannot write {target}: {error.strerror or error}") from None
        lower = (part for number, part in self._parts() if number < self._number)
        if any(_is_locked(part) for part in lower):
            self.discard()
            raise SinkError(f"another run writes {target}; wait for its end, or choose another output")

    def _parts(self) -> list[tuple[int, Path]]:
        stem, suffix = re.escape(self.target.stem), re.escape(self.target.suffix)
        form = re.compile(rf"{stem}\.part(?:-([1-9][0-9]{{0,8}}))?{suffix}")
        found = ((form.fullmatch(path.name), path) for path in self.target.parent.iterdir())
        return [(int(match[1] or 1), path) for match, path in found if match]

    def _claimed(self) -> int:
        """Open a part behind all that are there.

        A part is locked before it has its name, so that of two runs that begin at once the second sees the first.
        """
        hidden = _temporary(self.target)
        descriptor = os.open(hidden, _NEW, 0o666)
        try:
            _lock(descriptor)
            while True:
                self._number = 1 + max((number for number, _ in self._parts()), default=0)
                self.path = part_name(self.target, self._number)
                with suppress(FileExistsError):
                    _name(hidden, self.path)
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        finally:
            hidden.unlink(missing_ok=True)

    def write(self, data: bytes | bytearray) -> int:
        """Append, all of it; OSError when that fails, and from then on."""
        if self._error is not None:
            raise self._error
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            # What writes through a library may not hear of it: `complete` tells in any case.
            self._error = error
            raise
        self._bytes += len(data)
        return len(data)

    @undisturbed
    def complete(self) -> None:
        """Give the file its name, once all that was written is on the disk.

        Raises:
            SinkError: something is missing; the part stays.
        """
        try:
            if self._error is not None:
                raise self._error
            os.fsync(self._descriptor)
            there = os.fstat(self._descriptor)
            if there.st_size != self._bytes:
                raise SinkError(f"cannot complete {self.target}: it has {there.st_size} of {self._bytes} bytes")
            if not os.path.samestat(there, self.path.lstat()):
                raise SinkError(f"cannot complete {self.target}: something else has taken the name {self.path.name}")
            self.path.replace(self.target)
        except OSError as error:
            raise SinkError(f"cannot complete {self.target}: {error.strerror or error}") from None
        finally:
            self.keep()

    def keep(self) -> None:
        """Close it and leave the part, for what it is worth."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @undisturbed
    def discard(self) -> None:
        """Close it and remove the part."""
        with suppress(OSError):
            if os.path.samestat(os.fstat(self._descriptor), self.path.lstat()):
                self.path.unlink()
        self.keep()


class SeekingFile(GrowingFile):
    """A growing file of a format whose head is completed at the end: written parts may be written again."""

    def write(self, data: bytes | bytearray) -> int:
        length = self._bytes
        try:
            return super().write(data)
        finally:
            self._bytes = max(length, self.tell())

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place in it, as `os.lseek`."""
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        """The place in it that is written next."""
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)


def _temporary(target: Path) -> Path:
    """A name beside `target` that nothing has, with its suffix, since libraries choose a format by it."""
    return target.with_name(f".{target.stem}.{secrets.token_hex(4)}.part{target.suffix}")


def _name(path: Path, name: Path) -> None:
    """Give a file a name that nothing has; FileExistsError where something does."""
    try:
        os.link(path, name, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(name):
            raise FileExistsError(name) from None
        path.rename(name)


@contextmanager
@undisturbed
def atomic_path(target: str | Path, create: bool = True) -> Iterator[Path]:
    """A temporary file beside `target` that replaces it when the block ends, and is removed when it fails.

    The block opens the path and writes; what it wrote is on the disk before it gets the name.

    Args:
        create: make the folder of `target` where there is none. A folder that is filled file by file must not be made
            again when somebody takes it away: what it held would be missing without a word.
    """
    target = writable_file(Path(target)) if create else Path(target)
    temporary = _temporary(target)
    try:
        descriptor = os.open(temporary, _NEW, 0o666)
        os.utime(descriptor, (0, 0))  # any write changes it
        os.close(descriptor)
        yield temporary
        descriptor = os.open(temporary, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            written = os.fstat(descriptor)
            if not stat.S_ISREG(written.st_mode) or (written.st_size == 0 and written.st_mtime == 0):
                raise SinkError(f"cannot write {target}: nothing was written")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
    except OSError as error:
        raise SinkError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # with its folder
            temporary.unlink(missing_ok=True)


def write_text(target: str | Path, text: str) -> None:
    """Write `text` as UTF-8 to `target`, whole or not at all."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def json_value(value: Any) -> Any:
    """What JSON can hold of a record: tuples become lists, and a number that is not finite becomes text."""
    if isinstance(value, dict):
        return {key: json_value(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def cache_folder() -> Path | None:
    """Where this package keeps what it can make again; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivim-edge"
    except RuntimeError:
        return None


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file, as lower-case hexadecimal."""
    with Path(path).open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
