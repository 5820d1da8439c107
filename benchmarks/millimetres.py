"""How true diameters are: of exact masks against known axes' measures, and of a network's masks against the exact ones.

    python benchmarks/millimetres.py [--model tiny] [--split test] [--clips 12] [--frames 10] [--size 256]

Synthetic ultrasound whose lesion is known in every frame; a pixel is 0.2 mm. Frames count in which
there is a lesion, and exactly one is marked. Then what the error of the longest diameter consists of, in pixels: what
all frames of a clip have in common, what differs between them, and what would be left of it otherwise measured.
"""

from __future__ import annotations

import argparse

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.datasets import open_dataset
from vivim_runtime.datasets.as_source import VideoSource
from vivim_runtime.judging import metrics
from vivim_runtime.measuring import Lesion, measured, parse_mm_per_pixel
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.sessions import runner_of
from vivim_runtime.sinks import Segmented

MM = 0.2
_FINER = 4


def finer(lesion: Lesion, logits: npt.NDArray[np.float32]) -> float:
    """Longest diameter, mm, of the outline where bilinear logits (H, W) are zero, between the pixels."""
    x, y, width, height = lesion.box
    rows = slice(max(0, y - 2), y + height + 2)
    columns = slice(max(0, x - 2), x + width + 2)
    whole = np.zeros(logits.shape, np.bool_)
    whole[y : y + height, x : x + width] = lesion.mask
    own = np.where(whole[rows, columns], logits[rows, columns], np.minimum(logits[rows, columns], -0.01))
    size = own.shape[1] * _FINER, own.shape[0] * _FINER
    return measured(cv2.resize(own, size, interpolation=cv2.INTER_LINEAR) > 0, (MM / _FINER,) * 2).longest.value


def composition(
    clips: npt.NDArray[np.intp], table: npt.NDArray[np.float64], dice: npt.NDArray[np.float64]
) -> list[str]:
    """Lines about errors; `table` (N, 3) has found, true and finer longest diameters of frames (N,) of `clips`."""
    error = (table[:, 0] - table[:, 1]) / MM  # frames of a clip follow each other
    numbers = np.unique(clips)
    common = np.array([error[clips == number].mean() for number in numbers])
    within = np.concatenate([error[clips == number] - error[clips == number].mean() for number in numbers])
    good = dice > 0.9
    lines = [
        f"longest, error in pixels: median {np.median(np.abs(error)):.2f}; of the means of the {len(numbers)} clips "
        f"{np.median(np.abs(common)):.2f}; of what is left of them in the frames {np.median(np.abs(within)):.2f}",
        f"  of the {np.mean(good):.0%} of the frames whose Dice is above 0.9: {np.median(np.abs(error[good])):.2f}",
        f"  of the outline between pixels: {np.median(np.abs(table[:, 2] - table[:, 1])) / MM:.2f}",
    ]
    for count in (3, 5):
        calm = np.concatenate([_calm(table[clips == number], count) for number in numbers])
        gain = np.abs(error) - np.abs(calm / MM)
        lines.append(
            f"  of the median over the last {count} frames: {np.median(np.abs(calm)) / MM:.2f}; "
            f"{np.mean(gain > 0.01):.0%} of the frames are closer to the truth, {np.mean(gain < -0.01):.0%} farther"
        )
    return lines


def _calm(table: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.float64]:
    """Errors (N,) of the median over the last `count` of a clip's frames, or as many as there were."""
    return np.array([np.median(table[max(0, i + 1 - count) : i + 1, 0]) - table[i, 1] for i in range(len(table))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    name = f"phantom:clips={arguments.clips},frames={arguments.frames},size={arguments.size}"
    rows: list[tuple[float, ...]] = []
    clips: list[int] = []
    lengths: list[tuple[float, float, float]] = []
    frames = number = 0

    def judge(item: Segmented) -> None:
        nonlocal frames
        frames += 1
        truth = item.frame.truth
        if truth is None or not truth.any() or len(item.lesions) != 1 or item.lesions[0].measures is None:
            return
        true, found = measured(truth, (MM, MM)), item.lesions[0].measures
        clips.append(number)
        lengths.append((found.longest.value, true.longest.value, finer(item.lesions[0], item.logits[0])))
        rows.append(
            (
                float(metrics.dice(item.masks[0], truth)),
                *(getattr(found, key).value - getattr(true, key).value for key in ("longest", "across", "area")),
                *(getattr(found, key).error for key in ("longest", "across", "area")),
            )
        )

    with runner_of(arguments.model)(arguments.model, None, None, "cpu", arguments.threads) as session:
        for number, video in enumerate(open_dataset(name, arguments.split).videos):  # noqa: B007
            with VideoSource(video) as source:
                run(source, session, (), RunOptions(scales=parse_mm_per_pixel(str(MM)), layers=()), judge)
        grain = session.info.takes.size
    table = np.array(rows)
    print(
        f"{arguments.model} ({grain[1]}x{grain[0]}) on {name}, {arguments.split}: "
        f"{len(rows)} of {frames} frames, a pixel is {MM} mm"
    )
    print(f"Dice {table[:, 0].mean():.4f}")
    for column, (key, unit) in enumerate((("longest", "mm"), ("across", "mm"), ("area", "mm2")), start=1):
        error, bound = np.abs(table[:, column]), table[:, column + 3]
        covered = np.mean(error <= bound)
        print(
            f"{key:8s} error median {np.median(error):.3f} {unit}, p95 {np.percentile(error, 95):.3f}, "
            f"signed median {np.median(table[:, column]):+.3f}; "
            f"bound median {np.median(bound):.3f}, covers the truth in {100 * covered:.1f} %"
        )

    print("\n".join(composition(np.array(clips), np.array(lengths), table[:, 0])))


if __name__ == "__main__":
    main()
