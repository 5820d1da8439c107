"""Small data sets on the disk, and the pixels that went into them."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


def frame_of(number: int, size: tuple[int, int] = (24, 32)) -> Pixels:
    """A frame that no other number has: RGB noise around a brightness of its own."""
    noise = np.random.default_rng(number).integers(0, 60, (*size, 3))
    return (noise + (number * 37) % 160).astype(np.uint8)


def mask_of(number: int, size: tuple[int, int] = (24, 32)) -> Pixels:
    """A white rectangle, 0 and 255, that moves with the number."""
    mask = np.zeros(size, np.uint8)
    left = 2 + number % 8
    mask[6:18, left : left + 12] = 255
    return mask


def write_image(path: Path, pixels: Pixels) -> None:
    """RGB or grey pixels as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels if pixels.ndim == 2 else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))


def write_video_folders(
    frames: Path, masks: Path, count: int, first: int = 1, suffix: str = ".png", size: tuple[int, int] = (24, 32)
) -> None:
    """`count` frames `0001.png`, ... and masks of the same names; the pixels are those of their numbers."""
    for number in range(first, first + count):
        write_image(frames / f"{number:04d}{suffix}", frame_of(number, size))
        write_image(masks / f"{number:04d}.png", mask_of(number, size))


def write_vtus(root: Path, train: dict[str, int], test: dict[str, int] | None = None) -> Path:
    """Cases with so many frames, laid out like VTUS."""
    for split, cases in (("Train", train), ("Test", test or {})):
        for case, count in cases.items():
            write_video_folders(root / split / case, root / f"{split}_GT" / case, count)
    return root


def write_film(path: Path, count: int, size: tuple[int, int] = (48, 64), gap: int = 4, form: str = "mp4") -> None:
    """A video of `count` frames, frame i of brightness 8 i, a key frame every `gap` frames and B frames between."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format=form) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.options = {"g": str(gap), "bf": "2", "qp": "1"}
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((*size, 3), 8 * number, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
