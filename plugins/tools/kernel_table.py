#!/usr/bin/env python3
"""What the compiler made of the kernels: registers, spills, shared memory, instructions of the inner loops.

    python plugins/tools/kernel_table.py [--architectures 87 110] [--nvcc PATH] [--nvdisasm PATH]

Registers and spills are ptxas' own; shared memory is that of rank 8 (B3 stage 1), fp16, from the layout of the kernels.
Instructions are counted in the disassembly of the innermost loop with exponentials and divided by the (channel, step,
state) triples that one turn of one thread covers. They are static counts, not timings. No GPU is needed, only nvcc,
and nvdisasm for the instructions.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from cuda_tools import find_tool

__all__ = ["ARCHITECTURES", "Kernel", "compile_cubin", "count_instructions"]

PLUGINS = Path(__file__).resolve().parents[1]
ARCHITECTURES = (75, 80, 86, 87, 89, 90, 100, 110, 120)
ANY_TYPE = "any"
_TYPES = {"6__half": "fp16", "13__nv_bfloat16": "bf16", "f": "fp32"}


@dataclass
class Kernel:
    """One kernel of a cubin."""

    symbol: str
    name: str  # stateSplit
    dtype: str  # fp16, bf16, fp32, any
    parameters: tuple[int, ...]  # integer template arguments
    registers: int
    spilled: int  # bytes of spill stores and loads
    stack: int  # bytes of local memory: arrays that are indexed where registers cannot be
    loop: int | None = None  # instructions of the innermost loop with exponentials
    triples: int | None = None  # (channel, step, state) that a turn of this loop covers, per thread
    mix: dict[str, int] = field(default_factory=dict)  # instructions of this loop by opcode

    @property
    def title(self) -> str:
        return f"{self.name}<{', '.join([self.dtype, *map(str, self.parameters)])}>"


_SCANS = ("stateSplit", "stateSplitEnds", "s6Scan", "s6Ends")


def compile_cubin(architecture: int, output: Path, nvcc: str = "nvcc") -> list[Kernel]:
    """Compile every kernel for one architecture (87 for sm_87) and return what ptxas says about each.

    Raises:
        RuntimeError: nvcc failed; the message is what it printed.
    """
    command = [nvcc, "-std=c++17", "-O3", "-cubin", f"-arch=sm_{architecture}", "-Xptxas", "-v"]
    command += ["-I", str(PLUGINS / "include"), "-o", str(output), str(PLUGINS / "kernels.cu")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc failed for sm_{architecture}:\n{done.stdout}{done.stderr}")
    pattern = (
        r"Compiling entry function '(\S+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads"
        r".*?Used (\d+) registers"
    )
    kernels = []
    for symbol, stack, stores, loads, registers in re.findall(pattern, done.stdout + done.stderr, re.DOTALL):
        name, dtype, integers = _demangle(symbol)
        kernels.append(Kernel(symbol, name, dtype, integers, int(registers), int(stores) + int(loads), int(stack)))
    return sorted(kernels, key=lambda k: (k.name, k.dtype, k.parameters))


def _demangle(symbol: str) -> tuple[str, str, tuple[int, ...]]:
    """_ZN5vivim10stateSplitI6__halfLi4ELi128EEEv... -> ("stateSplit", "fp16", (4, 128))."""
    match = re.match(r"_ZN5vivim(\d+)", symbol)
    if not match:
        raise RuntimeError(f"{symbol} is not a kernel of namespace vivim")
    end = match.end() + int(match[1])
    template = symbol[end:].split("EEEv")[0] + "E"
    # The plain scan's ask for the type while they run.
    dtype = next((name for code, name in _TYPES.items() if template.startswith("I" + code)), ANY_TYPE)
    return symbol[match.end() : end], dtype, tuple(int(i) for i in re.findall(r"Li(\d+)E", template))


def count_instructions(cubin: Path, kernels: list[Kernel], nvdisasm: str = "nvdisasm") -> None:
    """Fill in `loop`, `triples` and `mix` of the scan kernels from the disassembly of their cubin."""
    text = subprocess.run([nvdisasm, "-c", str(cubin)], capture_output=True, text=True, check=True).stdout
    sections = dict(re.findall(r"^\.text\.(\S+):\n(.*?)(?=^\t?//-----|^\.text\.|\Z)", text, re.MULTILINE | re.DOTALL))
    for kernel in kernels:
        # Which of the exponentials of a turn are not a triple of their own: time-split has one more, of the whole run.
        extra = {"timeSplit": 1}.get(kernel.name, 0 if kernel.name in _SCANS else None)
        body = _innermost_loop(sections.get(kernel.symbol, ""))
        if extra is None or not body:
            continue
        kernel.loop = len(body)
        kernel.triples = sum(opcode == "MUFU.EX2" for opcode in body) - extra
        kernel.mix = {name: sum(o.split(".")[0] == name for o in body) for name in {o.split(".")[0] for o in body}}


def _innermost_loop(section: str) -> list[str]:
    """Opcodes of the loop that scans: the one with most exponentials that has no loop inside and reads no global memory
    (the loop that folds the carries of length-split does)."""
    opcodes: list[str] = []
    labels: dict[str, int] = {}
    loops: list[tuple[int, int]] = []
    for line in section.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(opcodes)
        elif instruction := re.match(r"\s*/\*\w+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)(.*?);", line):
            opcodes.append(instruction[1])
            target = re.search(r"\((\.L_\w+)\)", instruction[2])
            if instruction[1].startswith("BRA") and target and target[1] in labels:
                loops.append((labels[target[1]], len(opcodes)))
    inner = [a for a in loops if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in loops)]
    bodies = [[o for o in opcodes[begin:end] if o != "NOP"] for begin, end in inner]
    bodies = [body for body in bodies if not any(o.startswith("LDG") for o in body)]
    return max(bodies, key=lambda body: sum(o == "MUFU.EX2" for o in body), default=[])


def _shared_bytes(kernel: Kernel, rank: int = 8, states: int = 16) -> int | None:
    """Dynamic shared memory of a scan kernel: the arithmetic of StateSplit::layout, TimeSplit::layout and S6Split."""
    element = 4 if kernel.dtype == "fp32" else 2
    padded, raw = (rank + 3) // 4 * 4, ((rank + 2 * states) * element + 15) // 16 * 16
    if kernel.name.startswith("stateSplit"):
        lanes, threads = kernel.parameters
        channels, tile = threads // lanes, 16
        floats = tile * channels * 3 + tile * (padded + 32) + padded * channels + 2 * tile
    elif kernel.name == "timeSplit":
        lanes, run, threads = kernel.parameters
        channels, tile = threads // lanes, lanes * run
        row = lanes * (run + 4) + 4
        floats = (2 * channels + 32) * row + tile * padded + padded * channels + 3 * channels * 16 + 2 * tile
    elif kernel.name.startswith("s6"):  # S6Split::kBytes, which knows neither rank nor type
        lanes, per_lane, threads = kernel.parameters
        held, tile = lanes * per_lane, 32 if lanes * per_lane <= 64 else 16
        pitch = 2 * held + (4 if per_lane % 4 == 0 else per_lane)
        return threads // lanes * (tile + 1) * 8 + tile * pitch * 4
    else:
        return None
    return 4 * floats + tile * channels * element + tile * raw


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=ARCHITECTURES, metavar="SM")
    parser.add_argument("--nvcc", default=find_tool("nvcc") or "nvcc")
    parser.add_argument("--nvdisasm", default=find_tool("nvdisasm"))
    parser.add_argument("--dtypes", nargs="+", default=["fp16", "fp32"], choices=list(_TYPES.values()))
    arguments = parser.parse_args()
    table: dict[str, dict[int, Kernel]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for architecture in arguments.architectures:
            cubin = Path(folder) / f"{architecture}.cubin"
            kernels = compile_cubin(architecture, cubin, arguments.nvcc)
            if arguments.nvdisasm:
                count_instructions(cubin, kernels, arguments.nvdisasm)
            for kernel in kernels:
                if kernel.dtype in (*arguments.dtypes, ANY_TYPE):
                    table.setdefault(kernel.title, {})[architecture] = kernel
    architectures = [f"sm_{a}" for a in arguments.architectures]
    _print_table(
        "Registers (bytes spilled, where any)",
        ["kernel", "shared, rank 8", *architectures],
        [
            [title, _kib(next(iter(row.values()))), *(_registers(k) for k in row.values())]
            for title, row in table.items()
        ],
    )
    if arguments.nvdisasm:
        _print_table(
            "Instructions of the inner loop per (channel, step, state)",
            ["kernel", *architectures],
            [
                [title, *(f"{k.loop / k.triples:.2f}" if k.loop and k.triples else "unrolled" for k in row.values())]
                for title, row in table.items()
                if any(k.loop for k in row.values())
            ],
        )


def _kib(kernel: Kernel) -> str:
    shared = _shared_bytes(kernel)
    return "" if shared is None else f"{shared / 1024:.1f} KiB"


def _registers(kernel: Kernel) -> str:
    return f"{kernel.registers} ({kernel.spilled})" if kernel.spilled else str(kernel.registers)


def _print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    print(f"\n{title}:\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))


if __name__ == "__main__":
    main()
