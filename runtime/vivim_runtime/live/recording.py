"""Recordings of a live run: pictures as they were shown, and masks with the frames that they are of."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import cv2
import numpy as np

from vivim_runtime.live.inference import Inferred
from vivim_runtime.live.status import Controls
from vivim_runtime.live.threads import CLIP_QUEUE, PICTURE_QUEUE, Branch
from vivim_runtime.measuring import LesionFinder, Scales
from vivim_runtime.sinks.base import Segmented, Sink, measured_frame
from vivim_runtime.sinks.structured_report import StructuredReport
from vivim_runtime.sinks.video import VideoWriter
from vivim_runtime.sources.base import Image

__all__ = ["Recorder", "fitted"]


def fitted(image: Image, size: tuple[int, int]) -> Image:
    """A picture (h, w, 3) within (H, W, 3): its aspect kept, black around it."""
    height, width = size
    if image.shape[:2] == size:
        return image
    scale = min(height / image.shape[0], width / image.shape[1])
    inner_height, inner_width = max(1, round(image.shape[0] * scale)), max(1, round(image.shape[1] * scale))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    canvas = np.zeros((height, width, 3), np.uint8)
    canvas[top : top + inner_height, left : left + inner_width] = cv2.resize(image, (inner_width, inner_height))
    return canvas


class Recorder:
    """Hands what is to be kept to sinks, each behind a branch of its own.

    A video gets the pictures as they were shown, whatever frame their masks are of. Every other sink gets each frame
    that was inferred once, with the masks of that very frame.
    """

    def __init__(self, controls: Controls, scales: Scales) -> None:
        self._controls, self._scales = controls, scales
        self._pictures: list[Branch[Segmented]] = []
        self._clips: list[Branch[Inferred]] = []
        self.refused: list[str] = []  # recordings that could not begin, and why

    def open(self, sinks: Sequence[Sink], size: tuple[int, int]) -> None:
        """Begin to write to sinks that are open; pictures of another size than (H, W) will be fitted into it."""
        for sink in sinks:
            sink.__enter__()
            if isinstance(sink, VideoWriter):
                self._pictures.append(Branch(sink.path, PICTURE_QUEUE, _write_picture(sink, size), _close(sink)))
            else:
                self._clips.append(Branch(sink.path, CLIP_QUEUE, self._write_clip(sink), _close(sink)))

    def begin(self, film: Callable[[], Sink], size: tuple[int, int]) -> None:
        """Begin a recording that people asked for on the way; one that cannot begin ends alone, and is told."""
        try:
            self.open([film()], size)
        except Exception as error:
            self._controls.recording.clear()
            self.refused.append(f"recording could not begin: {error}")

    @property
    def branches(self) -> list[Branch[Segmented] | Branch[Inferred]]:
        """All that were opened."""
        return [*self._pictures, *self._clips]

    @property
    def active(self) -> bool:
        """Whether what comes now is being written."""
        return self._controls.recording.is_set() and any(branch.error is None for branch in self.branches)

    @property
    def message(self) -> str:
        """What went wrong, in one line; "" when nothing did."""
        stopped = next((f"recording stopped: {branch.error}" for branch in self.branches if branch.error), "")
        return stopped or (self.refused[-1] if self.refused and not self.active else "")

    def picture(self, item: Segmented) -> None:
        """A picture that was drawn."""
        for branch in self._pictures:
            branch.offer(item)

    def clip(self, result: Inferred) -> None:
        """A clip that was inferred."""
        if self._controls.recording.is_set():
            for branch in self._clips:
                branch.offer(result)

    def finish(self, until: float) -> list[str]:
        """Write what waits, until then (time.monotonic()), and close; the names of those that hang."""
        for branch in self.branches:
            branch.finish(until - 0.5)  # a video's end takes a moment too
        return [branch.name for branch in self.branches if not branch.join(max(until, time.monotonic() + 0.05))]

    def _write_clip(self, sink: Sink) -> Callable[[Inferred], int]:
        finder = LesionFinder(self._scales) if isinstance(sink, StructuredReport) else None

        def write(result: Inferred) -> int:
            threshold, views = self._controls.threshold, result.views
            for position in result.fresh:
                masked = result.masked(position, threshold)
                if finder is not None:
                    grain = 1.0 if views is None else views.grain(masked.masks.shape[1:])
                    masked = measured_frame(masked, finder, threshold, grain)
                sink.write(Segmented.drawn(masked, masked.frame.image))
            return len(result.fresh)

        return write


def _write_picture(sink: Sink, size: tuple[int, int]) -> Callable[[Segmented], int]:
    def write(item: Segmented) -> int:
        if item.picture.shape[:2] != size:
            item = replace(item, picture=fitted(item.picture, size))
        sink.write(item)
        return 1

    return write


def _close(sink: Sink) -> Callable[[Exception | None], None]:
    def close(error: Exception | None) -> None:
        sink.__exit__(type(error) if error else None, error, None)

    return close
