#!/usr/bin/env python3
"""Every kernel once on small shapes, checked against the float64 loop: what compute-sanitizer watches.

    compute-sanitizer --tool racecheck python plugins/tools/small_shapes.py --library FILE [--device cuda]

Shapes have ragged tiles, more than one tile, all four directions, a shared input, no gate and N below 16. Data is made
on the CPU, so that our kernels are nearly all that runs on the GPU. Where vivim is not installed, set PYTHONPATH=.
Exit code 1 when numbers are wrong, 2 when nothing could run.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from vivim.scan.kernels import KernelLibrary
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference, streaming_scan_reference
from vivim.scan.s6 import s6_scan_reference
from vivim_runtime.errors import KernelError

# rows, columns, width, rank, states, directions, gate, shared input
SHAPES = [
    (5, 37, 40, 8, 16, (0, 1, 2), True, False),  # Vivim's directions; L = 185: tiles of 16 and 128, the last ragged
    (3, 13, 24, 3, 5, (0, 2, 1, 3), False, True),  # VMamba's, N padded with zeros, rows of dbc unaligned to vectors
]
# Of the plain scan: batch, groups, channels of a group, length (three tiles of 32 steps, the last ragged); and the
# states of each of its kernels.
PLAIN_SHAPE, PLAIN_STATES = (2, 2, 3, 70), (1, 5, 16, 20, 70)
# 16 bits: as in tests/plugins/test_kernels.py; float32: ex2.approx may be 2^-22 off, at decays that last 20 steps.
TOLERANCES = {torch.float32: 2.5e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}


def distance(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value.cpu().double() - expected).norm() / expected.norm())


def check(kernels: KernelLibrary, device: str) -> list[str]:
    """What was wrong, as lines."""
    wrong = []
    scan: Callable[..., torch.Tensor] = kernels.selective_scan
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for rows, columns, width, rank, states, directions, gate, shared in SHAPES:
        count, length, order = len(directions), rows * columns, list(directions)
        for dtype, tolerance in TOLERANCES.items():
            xz = normal(1, length, 2 * width).to(dtype)
            arguments = (
                normal(1 if shared else count, 1, length, width).to(dtype),
                normal(count, 1, length, rank + 2 * states).to(dtype),
                xz if gate else None,
                -20 * torch.rand(count, width, states, generator=generator),
                normal(count, width, rank) * 0.5 * rank**-0.5,
                normal(count, width) * 0.3 - 2,
                normal(count, width),
            )
            expected = selective_scan_reference(*arguments, rows, order, True)
            given = [None if a is None else a.to(device) for a in arguments]
            for tactic, name in enumerate(kernels.tactics):
                far = distance(scan(*given, rows, order, True, tactic), expected)
                if not far <= tolerance:
                    wrong.append(f"{name}, {dtype}, {rows} x {columns}: relative L2 {far:.1e}")
            initial = normal(1, states, width)
            expected_y, expected_state = streaming_scan_reference(*arguments, initial, rows, order, True)
            for tactic, name in enumerate(kernels.tactics):
                y, final = kernels.streaming_scan(*given, initial.to(device), rows, order, True, tactic)
                far, off = distance(y, expected_y), distance(final, expected_state)
                if not (far <= tolerance and off <= TOLERANCES[torch.float32]):
                    wrong.append(f"{name} with a state, {dtype}, {rows} x {columns}: relative L2 {far:.1e}, {off:.1e}")
            weight, bias = normal(count, width, 4) * 0.5, normal(count, width) * 0.1
            moved = (weight.to(device), bias.to(device), rows, order)
            value = kernels.causal_conv1d(xz.to(device), *moved)
            far = distance(value, causal_conv1d_reference(xz, weight, bias, rows, order))
            if not far <= tolerance:
                wrong.append(f"causal_conv1d, {dtype}, {rows} x {columns}: relative L2 {far:.1e}")
            tail = normal(1, 3, width).to(dtype)
            value = kernels.streaming_conv1d(xz.to(device), tail.to(device), *moved)
            far = distance(value, causal_conv1d_reference(xz, weight, bias, rows, order, tail))
            if not far <= tolerance:
                wrong.append(f"streaming_conv1d, {dtype}, {rows} x {columns}: relative L2 {far:.1e}")
    return wrong + check_plain(kernels, device)


def check_plain(kernels: KernelLibrary, device: str) -> list[str]:
    """What was wrong with the plain scan, as lines: every tactic, with skip, bias and softplus and without."""
    wrong = []
    scan: Callable[..., torch.Tensor] = kernels.s6_scan
    generator = torch.Generator().manual_seed(7)
    batch, groups, inner, length = PLAIN_SHAPE
    width = groups * inner

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    for states in PLAIN_STATES:
        for dtype, tolerance in TOLERANCES.items():
            u, B, C = normal(batch, width, length), *(normal(batch, groups, states, length) for _ in range(2))
            delta, A = normal(batch, width, length) * 0.5, -16 * torch.rand(width, states, generator=generator)
            data = [tensor.to(dtype) for tensor in (u, delta, B, C)]
            for whole in (True, False):
                if not whole:
                    data[1] = data[1].abs()  # below zero the state would grow
                vectors = (normal(width), normal(width) - 3) if whole else (None, None)
                arguments = (data[0], data[1], A, *data[2:], *vectors)
                expected = s6_scan_reference(*arguments, whole)
                given = [None if tensor is None else tensor.to(device) for tensor in arguments]
                for tactic, name in enumerate(kernels.s6_tactics):
                    far = distance(scan(*given, whole, tactic), expected)
                    if not far <= tolerance:
                        wrong.append(f"plain scan, {name}, {dtype}, N = {states}, {whole}: relative L2 {far:.1e}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="every kernel once on small shapes, for compute-sanitizer")
    parser.add_argument("--library", type=Path, required=True, metavar="FILE", help="libvivim_kernels.so")
    parser.add_argument("--device", default="cuda", help="default cuda; cpu for the emulated library")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(f"no CUDA GPU that torch {torch.__version__} can use", file=sys.stderr)
        return 2
    try:
        kernels = KernelLibrary(arguments.library)
        wrong = check(kernels, arguments.device)
    except KernelError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(wrong) if wrong else f"{len(kernels.tactics)} tactics, causal_conv1d and the plain scan are right")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
