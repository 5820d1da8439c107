"""What a frame of a phantom costs: processor time of one thread, clips of five frames, the scene's making included.

python benchmarks/phantoms.py [SEEDS]
"""

from __future__ import annotations

import sys
import time

import cv2

from vivim_runtime.phantom import PhantomSpec, phantom_frames

_KINDS = (
    ("none", "whole", (256, 256)),
    ("any", "whole", (256, 256)),
    ("any", "region", (256, 256)),
    ("mixed", "whole", (256, 256)),
    ("any", "whole", (800, 1280)),
)


def main(seeds: int) -> None:
    cv2.setNumThreads(1)
    for screen, view, size in _KINDS:
        began = time.process_time()
        for seed in range(seeds):
            for _ in phantom_frames(PhantomSpec(seed, 5, size, screen=screen, view=view)):
                pass
        cost = (time.process_time() - began) / (5 * seeds) * 1000
        print(f"screen={screen},view={view},size={size[0]}x{size[1]}: {cost:.1f} ms a frame")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
