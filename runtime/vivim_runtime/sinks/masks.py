"""Masks as PNG files, one a frame."""

from __future__ import annotations

import re
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import cv2

from vivim_runtime.errors import SinkError
from vivim_runtime.files import atomic_path, hold_folder, writable_folder
from vivim_runtime.overlay import label_image
from vivim_runtime.sinks.base import Segmented

__all__ = ["MaskFolder"]

_MASK_NAME = re.compile(r"\d{6,}\.png")


class MaskFolder:
    """A folder of `000000.png`, ...: the frame's number, 8-bit grey at the source's resolution.

    One class is 0 and 255; several are 0 and 1 + the number of the class. Every file is whole or absent.
    """

    def __init__(self, folder: Path, overwrite: bool = False) -> None:
        if folder.exists() and not folder.is_dir():
            raise SinkError(f"{folder} is a file; expected a folder for masks")
        self._folder = writable_folder(folder)
        earlier = [file for file in folder.iterdir() if _MASK_NAME.fullmatch(file.name)]
        if earlier and not overwrite:
            raise SinkError(
                f"{folder} holds {len(earlier)} masks of an earlier run; add --overwrite to replace them, "
                "or choose another folder"
            )
        self._earlier = earlier
        self._held = ExitStack()
        self._held.enter_context(hold_folder(folder))

    @property
    def path(self) -> str:
        return f"{self._folder}/"

    def write(self, item: Segmented) -> None:
        # Old masks go when the first new one comes: a run that fails before it leaves them alone.
        for file in self._earlier:
            file.unlink(missing_ok=True)
        self._earlier = []
        # cv2.imwrite would not tell of a full disk, and leave a file that is cut off.
        _, data = cv2.imencode(".png", label_image(item.masks, item.logits))
        with atomic_path(self._folder / f"{item.frame.index:06d}.png", create=False) as temporary:
            temporary.write_bytes(data.tobytes())

    def __enter__(self) -> MaskFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
