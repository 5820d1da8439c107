"""The plain scan on a GPU: every tactic's time at the shapes of other people's networks, against floors and baselines.

    python benchmarks/plain_scan_gpu.py [--batches 1,16] [--dtypes fp16] [--json FILE]

The library is the one that VIVIM_KERNELS names. Rows of the table, and of the JSON file, which is rewritten after
each: every tactic of vivim_s6_scan; mamba-ssm's selective_scan_fn where it is installed; PyTorch's vectorised scan.
Times are those of gpu_timing.py, floors (exponentials; bytes, each tensor once) of the properties in gpu_floors.py.
Accuracy is relative L2 to the float64 scan of the first picture on the same device. Exit code 1 when a kernel fails or
is not accurate, 2 without GPU or library.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from gpu_floors import Device, Work, device_from, nvidia_smi
from gpu_timing import CudaTimer, Timer, copy_bandwidth
from measuring import relative_l2
from scan_baselines import Scan, mamba_ssm
from scan_gpu import DTYPES, TOLERANCES
from torch import Tensor

from vivim.scan.kernels import KernelLibrary, library
from vivim.scan.s6 import _chunked
from vivim_runtime.errors import KernelError

# (G, E, N, L) at 224 x 224, and a volume of 64 x 64 x 64
NETWORKS = {
    "VMamba, stage 1": (4, 192, 1, 3136),
    "VMamba, stage 3": (4, 768, 1, 196),
    "MambaVision, stage 3": (1, 320, 8, 196),
    "Vim": (1, 384, 16, 197),
    "VM-UNet, stage 1": (4, 192, 16, 3136),
    "SegMamba, stage 1": (1, 96, 16, 32768),
}
MAMBA, PYTORCH = "mamba-ssm", "PyTorch"


@dataclass(frozen=True)
class Row:
    """One thing timed at one shape; `error` says why there are no figures."""

    network: str
    batch: int
    dtype: str
    what: str
    ours: bool
    exponentials_floor_us: float  # 0 where the clock is unknown
    bytes_floor_us: float
    cold_us: float | None = None
    warm_us: float | None = None
    rel_l2: float | None = None
    error: str | None = None

    @property
    def failed(self) -> bool:
        """Whether a kernel of ours gave an error or wrong numbers; NaN is wrong."""
        return self.ours and not (self.rel_l2 is not None and self.rel_l2 <= TOLERANCES[self.dtype])


def inputs(shape: tuple[int, int, int, int], batch: int, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """u, delta, A, B, C, skip, bias: time steps of 1e-3 to 0.1, A = -(1 .. N)."""
    groups, inner, states, length = shape
    width = groups * inner
    g = torch.Generator().manual_seed(7)
    u, delta = (torch.randn(batch, width, length, generator=g) * scale for scale in (1.0, 0.3))
    B, C = (torch.randn(batch, groups, states, length, generator=g) for _ in range(2))
    dt = 10 ** (-3 + 2 * torch.rand(width, generator=g))
    A = -torch.arange(1.0, states + 1).expand(width, states).contiguous()
    bias = dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus
    u, delta, B, C = (tensor.to(dtype) for tensor in (u, delta, B, C))
    return tuple(tensor.to(device) for tensor in (u, delta, A, B, C, torch.ones(width), bias))


def work(shape: tuple[int, int, int, int], batch: int, size: int) -> Work:
    """An exponential a state and step and one for softplus; each tensor once."""
    groups, inner, states, length = shape
    width = groups * inner
    data = batch * length * (3 * width + 2 * groups * states)
    return Work(batch * width * length * (states + 1), size * data + 4 * width * (states + 2))


def calls(kernels: KernelLibrary, given: tuple[Tensor, ...]) -> Iterator[tuple[str, Scan | str, bool]]:
    """What is timed: its name, the call or why there is none, whether it is ours."""
    for tactic, name in enumerate(kernels.s6_tactics):
        yield name, (lambda t=tactic: kernels.s6_scan(*given, True, t)), True
    found = mamba_ssm()
    u, delta, A, B, C, skip, bias = given
    if isinstance(found, str):
        yield MAMBA, found, False
    else:
        scan: Callable[..., Tensor] = found
        yield MAMBA, (lambda: scan(u, delta, A, B, C, skip, None, bias, True)), False
    plain: Callable[..., Tensor] = _chunked
    yield PYTORCH, (lambda: plain(*given, True)), False


def rows_of(
    network: str, batch: int, dtype: str, kernels: KernelLibrary, about: Device, timer: Timer, device: str
) -> Iterator[Row]:
    """Everything at one shape, as it is measured."""
    shape = NETWORKS[network]
    given = inputs(shape, batch, DTYPES[dtype], device)
    exact: Callable[..., Tensor] = _chunked
    first = (tensor[:1] if index in (0, 1, 3, 4) else tensor for index, tensor in enumerate(given))
    expected = exact(*(tensor.double() for tensor in first), True).cpu()
    floors = work(shape, batch, DTYPES[dtype].itemsize).floors_us(about)
    for what, call, ours in calls(kernels, given):
        if isinstance(call, str):
            yield Row(network, batch, dtype, what, ours, *floors, error=call)
            continue
        try:
            error = relative_l2(call()[:1].cpu(), expected)
            cold, warm, _ = timer.microseconds(call)
            yield Row(network, batch, dtype, what, ours, *floors, cold, warm, error)
        except (KernelError, RuntimeError) as problem:
            yield Row(network, batch, dtype, what, ours, *floors, error=f"{type(problem).__name__}: {problem}")


def measure(
    networks: list[str],
    batches: list[int],
    dtypes: list[str],
    kernels: KernelLibrary,
    about: Device,
    timer: Timer,
    device: str,
    file: Path | None,
) -> list[Row]:
    """All rows, each printed and written when it is there."""
    rows: list[Row] = []
    print(f"{'network':<22} {'B':>3} {'dtype':<5} {'what':<12} cold us   warm us     xexp   xbytes  rel-L2")
    for batch in batches:
        for dtype in dtypes:
            for network in networks:
                for row in rows_of(network, batch, dtype, kernels, about, timer, device):
                    rows.append(row)
                    _print(row)
                    if file is not None:
                        content = {"machine": asdict(about), "rows": [asdict(each) for each in rows]}
                        made = file.with_name(file.name + ".part")
                        made.write_text(json.dumps(content, indent=2) + "\n")
                        made.replace(file)
    return rows


def _print(row: Row) -> None:
    head = f"{row.network:<22} {row.batch:>3} {row.dtype:<5} {row.what:<12}"
    if row.cold_us is None or row.warm_us is None or row.rel_l2 is None:
        print(f"{head} {(row.error or '').splitlines()[0][:100]}", flush=True)
        return
    times = [row.cold_us / floor if floor else 0.0 for floor in (row.exponentials_floor_us, row.bytes_floor_us)]
    print(
        f"{head} {row.cold_us:>9.1f} {row.warm_us:>9.1f} {times[0]:>8.2f} {times[1]:>8.2f} {row.rel_l2:>8.1e}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="the plain scan on a GPU against its floors, mamba-ssm and PyTorch")
    parser.add_argument("--batches", default="1,16", help="default 1,16")
    parser.add_argument("--dtypes", default="fp16", help="of fp16 (default), fp32, bf16, with commas")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, after every row")
    arguments = parser.parse_args()
    batches, dtypes = arguments.batches.split(","), arguments.dtypes.split(",")
    if not all(b.isdigit() and int(b) for b in batches) or not set(dtypes) <= set(DTYPES):
        parser.error(
            f"--batches {arguments.batches} --dtypes {arguments.dtypes}: expected numbers, some of {[*DTYPES]}"
        )
    if not torch.cuda.is_available():
        print(f"no CUDA GPU that torch {torch.__version__} can use; this benchmark needs one", file=sys.stderr)
        return 2
    try:
        kernels = library()
    except KernelError as error:
        print(error, file=sys.stderr)
        return 2
    if kernels is None or not kernels.s6_tactics:
        print("no libvivim_kernels.so with a plain scan: run make plugins and set VIVIM_KERNELS", file=sys.stderr)
        return 2
    about = device_from(torch.cuda.get_device_properties(0), nvidia_smi, copy_bandwidth)
    timer = CudaTimer(about.l2_bytes)
    with torch.inference_mode():
        rows = measure([*NETWORKS], [*map(int, batches)], dtypes, kernels, about, timer, "cuda", arguments.json)
    failed = [row for row in rows if row.failed]
    for row in failed:
        print(f"{row.network}, {row.batch}, {row.dtype}, {row.what}: {row.error or row.rel_l2}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
