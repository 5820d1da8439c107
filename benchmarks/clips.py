"""How many training clips a second come from files, without anything kept of frames and with it.

    python benchmarks/clips.py [--size 1024x1280] [--imgsz 256] [--videos 2] [--frames 20] [--epochs 2]

Writes videos of JPEG frames and PNG masks (phantoms, enlarged) to a temporary folder, and cuts clips of five frames,
one at every frame, in the order of training epochs; nothing is augmented, and no network runs. One process, one thread;
seconds are those of the processor, so that other work does not count.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from vivim.training.batches import DatasetClips, micro_batches
from vivim.training.cache import CacheOptions
from vivim_runtime.datasets import open_dataset
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sizes import parse_size

_T = 5
_MEMORY = 2_000 * 10**6


def write_videos(root: Path, videos: int, frames: int, size: tuple[int, int]) -> None:
    """A data set of the layout `plain`."""
    for number in range(videos):
        for index, (image, truth) in enumerate(phantom_frames(PhantomSpec(number, frames, (256, 320)))):
            large = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
            mask = cv2.resize(truth.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_NEAREST)
            for kind, pixels, suffix in (("images", large[..., ::-1], "jpg"), ("masks", mask, "png")):
                path = root / kind / f"v{number}" / f"{index:04d}.{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if not cv2.imwrite(str(path), pixels):
                    raise OSError(f"cannot write {path}")


def rate(clips: DatasetClips, epoch: int) -> float:
    """Clips a second of the processor, of one epoch."""
    order = [index for batch in micro_batches(0, epoch, len(clips), 1, 1) for index in batch]
    began = time.process_time()
    for index in order:
        clips.clip(index, epoch)
    return len(order) / (time.process_time() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="1024x1280", help="of the frames, height x width")
    parser.add_argument("--imgsz", default="256", help="of the network")
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, default=20, help="of each video")
    parser.add_argument("--epochs", type=int, default=2)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    size, imgsz = parse_size(asked.size, "--size"), parse_size(asked.imgsz)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "data"
        write_videos(root, asked.videos, asked.frames, size)
        kept = CacheOptions(folder=Path(folder) / "kept", disk=_MEMORY)
        sets = [
            ("nothing kept", CacheOptions()),
            ("in memory", CacheOptions(_MEMORY)),
            ("in a folder, new", kept),
            ("in a folder, of an earlier run", kept),
        ]
        print(f"{size[1]}x{size[0]} to {imgsz[1]}x{imgsz[0]}, clips of {_T}, {asked.videos * asked.frames} frames")
        print(f"{'':32} " + " ".join(f"{f'epoch {e + 1}':>9}" for e in range(asked.epochs)) + "   frames decoded")
        for name, options in sets:
            clips = DatasetClips(open_dataset(str(root)), _T, imgsz, cache=options)
            rates = [rate(clips, epoch) for epoch in range(asked.epochs)]
            print(
                f"{name:32} " + " ".join(f"{value:9.1f}" for value in rates) + f"   {clips.cache.decoded}", flush=True
            )


if __name__ == "__main__":
    main()
