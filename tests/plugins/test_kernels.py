"""The CUDA kernels on the CPU: the sources that nvcc compiles, run by plugins/emulation against the float64 loop."""

from __future__ import annotations

import ctypes
import functools
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.plugins.kernel_library import LIBRARY_SOURCES, PLUGINS, build, compile_emulated
from vivim.scan.kernels import KernelLibrary, _ConvDesc, _ScanDesc
from vivim.scan.reference import causal_conv1d_reference, selective_scan_reference

# Relative L2 distance to float64 on the same rounded inputs. The state is float32: 6e-8 a rounding, forgotten with the
# decay, and dt from R + 10 roundings: measured 3e-7 at most. In 16 bits the output's own rounding is left: at
# most 2^-11 or 2^-8 of an element, in the root mean square 0.41 of that (uniform error, values uniform in their
# binade), and as much again for the buffers of the directions: 0.58 of 4.9e-4 and of 3.9e-3.
TOLERANCES = {torch.float32: 5e-7, torch.float16: 5e-4, torch.bfloat16: 4e-3}

TACTICS = [
    "state-split g4",
    "state-split g8",
    "state-split g16",
    "state-split g1",
    "length-split g2 x64",
    "length-split g1 x32",
    "length-split g4 x16",
    "length-split g4 x8",
    "time-split s8 k16",
    "time-split s16 k8",
]
ORDERS = {"forward": 0, "reverse": 1, "random": 2}


@dataclass(frozen=True)
class Case:
    """One scan. Sizes as in vivim.scan.operators; dt_bias and decay set how long states live."""

    rows: int = 5
    columns: int = 13
    batch: int = 1
    width: int = 24
    rank: int = 8
    states: int = 16
    directions: tuple[int, ...] = (0, 1, 2)
    dtype: torch.dtype = torch.float32
    gate: bool = True
    gate_width: int = 0  # 0: 2 * width
    mean: bool = True
    shared: bool = False
    decay: float = 20.0
    dt_bias: float = -2.0


CASES = {
    # Vivim's directions in every type; L = 185 is odd, 11 whole tiles of 16 and one of 9; time-split: 128 and 57
    "fp32": Case(columns=37, width=40),
    "fp16": Case(columns=37, width=40, dtype=torch.float16),
    "bf16": Case(columns=37, width=40, dtype=torch.bfloat16),
    # fewer channels than a block has; two of a batch
    "batch of 2": Case(batch=2, width=8),
    # one token; less than a tile; one frame; one column; 32 frames
    "one token": Case(rows=1, columns=1),
    "3 steps": Case(rows=3, columns=1, directions=(0, 3)),
    "T = 1": Case(rows=1, columns=50),
    "T = 32": Case(rows=32, columns=9, width=16, dtype=torch.float16),
    # VMamba's order of the directions; each alone; the same twice
    "VMamba": Case(directions=(0, 2, 1, 3)),
    "columns backward": Case(directions=(3,), dtype=torch.bfloat16),
    "rows backward": Case(directions=(1,)),
    "twice": Case(directions=(2, 2)),
    # no gate; one direction without a gate is written in place; a gate whose rows are not aligned to vectors
    "no gate": Case(gate=False),
    "no gate, one direction": Case(gate=False, directions=(2,), dtype=torch.float16),
    "odd gate width": Case(gate_width=49, dtype=torch.float16),
    "sum": Case(mean=False),
    "shared xc": Case(shared=True, batch=2),
    # rows of dbc in vectors of 4, 2 and 8 bytes, and of 16 that straddle the parts; more vectors than lanes
    "R = 3": Case(rank=3),
    "R = 3, fp16": Case(rank=3, dtype=torch.float16),
    "R = 6": Case(rank=6),
    "R = 20, fp16": Case(rank=20, dtype=torch.float16),
    "R = 12, fp16": Case(rank=12, dtype=torch.float16),
    "R = 63": Case(rank=63, dtype=torch.bfloat16, directions=(0,)),
    "R = 64": Case(rank=64, directions=(2,)),  # time-split needs more shared memory than there is
    "N = 8": Case(states=8),
    "N = 5": Case(states=5, rank=1, dtype=torch.float16),
    "N = 1": Case(states=1, rank=2),
    # exp(dt A) from 1 - 1e-7 to less than float32 has; dt of 1e-5 and 10
    "no decay": Case(decay=1e-6),
    "decays that underflow": Case(decay=1e6),
    "dt near 0": Case(dt_bias=-11.5),
    "dt near 10": Case(dt_bias=10.0),
}


@functools.cache
def library() -> KernelLibrary:
    return KernelLibrary(build())


def emulation() -> ctypes.CDLL:
    return library()._library


def scan_arguments(case: Case) -> list[Tensor | None]:
    """xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip; the data already rounded to its type."""
    g = torch.Generator().manual_seed(7)
    k, length = len(case.directions), case.rows * case.columns

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    data: list[Tensor | None] = [
        normal(1 if case.shared else k, case.batch, length, case.width),
        normal(k, case.batch, length, case.rank + 2 * case.states),
        normal(case.batch, length, case.gate_width or 2 * case.width) if case.gate else None,
    ]
    return [None if a is None else a.to(case.dtype) for a in data] + [
        -torch.rand(k, case.width, case.states, generator=g) * case.decay,
        normal(k, case.width, case.rank) * 0.5 * case.rank**-0.5,
        normal(k, case.width) * 0.3 + case.dt_bias,
        normal(k, case.width),
    ]


@functools.cache
def scan_reference(case: Case) -> Tensor:
    return selective_scan_reference(*scan_arguments(case), case.rows, list(case.directions), case.mean)


def scan(case: Case, tactic: str) -> Tensor:
    index = library().tactics.index(tactic)
    return library().selective_scan(*scan_arguments(case), case.rows, case.directions, case.mean, index)


def distance(value: Tensor, expected: Tensor) -> float:
    """Relative L2; nan where the value has one."""
    return float((value.double() - expected).norm() / expected.norm())


@pytest.fixture(autouse=True)
def default_emulation():
    """Every test starts from ascending threads and all barriers in place."""
    yield
    if library.cache_info().currsize:
        emulation().vivim_emulation_set_order(0, 1)
        emulation().vivim_emulation_remove_barrier(b"", 0, -1)
        emulation().vivim_emulation_set_shared_limit(0)


def test_tactics_are_known_by_name() -> None:
    assert list(library().tactics) == TACTICS
    assert emulation().vivim_scan_tactic_name(len(TACTICS)) is None
    assert emulation().vivim_scan_tactic_name(-1) is None


@pytest.mark.parametrize("name", CASES)
def test_every_tactic_equals_the_float64_loop(name: str) -> None:
    case = CASES[name]
    worst = {tactic: distance(scan(case, tactic), scan_reference(case)) for tactic in TACTICS}
    bad = {tactic: value for tactic, value in worst.items() if not value <= TOLERANCES[case.dtype]}
    assert not bad


@pytest.mark.slow
def test_a_whole_clip_of_stage_1_keeps_its_precision() -> None:
    """B3 at 5 x 256 x 256: 20480 steps, of which the slowest states forget nothing; some channels of 128."""
    case = Case(columns=4096, width=16, directions=(0, 1, 2))
    worst = {tactic: distance(scan(case, tactic), scan_reference(case)) for tactic in TACTICS}
    # The same 5e-7: additions to a long-lived state round at random, so their errors grow as its sum does.
    assert not {tactic: value for tactic, value in worst.items() if not value <= TOLERANCES[case.dtype]}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_default_tactic_equals_the_float64_loop(dtype: torch.dtype) -> None:
    case = replace(CASES["VMamba"], dtype=dtype, rank=4)
    value = library().selective_scan(*scan_arguments(case), case.rows, case.directions, case.mean)
    assert distance(value, scan_reference(case)) <= TOLERANCES[dtype]


def test_time_split_runs_where_shared_memory_is_short() -> None:
    """sm_75 has 64 KiB: the tile does not fit, and another kernel computes the same."""
    emulation().vivim_emulation_set_shared_limit(48 << 10)
    case = CASES["fp16"]
    assert distance(scan(case, "time-split s8 k16"), scan_reference(case)) <= TOLERANCES[case.dtype]
    assert scan(case, "time-split s8 k16").equal(scan(case, "state-split g4"))


# (rows, columns, batch, width, x_width, directions): as above, and rows of x that are not aligned to pairs
CONVOLUTIONS = {
    "Vivim": (5, 37, 1, 40, 80, (0, 1, 2)),
    "VMamba": (5, 13, 2, 8, 16, (0, 2, 1, 3)),
    "one token": (1, 1, 1, 8, 8, (0, 1, 2, 3)),
    "shorter than the taps": (3, 1, 1, 8, 8, (0, 1, 2, 3)),
    "T = 32": (32, 9, 1, 72, 144, (3,)),
    "T = 1": (1, 70, 1, 8, 8, (1, 2)),
    "odd rows of x": (5, 13, 1, 24, 49, (2, 1)),
}


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_equals_the_float64_loop(name: str, dtype: torch.dtype) -> None:
    rows, columns, batch, width, x_width, directions = CONVOLUTIONS[name]
    g = torch.Generator().manual_seed(3)
    x = torch.randn(batch, rows * columns, x_width, generator=g).to(dtype)
    weight = torch.randn(len(directions), width, 4, generator=g) * 0.5
    bias = torch.randn(len(directions), width, generator=g) * 0.1
    expected = causal_conv1d_reference(x, weight, bias, rows, list(directions))
    for order in ORDERS.values():
        emulation().vivim_emulation_set_order(order, 1)
        value = library().causal_conv1d(x, weight, bias, rows, directions)
        assert distance(value, expected) <= TOLERANCES[dtype]


@pytest.mark.parametrize("tactic", TACTICS)
def test_results_do_not_depend_on_the_order_of_threads(tactic: str) -> None:
    """Bitwise: no atomics, no race. 300 steps: several tiles, the last one ragged."""
    case = Case(columns=60, width=16, directions=(0, 2))
    results = []
    for order, seed, threads in [(0, 1, 1), (1, 1, 2), (2, 1, 1), (2, 2, 2), (2, 3, 2)]:
        emulation().vivim_emulation_set_order(order, seed)
        emulation().vivim_emulation_set_threads(threads)
        results.append(scan(case, tactic))
    emulation().vivim_emulation_set_threads(0)
    assert all(result.equal(results[0]) for result in results)


# ---- mutation: every barrier is needed ----

MUTATED = [  # tactic, launch: each kernel that has barriers
    ("state-split g4", 0),
    ("length-split g2 x64", 0),
    ("length-split g2 x64", 1),
    ("length-split g4 x8", 0),
    ("length-split g4 x8", 1),
    ("time-split s8 k16", 0),
    ("time-split s16 k8", 0),
]
# 1290 steps: several tiles in each of 64 chunks too
MUTATION_CASE = Case(columns=258, width=16, directions=(0, 2))


def barriers(tactic: str) -> list[tuple[str, int]]:
    """File and line of each barrier and each wait for copies in the sources of a tactic."""
    scan_file = "scan_time_split.cuh" if tactic.startswith("time") else "scan_state_split.cuh"
    return [
        (file, number)
        for file in (scan_file, "common.cuh")
        for number, line in enumerate((PLUGINS / "kernels" / file).read_text().splitlines(), 1)
        if re.match(r"\s*(__sync(threads|warp)|emulation::finishCopies)\(", line)
    ]


@pytest.mark.parametrize(("tactic", "launch"), MUTATED)
def test_every_barrier_is_needed(tactic: str, launch: int) -> None:
    """Removed in this kernel alone, it must show in the result, or as a deadlock, for at least one order of threads."""
    found = barriers(tactic)
    assert len(found) == 5  # four barriers and one wait
    missed = []
    for file, line in found:
        caught = False
        for order in ORDERS.values():
            emulation().vivim_emulation_set_order(order, 5)
            emulation().vivim_emulation_remove_barrier(file.encode(), line, launch)
            try:
                value = distance(scan(MUTATION_CASE, tactic), scan_reference(MUTATION_CASE))
            except Exception as error:
                assert "deadlock" in str(error)
                value = float("nan")
            assert emulation().vivim_emulation_barrier_was_reached()
            caught = caught or not value <= TOLERANCES[torch.float32]
        if not caught:
            missed.append((file, line))
    assert not missed


def test_a_barrier_that_some_threads_miss_is_reported(tmp_path: Path) -> None:
    source = tmp_path / "diverge.cpp"
    source.write_text(
        '#include "kernels/launch.cuh"\n#include <cstdio>\n'
        "static void diverge(int) { if (threadIdx.x < 40) __syncthreads(); }\n"
        "int main() { std::puts(vivim::launch(&diverge, dim3(2), 64, 0, nullptr, 0).c_str()); }\n"
    )
    program = compile_emulated("diverge", [source], ["-O1"])
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert re.match(r"deadlock in block \([01], 0, 0\): not all threads reached", done.stdout)


# ---- wrong arguments ----

OK, BAD_ARGUMENT, BAD_WORKSPACE = 0, 1, 2
SCAN_POINTERS = ["xc", "dbc", "xz", "A_log2e", "dt_weight", "dt_bias", "d_skip", "y", "workspace"]
CONV_POINTERS = ["x", "weight", "bias", "xc"]


def named(value: object) -> str:
    """A name for a row of a table that is the same in every worker: an array would have its address in it."""
    return re.sub(r"<[^>]* object at [^>]*>", "array", str(value))


def directions(*codes: int) -> ctypes.Array[ctypes.c_int32]:
    return (ctypes.c_int32 * 4)(*codes)


def changed_call(
    function: str, desc: ctypes.Structure, pointers: Sequence[str], odd: int, changes: Mapping[str, object]
) -> tuple[int, str]:
    """A good call with some of its fields, pointers or numbers replaced: status and message.

    Args:
        odd: bytes off alignment, for pointers that are to be "odd".
    """
    memory = torch.zeros(1 << 16, dtype=torch.uint8)
    base = memory.data_ptr() + -memory.data_ptr() % 16
    values: dict[str, object] = dict.fromkeys(pointers, base) | {"tactic": 0, "workspace_bytes": 1 << 15}
    for name, value in changes.items():
        if name in values:
            values[name] = base + odd if value == "odd" else value
        else:
            setattr(desc, name, value)
    status = getattr(emulation(), function)(
        None if changes.get("desc", desc) is None else ctypes.byref(desc),
        values["tactic"],
        *(ctypes.c_void_p(values[name]) for name in pointers),
        ctypes.c_size_t(values["workspace_bytes"]),
        None,
    )
    return status, emulation().vivim_kernels_error().decode()


def call_scan(**changes: object) -> tuple[int, str]:
    desc = _ScanDesc(1, 20, 8, 5, 4, 16, 2, directions(0, 2), 0, 1, 16, 0)
    return changed_call("vivim_selective_scan", desc, SCAN_POINTERS, 8, changes)


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"batch": 0}, BAD_ARGUMENT, "batch is 0"),
        ({"batch": 1 << 20}, BAD_ARGUMENT, "batch is 1048576"),
        ({"length": 0}, BAD_ARGUMENT, "length is 0"),
        ({"rows": 0}, BAD_ARGUMENT, "rows is 0"),
        ({"rows": 7, "length": 20480}, BAD_ARGUMENT, "rows is 7, which does not divide length 20480"),
        ({"width": 12}, BAD_ARGUMENT, "width is 12; it must be a multiple of 8"),
        ({"rank": 0}, BAD_ARGUMENT, "rank is 0"),
        ({"rank": 65}, BAD_ARGUMENT, "rank is 65; it must be 1 to 64"),
        ({"states": 17}, BAD_ARGUMENT, "states is 17; it must be 1 to 16"),
        ({"direction_count": 5}, BAD_ARGUMENT, "direction_count is 5"),
        ({"directions": directions(0, 4)}, BAD_ARGUMENT, r"directions\[1\] is 4; it must be 0 to 3"),
        ({"shared_input": 2}, BAD_ARGUMENT, "shared_input is 2"),
        ({"mean": -1}, BAD_ARGUMENT, "mean is -1"),
        ({"gate_width": 7}, BAD_ARGUMENT, "gate_width is 7"),
        ({"gate_width": 0}, BAD_ARGUMENT, "xz is given, but gate_width is 0"),
        ({"dtype": 9}, BAD_ARGUMENT, "dtype is 9"),
        ({"tactic": 99}, BAD_ARGUMENT, "tactic is 99"),
        ({"tactic": -1}, BAD_ARGUMENT, "tactic is -1"),
        ({"desc": None}, BAD_ARGUMENT, "desc is null"),
        *(({name: None}, BAD_ARGUMENT, f"{name} is null") for name in SCAN_POINTERS[:-1]),
        *(({name: "odd"}, BAD_ARGUMENT, f"{name} is not aligned") for name in SCAN_POINTERS[:-1]),
        ({"workspace": None}, BAD_WORKSPACE, r"workspace is null; \d+ bytes are needed"),
        ({"workspace": "odd"}, BAD_WORKSPACE, "workspace is not aligned"),
        ({"workspace_bytes": 1}, BAD_WORKSPACE, r"workspace_bytes is 1; \d+ bytes are needed"),
    ],
    ids=named,
)
def test_wrong_arguments_of_the_scan_are_named(changes: dict[str, object], status: int, message: str) -> None:
    assert call_scan()[0] == OK
    found = call_scan(**changes)
    assert found[0] == status
    assert re.match(message, found[1])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 12, "width is 12"),
        # 4 directions of 16384 blocks of 32 channels would be one block more than a grid has.
        ("width", 1 << 19, "width is 524288; it must be a multiple of 8, 8 to 524256"),
        ("x_width", 15, "x_width is 15; it must be at least width, 16"),
        ("rows", 3, "rows is 3, which does not divide length 20"),
        ("directions", directions(-1), r"directions\[0\] is -1"),
        ("direction_count", 0, "direction_count is 0"),
        ("dtype", -1, "dtype is -1"),
        *((name, None, f"{name} is null") for name in CONV_POINTERS),
    ],
    ids=named,
)
def test_wrong_arguments_of_the_convolution_are_named(field: str, value: object, message: str) -> None:
    desc = _ConvDesc(1, 20, 16, 5, 32, 1, directions(0), 0)
    memory = torch.zeros(1 << 14, dtype=torch.uint8)
    pointers = dict.fromkeys(CONV_POINTERS, memory.data_ptr() + -memory.data_ptr() % 16)
    run = lambda: emulation().vivim_causal_conv1d(  # noqa: E731
        ctypes.byref(desc), *map(ctypes.c_void_p, pointers.values()), None
    )
    assert run() == OK
    if field in pointers:
        pointers[field] = value
    else:
        setattr(desc, field, value)
    assert run() == BAD_ARGUMENT
    assert re.match(message, emulation().vivim_kernels_error().decode())


def test_workspace_and_default_tactic_of_a_wrong_description_say_why() -> None:
    desc = _ScanDesc(1, 20, 8, 5, 4, 17, 2, directions(0, 2), 0, 1, 16, 0)
    assert emulation().vivim_scan_workspace(ctypes.byref(desc), 0) == 0
    assert "states is 17" in emulation().vivim_kernels_error().decode()
    assert emulation().vivim_scan_default_tactic(ctypes.byref(desc)) < 0
    desc.states = 16
    assert emulation().vivim_scan_workspace(ctypes.byref(desc), len(TACTICS)) == 0
    assert f"tactic is {len(TACTICS)}" in emulation().vivim_kernels_error().decode()


def test_workspace_of_tactic_minus_1_is_enough_for_all() -> None:
    desc = _ScanDesc(1, 20480, 128, 5, 8, 16, 3, directions(0, 1, 2), 0, 1, 256, 1)
    sizes = [emulation().vivim_scan_workspace(ctypes.byref(desc), t) for t in range(-1, len(TACTICS))]
    assert sizes[0] == max(sizes[1:])
    assert min(sizes) >= 3 * 20480 * 128 * 2  # the directions' own buffers
    desc.direction_count, desc.gate_width = 1, 0
    # One direction without a gate writes y itself; never 0, which would say that the description is wrong.
    assert 0 < emulation().vivim_scan_workspace(ctypes.byref(desc), 0) < 20480


def test_workspace_for_the_longest_clip_holds_every_shorter_one() -> None:
    """TensorRT allocates for the largest shape of a profile alone; chunks of a longer clip can be fewer."""
    desc = _ScanDesc(1, 5, 8, 5, 8, 16, 3, directions(0, 1, 2), 0, 1, 16, 1)
    before = 0
    for desc.length in range(5, 2600, 5):
        size = emulation().vivim_scan_workspace(ctypes.byref(desc), -1)
        assert size >= before, desc.length
        before = size


@pytest.mark.parametrize(
    ("length", "width", "tactic"),
    # B3, 5 x 256 x 256: long and narrow to short and wide; and a batch of 32
    [(20480, 128, "length-split"), (5120, 256, "length-split"), (1280, 640, "state-split"), (320, 1024, "state-split")],
)
def test_default_tactic_splits_what_has_few_channels(length: int, width: int, tactic: str) -> None:
    desc = _ScanDesc(1, length, width, 5, 8, 16, 3, directions(0, 1, 2), 0, 1, 2 * width, 1)
    assert library().tactics[emulation().vivim_scan_default_tactic(ctypes.byref(desc))].startswith(tactic)
    desc.batch = 64
    assert library().tactics[emulation().vivim_scan_default_tactic(ctypes.byref(desc))].startswith("state-split")


# ---- sanitizers ----


def test_address_and_undefined_behaviour_sanitizers_find_nothing() -> None:
    """A C++ program (sanitized.cpp) with exactly sized buffers, through every tactic, type and odd shape."""
    options = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = [*LIBRARY_SOURCES, Path(__file__).with_name("sanitized.cpp")]
    program = compile_emulated("sanitized", sources, options)
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "runs without a finding" in done.stdout
    for what in ("overrun", "overrun state", "overread state", "overread plain"):
        overrun = subprocess.run([program, what], capture_output=True, text=True, timeout=300)
        assert "heap-buffer-overflow" in overrun.stderr, what  # they do watch inside kernels
