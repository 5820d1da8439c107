"""A step of training on the CPU, with the compiled operators and without, in the same run.

    python benchmarks/training_step.py [--weights tiny] [--clips 4] [--frames 2] [--threads 1] [--json FILE]

A step is the forward and the backward pass of the network on random pictures with the segmentation loss; by default
with the clips of examples/tiny.toml. The sides take turns, so that other load on the machine meets both; printed are
medians, and how far the gradients of the sides lie apart. Exit code 1 when they disagree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from measuring import machine, relative_l2
from torch import Tensor

from vivim.checkpoint import load_checkpoint, resolve_weights
from vivim.scan import kernels
from vivim.training.losses import segmentation_loss
from vivim_runtime.sessions.native import NATIVE_VARIABLE, native_library

SIDES = ("compiled", "PyTorch")
# Of all gradients, rel-L2: float32 sums over 8,192 steps and a network's depth in another order; measured 7e-6.
TOLERANCE = 1e-4


def use(side: str, library: str) -> None:
    """Let the scans of this process take the library, or none."""
    os.environ[NATIVE_VARIABLE] = library if side == "compiled" else "bodies"
    kernels.cpu_library.cache_clear()
    assert (kernels.cpu_library() is None) is (side == "PyTorch")


def main() -> int:
    parser = argparse.ArgumentParser(description="a step of training with the compiled operators and without")
    parser.add_argument("--weights", default="tiny", help="shipped weights or a file; default tiny")
    parser.add_argument("--clips", type=int, default=4, help="of a batch; default 4")
    parser.add_argument("--frames", type=int, default=2, help="of a clip; default 2")
    parser.add_argument("--imgsz", type=int, default=256, help="pixels; default 256")
    parser.add_argument("--threads", type=int, default=1, help="default 1")
    parser.add_argument("--repeats", type=int, default=7, help="default 7")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    found, operators = native_library(), kernels.cpu_library()
    if found is None or operators is None or not operators.takes_gradients(16):
        print("no compiled operators with gradients here; build them with: make native", file=sys.stderr)
        return 2
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = load_checkpoint(resolve_weights(arguments.weights)).train()
    pixels = torch.rand(arguments.clips, arguments.frames, 3, arguments.imgsz, arguments.imgsz)
    truth = (torch.rand(arguments.clips, arguments.frames, 1, arguments.imgsz, arguments.imgsz) > 0.9).float()

    def step() -> tuple[float, float, Tensor]:
        """Seconds of the forward and of the backward pass, and the gradients."""
        model.zero_grad(set_to_none=True)
        torch.manual_seed(0)  # dropout and stochastic depth
        start = time.perf_counter()
        loss = segmentation_loss(model(pixels).logits, truth)
        between = time.perf_counter()
        loss.backward()
        end = time.perf_counter()
        given = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
        return between - start, end - between, torch.cat(given)

    times: dict[str, list[tuple[float, float]]] = {side: [] for side in SIDES}
    gradients: dict[str, Tensor] = {}
    for repeat in range(arguments.repeats + 1):
        for side in SIDES:
            use(side, str(found.path))
            forward, backward, gradients[side] = step()
            if repeat:  # the first warms up
                times[side].append((forward, backward))
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    size = arguments.imgsz
    print(f"{arguments.weights}, {arguments.clips} clips of {arguments.frames} x {size} x {size}, ", end="")
    print(f"{arguments.threads} thread(s)")
    rows = {
        side: [statistics.median(column) for column in (*zip(*times[side], strict=True), map(sum, times[side]))]
        for side in SIDES
    }
    for side, (forward, backward, both) in rows.items():
        print(f"{side:>9}: {both:6.2f} s a step, forward {forward:.2f}, backward {backward:.2f}")
    error = relative_l2(gradients["compiled"], gradients["PyTorch"])
    print(f"{rows['PyTorch'][2] / rows['compiled'][2]:.1f} times as fast; gradients differ by {error:.1e} (rel-L2)")
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": about, "seconds": rows, "gradients": error}, indent=2) + "\n")
    return 0 if error <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main())
