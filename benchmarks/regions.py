"""How well `--region auto` finds the region of phantoms on scanners' screens: IoU with the truth, layout by layout.

    python benchmarks/regions.py [--clips 10] [--frames 24] [--size 400x640] [--seed 5000000]

The layouts marked "held out" are those that nothing learns from; the finder's constants were chosen on other seeds.
"""

from __future__ import annotations

import argparse
import time

import cv2
import numpy as np

from vivim_runtime.finding import find
from vivim_runtime.phantom import PhantomSpec, phantom_screen
from vivim_runtime.phantom.layouts import LAYOUTS
from vivim_runtime.sizes import parse_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10)
    parser.add_argument("--frames", type=int, default=24)
    parser.add_argument("--size", default="400x640")
    parser.add_argument("--seed", type=int, default=5_000_000)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    size = parse_size(asked.size, "--size")
    groups: dict[str, list[float]] = {"to learn from": [], "held out": []}
    print(f"{'layout':16} {'':14} IoU >= 0.95  least  median  s a clip")
    for name, layout in LAYOUTS.items():
        overlaps, seconds = [], 0.0
        for seed in range(asked.seed, asked.seed + asked.clips):
            screen = phantom_screen(PhantomSpec(seed, asked.frames, size, screen=name))
            assert screen is not None
            images = [image for image, _ in screen.frames()]
            began = time.process_time()
            region = find(images).region
            seconds += time.process_time() - began
            mask = np.zeros(size, bool) if region is None else region.mask(size)
            overlaps.append(float((mask & screen.shown).sum() / (mask | screen.shown).sum()))
            if overlaps[-1] < 0.95:
                print(f"  {name} seed {seed}: {overlaps[-1]:.3f}")
        group = "held out" if layout.held_out else "to learn from"
        groups[group] += overlaps
        good = np.mean(np.array(overlaps) >= 0.95)
        print(
            f"{name:16} {group:14} {good:11.0%}  {min(overlaps):.3f}  {np.median(overlaps):.3f}  "
            f"{seconds / asked.clips:.2f}",
            flush=True,
        )
    for group, overlaps in groups.items():
        print(f"{group}: {np.mean(np.array(overlaps) >= 0.95):.1%} of {len(overlaps)} clips at 0.95 or better")


if __name__ == "__main__":
    main()
