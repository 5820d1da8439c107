"""Sends a video whose pictures say when they were made; a process of its own, so that it can be killed.

    python sender.py URL --size 480x640 --fps 25 --seconds 60 --format mpegts

A picture has a row of 24 blocks of 16 x 16 on top: the milliseconds of time.monotonic() when it was made, bit by bit,
modulo 2^24. A white square moves below. `made_ms` reads that back.
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction

import av
import numpy as np

__all__ = ["made_ms", "picture"]

BLOCK, BITS = 16, 24


def picture(size: tuple[int, int], index: int, now: float) -> np.ndarray:
    """uint8 RGB (H, W, 3) that says when it was made."""
    image = np.full((*size, 3), 60, np.uint8)
    stamp = int(now * 1000) % (1 << BITS)
    for bit in range(BITS):
        image[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (stamp >> bit & 1)
    left = 8 * index % (size[1] - 64)
    image[size[0] // 2 : size[0] // 2 + 64, left : left + 64] = 255
    return image


def made_ms(image: np.ndarray) -> int:
    """What a picture says, in milliseconds modulo 2^24."""
    middle = image[BLOCK // 2, BLOCK // 2 : BITS * BLOCK : BLOCK, 1]
    return int(sum((int(value) > 128) << bit for bit, value in enumerate(middle)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--size", default="480x640")
    parser.add_argument("--fps", type=float, default=25)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--format", default="mpegts")
    parser.add_argument("--codec", default="libx264")
    args = parser.parse_args()
    total = int(args.seconds * args.fps)
    with av.open(args.url, "w", format=args.format, options={"flush_packets": "1"}) as container:
        size = tuple(map(int, args.size.split("x")))
        stream = container.add_stream(args.codec, rate=Fraction(args.fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        if args.codec == "libx264":
            stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
            stream.codec_context.gop_size = int(args.fps)
        began = time.monotonic()
        for index in range(total):
            time.sleep(max(0.0, began + index / args.fps - time.monotonic()))
            frame = av.VideoFrame.from_ndarray(picture(size, index, time.monotonic()), format="rgb24")
            frame.pts, frame.time_base = index, 1 / Fraction(args.fps).limit_denominator(1001)
            container.mux(stream.encode(frame.reformat(format="yuv420p")))
        container.mux(stream.encode(None))


if __name__ == "__main__":
    main()
