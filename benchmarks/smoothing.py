"""What calm masks cost: Dice, flicker and delay of `--smooth N`, on synthetic ultrasound or a data set.

    python benchmarks/smoothing.py [--model tiny] [--data phantom:clips=8,frames=40,size=128] [--split test]

The delay is measured: the shift, in frames, at which the area of the calm masks fits that of the others best.
"""

from __future__ import annotations

import argparse

import numpy as np

from vivim_runtime.datasets import open_dataset
from vivim_runtime.datasets.as_source import VideoSource
from vivim_runtime.judging import metrics
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.sessions import runner_of
from vivim_runtime.sinks import Segmented

FRAMES = (1, 2, 3, 5, 9)
LONGEST = 8


def measured_delay(plain: np.ndarray, calm: np.ndarray) -> float:
    """Frames by which one curve lies behind another, by the correlation of their steps, and a parabola at its top."""
    a, b = plain - plain.mean(), calm - calm.mean()
    if not a.any() or not b.any():
        return float("nan")
    lags = np.arange(-1, LONGEST + 1)
    inner = slice(LONGEST, len(a) - LONGEST)
    fits = np.array([np.corrcoef(np.roll(a, lag)[inner], b[inner])[0, 1] for lag in lags])
    best = int(fits[1:-1].argmax()) + 1
    left, top, right = fits[best - 1 : best + 2]
    return float(lags[best] + 0.5 * (left - right) / (left - 2 * top + right))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--data", default="phantom:clips=8,frames=40,size=128")
    parser.add_argument("--split", default="test")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    videos = open_dataset(arguments.data, arguments.split).videos
    areas: dict[int, list[np.ndarray]] = {}
    print(f"{arguments.model} on {arguments.data}, {arguments.split}: {sum(map(len, videos))} frames")
    print("frames  Dice    flicker  delay (said, measured)")
    with runner_of(arguments.model)(arguments.model, None, None, "cpu", arguments.threads) as session:
        for smooth in FRAMES:
            dice: list[float] = []
            flicker: list[float] = []
            areas[smooth] = []
            for video in videos:
                masks: list[np.ndarray] = []

                def judge(item: Segmented, masks: list[np.ndarray] = masks, dice: list[float] = dice) -> None:
                    masks.append(item.masks[0].copy())
                    dice.append(float(metrics.dice(item.masks[0], item.frame.truth)))

                with VideoSource(video) as source:
                    run(source, session, (), RunOptions(smooth=smooth, layers=()), judge)
                stack = np.stack(masks)
                areas[smooth].append(stack.sum((1, 2)).astype(float))
                moved = (stack[1:] != stack[:-1]).sum((1, 2)) / np.maximum(1, (stack[1:] | stack[:-1]).sum((1, 2)))
                flicker.append(float(moved.mean()))
            found = [measured_delay(a, b) for a, b in zip(areas[1], areas[smooth], strict=True)]
            delay = float(np.nanmedian(found)) if not np.isnan(found).all() else float("nan")
            print(
                f"{smooth:6d}  {np.mean(dice):.4f}  {np.mean(flicker):.4f}   {(smooth - 1) / 2:.1f}, {delay:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
