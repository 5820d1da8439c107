"""How true diameters are: of exact masks against known axes' measures, and of a network's masks against the exact ones.

    python benchmarks/millimetres.py [--model tiny] [--split test] [--clips 12] [--frames 10] [--size 256]

Synthetic ultrasound whose lesion is known in every frame; a pixel is 0.2 mm. Frames count in which
there is a lesion, and exactly one is marked.
"""

from __future__ import annotations

import argparse

import numpy as np

from vivim_runtime.datasets import open_dataset
from vivim_runtime.datasets.as_source import VideoSource
from vivim_runtime.judging import metrics
from vivim_runtime.measuring import measured, parse_mm_per_pixel
from vivim_runtime.offline import RunOptions, run
from vivim_runtime.sessions import runner_of
from vivim_runtime.sinks import Segmented

MM = 0.2


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
    frames = 0

    def judge(item: Segmented) -> None:
        nonlocal frames
        frames += 1
        truth = item.frame.truth
        if truth is None or not truth.any() or len(item.lesions) != 1 or item.lesions[0].measures is None:
            return
        true, found = measured(truth, (MM, MM)), item.lesions[0].measures
        rows.append(
            (
                float(metrics.dice(item.masks[0], truth)),
                *(getattr(found, key).value - getattr(true, key).value for key in ("longest", "across", "area")),
                *(getattr(found, key).error for key in ("longest", "across", "area")),
            )
        )

    with runner_of(arguments.model)(arguments.model, None, None, "cpu", arguments.threads) as session:
        for video in open_dataset(name, arguments.split).videos:
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


if __name__ == "__main__":
    main()
