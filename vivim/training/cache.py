"""Frames as the network takes them, kept so that they are decoded once and not once a clip that shows them.

Clips of T frames that begin at every frame show each frame T times an epoch. Frames are kept at the network's size, in
memory up to a limit (those that were not asked for the longest go first), and in a folder where one is given, which
worker processes and later runs share. A file there is named by what made it: the video's fingerprint, frame, framing,
and what its labels stand for.
"""

from __future__ import annotations

import hashlib
import math
import pickle
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vivim_runtime.clips import Masks
from vivim_runtime.datasets.fingerprints import video_print
from vivim_runtime.datasets.videos import AnnotatedVideo
from vivim_runtime.files import atomic_path, writable_folder
from vivim_runtime.framing import Framing
from vivim_runtime.sources.base import Image

__all__ = ["CacheOptions", "FrameCache"]


@dataclass(frozen=True)
class CacheOptions:
    """What may be kept.

    Attributes:
        memory: bytes of frames and masks in this process.
        folder: where they are kept for other processes and runs; None keeps none.
        disk: bytes that this process may add to the folder.
    """

    memory: int = 0
    folder: Path | None = None
    disk: int = 0


class FrameCache:
    """Frames and true masks of videos, as the framing of each video makes them."""

    def __init__(self, options: CacheOptions) -> None:
        self.options = options
        self._kept: OrderedDict[tuple[str, int], tuple[Image, npt.NDArray[np.uint8]]] = OrderedDict()
        self._bytes = self._written = 0
        self._names: dict[str, str] = {}
        self.decoded = 0  # frames that were read from their files

    def __getstate__(self) -> dict[str, object]:
        """For another process, which begins with nothing."""
        return {"options": self.options}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def read(self, video: AnnotatedVideo, index: int, framing: Framing) -> tuple[Image, Masks]:
        """A frame (H, W, 3) and its true mask (H, W) or (K, H, W) as `framing`, that of the video, makes them.

        Raises:
            DataError: as of `video.read`.
        """
        key = video.name, index
        found = self._kept.get(key)
        if found is None:
            path = self._path(video, index, framing)
            found = _load(path) if path is not None else None
            if found is None:
                found = self._decoded(video, index, framing)
                if path is not None:
                    self._save(path, *found)
            self._keep(key, found)
        else:
            self._kept.move_to_end(key)
        picture, packed = found
        planes = len(video.classes.names) if video.classes is not None else 1
        shape = (planes, *picture.shape[:2]) if planes > 1 else picture.shape[:2]
        return picture, np.unpackbits(packed, count=math.prod(shape)).astype(np.bool_).reshape(shape)

    def _decoded(self, video: AnnotatedVideo, index: int, framing: Framing) -> tuple[Image, npt.NDArray[np.uint8]]:
        image, mask = video.read(index)
        self.decoded += 1
        return framing.picture(image), np.packbits(framing.truth(mask))

    def _keep(self, key: tuple[str, int], found: tuple[Image, npt.NDArray[np.uint8]]) -> None:
        size = found[0].nbytes + found[1].nbytes
        if size > self.options.memory:
            return
        self._kept[key] = found
        self._bytes += size
        while self._bytes > self.options.memory:
            _, (picture, packed) = self._kept.popitem(last=False)
            self._bytes -= picture.nbytes + packed.nbytes

    def _path(self, video: AnnotatedVideo, index: int, framing: Framing) -> Path | None:
        if self.options.folder is None:
            return None
        if video.name not in self._names:
            made_of = (video_print(video), framing)  # with all of a region's outline
            named = video.classes is not None and bool(video.classes.labels)
            made_by = pickle.dumps((*made_of, video.classes) if named else made_of)
            self._names[video.name] = hashlib.sha256(made_by).hexdigest()[:24]
        return self.options.folder / self._names[video.name] / f"{index}.npz"

    def _save(self, path: Path, picture: Image, packed: npt.NDArray[np.uint8]) -> None:
        size = picture.nbytes + packed.nbytes
        if self._written + size > self.options.disk:
            return
        writable_folder(path.parent)
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, picture=picture, mask=packed)
        self._written += size


def _load(path: Path) -> tuple[Image, npt.NDArray[np.uint8]] | None:
    """What a file holds; None where there is none, or one that cannot be read: it is then written anew."""
    try:
        with np.load(path, allow_pickle=False) as content:
            return content["picture"], content["mask"]
    except (OSError, ValueError, KeyError, EOFError):
        return None
