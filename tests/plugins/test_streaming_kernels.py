"""The CUDA kernels with a state, emulated: against the float64 loop, over pieces, and what they refuse."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.plugins.kernel_library import build_mutants
from tests.plugins.test_kernels import (
    ORDERS,
    TACTICS,
    TOLERANCES,
    Case,
    default_emulation,  # noqa: F401  (a fixture: every test starts from ascending threads)
    distance,
    emulation,
    library,
    scan_arguments,
)
from vivim.scan.kernels import KernelLibrary, _ScanDesc
from vivim.scan.reference import causal_conv1d_reference, streaming_scan_reference

CASES = {
    # one frame as a streaming network has it, in every type; L = 185: whole tiles and a ragged one
    "fp32": Case(rows=5, columns=37, width=40),
    "fp16": Case(rows=5, columns=37, width=40, dtype=torch.float16),
    "bf16": Case(rows=5, columns=37, width=40, dtype=torch.bfloat16),
    "one token": Case(rows=1, columns=1, batch=2),
    "several chunks": Case(rows=20, columns=20, width=16, directions=(0, 1)),
    # long memory: what comes in is still there at the end
    "no decay": Case(decay=1e-6, directions=(0, 2)),
    "N = 5": Case(states=5, rank=1, batch=2),
    "one direction, no gate": Case(directions=(0,), gate=False, width=16),
    "shared xc": Case(shared=True, batch=2),
}


def initial_of(case: Case) -> Tensor:
    return torch.randn(case.batch, case.states, case.width, generator=torch.Generator().manual_seed(5))


def check(case: Case, tactic: int) -> list[str]:
    """What is wrong with one tactic: y in its data type, the state in float32 whatever that is."""
    arguments, initial = scan_arguments(case), initial_of(case)
    expected = streaming_scan_reference(*arguments, initial, case.rows, list(case.directions), case.mean)
    y, final = library().streaming_scan(*arguments, initial, case.rows, case.directions, case.mean, tactic)
    assert final.dtype == torch.float32
    wrong = []
    if not distance(y, expected[0]) <= TOLERANCES[case.dtype]:
        wrong.append(f"{TACTICS[tactic]}: y {distance(y, expected[0]):.1e}")
    if not distance(final, expected[1]) <= TOLERANCES[torch.float32]:
        wrong.append(f"{TACTICS[tactic]}: state {distance(final, expected[1]):.1e}")
    return wrong


@pytest.mark.parametrize("name", CASES)
def test_every_tactic_starts_from_a_state_and_gives_the_last_one(name: str) -> None:
    assert [line for tactic in range(len(TACTICS)) for line in check(CASES[name], tactic)] == []


def test_a_state_may_lie_in_memory_in_any_order() -> None:
    case = CASES["fp32"]
    initial = initial_of(case)
    turned = initial.mT.contiguous().mT  # the same numbers, channels outside
    run = (case.rows, case.directions, case.mean)
    expected, found = (library().streaming_scan(*scan_arguments(case), state, *run) for state in (initial, turned))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("tactic", range(len(TACTICS)), ids=TACTICS)
def test_state_does_not_depend_on_the_order_of_threads(tactic: int) -> None:
    """Bitwise: nobody reads what another thread writes. 400 steps: several tiles and chunks."""
    case = CASES["several chunks"]
    found = []
    for order, seed, threads in [(0, 1, 1), (1, 1, 2), (2, 2, 2)]:
        emulation().vivim_emulation_set_order(order, seed)
        emulation().vivim_emulation_set_threads(threads)
        found.append(
            library().streaming_scan(
                *scan_arguments(case), initial_of(case), case.rows, case.directions, case.mean, tactic
            )
        )
    emulation().vivim_emulation_set_threads(0)
    assert all(torch.equal(a, b) for pair in found[1:] for a, b in zip(pair, found[0], strict=True))


@pytest.mark.parametrize("tactic", ["state-split g4", "length-split g4 x8", "time-split s8 k16"])
def test_frame_after_frame_equals_one_sequence(tactic: str) -> None:
    case = Case(rows=4, columns=16, directions=(0,))  # frames of 16 tokens
    whole, index = scan_arguments(case), TACTICS.index(tactic)
    expected = streaming_scan_reference(*whole, None, case.rows, [0], True)[0]
    h, parts = torch.zeros(1, 16, case.width), []
    for t in range(4):
        tokens = slice(16 * t, 16 * t + 16)
        piece = [whole[0][:, :, tokens], whole[1][:, :, tokens], whole[2][:, tokens], *whole[3:]]
        y, h = library().streaming_scan(*piece, h, 1, [0], True, index)
        parts.append(y)
    assert distance(torch.cat(parts, 1), expected) <= TOLERANCES[torch.float32]


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("length", "rows", "x_width"), [(35, 5, 48), (1, 1, 48), (2, 1, 49), (70, 10, 49)], ids=str)
def test_convolution_goes_on_from_its_tail(length: int, rows: int, x_width: int, dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(3)
    x, tail = (torch.randn(*s, generator=g).to(dtype) for s in ((2, length, x_width), (2, 3, 24)))
    weight, bias = torch.randn(3, 24, 4, generator=g) * 0.5, torch.randn(3, 24, generator=g) * 0.1
    expected = causal_conv1d_reference(x, weight, bias, rows, [0, 1, 2], tail)
    for order in ORDERS.values():
        emulation().vivim_emulation_set_order(order, 1)
        value = library().streaming_conv1d(x, tail, weight, bias, rows, [0, 1, 2])
        assert distance(value, expected) <= TOLERANCES[dtype]


def test_without_a_state_the_bits_are_those_of_the_scan_without_one() -> None:
    case = CASES["several chunks"]
    zeros = torch.zeros_like(initial_of(case))
    for tactic in range(len(TACTICS)):
        y, _ = library().streaming_scan(*scan_arguments(case), zeros, case.rows, case.directions, case.mean, tactic)
        plain = library().selective_scan(*scan_arguments(case), case.rows, case.directions, case.mean, tactic)
        assert torch.equal(y, plain)


def test_states_that_share_memory_or_are_missing_are_refused() -> None:
    desc = _ScanDesc(1, 20, 8, 5, 4, 16, 2, (ctypes.c_int32 * 4)(0, 2), 0, 1, 16, 0)
    memory = torch.zeros(1 << 16, dtype=torch.uint8)
    base = memory.data_ptr() + -memory.data_ptr() % 16

    def call(initial: int | None, final: int | None) -> tuple[int, str]:
        # xc to d_skip, initial, y, final, workspace: a state is 16 * 8 * 4 = 512 bytes
        places = [*[base] * 7, initial, base + 4096, final, base + 8192]
        pointers = map(ctypes.c_void_p, places)
        run = emulation().vivim_streaming_scan
        status = run(ctypes.byref(desc), 0, *pointers, ctypes.c_size_t(1 << 15), None)
        return status, emulation().vivim_kernels_error().decode()

    assert call(base + 1024, base + 1024 + 512)[0] == 0
    assert call(None, base + 1024)[0] == 0  # a film's first frame needs no zeros
    for initial, final, message in (
        (base + 1024, base + 1024, "final shares memory with initial"),
        (base + 1024, base + 1024 + 496, "final shares memory with initial"),
        (base + 1024, None, "final is null"),
        (base + 1028, base + 2048, "initial is not aligned"),
    ):
        status, said = call(initial, final)
        assert status == 1 and message in said


# File of plugins/kernels, an expression there, and what it is in a mutant.
MUTANTS = {
    "comes into every direction": (
        "scan_state_split.cuh",
        "kOutput && a.initial && k == 0 && state < a.states",
        "kOutput && a.initial && state < a.states",
    ),
    "comes into the first pass, too": (
        "scan_state_split.cuh",
        "kOutput && a.initial && k == 0 && state < a.states",
        "a.initial && k == 0 && state < a.states",
    ),
    "of the first film comes into all": (
        "scan_state_split.cuh",
        "a.initial[(size_t(b) * a.states + state) * a.width + scanned]",
        "a.initial[size_t(state) * a.width + scanned]",
    ),
    "every direction writes": (
        "scan_state_split.cuh",
        "k == 0 && int(blockIdx.y) == a.chunks - 1 && scanned < a.width",
        "int(blockIdx.y) == a.chunks - 1 && scanned < a.width",
    ),
    "the first chunk writes": (
        "scan_state_split.cuh",
        "k == 0 && int(blockIdx.y) == a.chunks - 1 && scanned < a.width",
        "k == 0 && int(blockIdx.y) == 0 && scanned < a.width",
    ),
    "comes into every direction, time-split": (
        "scan_time_split.cuh",
        "real && a.initial && k == 0",
        "real && a.initial",
    ),
    "every direction writes, time-split": (
        "scan_time_split.cuh",
        "a.final && k == 0 && firstChannel + scanChannel < a.width",
        "a.final && firstChannel + scanChannel < a.width",
    ),
    "the tail comes into every direction": (
        "causal_conv1d.cuh",
        "step < 0 && k == 0 && a.tail",
        "step < 0 && a.tail",
    ),
    "the tail comes in backwards": (
        "causal_conv1d.cuh",
        "size_t(blockIdx.z) * (kTaps - 1) + kTaps - 1 + step",
        "size_t(blockIdx.z) * (kTaps - 1) - 1 - step",
    ),
}


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    return KernelLibrary(build_mutants(tmp_path_factory.mktemp("mutants"), MUTANTS.values()))


@pytest.mark.slow
def test_state_code_cannot_be_changed_unnoticed(mutants: KernelLibrary) -> None:
    case = replace(CASES["several chunks"], batch=2)
    arguments, initial, run = scan_arguments(case), initial_of(case), (case.rows, case.directions, case.mean)
    expected = streaming_scan_reference(*arguments, initial, case.rows, list(case.directions), case.mean)
    g = torch.Generator().manual_seed(3)
    conv = [torch.randn(*s, generator=g) for s in ((2, 20, 16), (2, 3, 8), (2, 8, 4), (2, 8))]
    conved = causal_conv1d_reference(conv[0], conv[2], conv[3], 4, [0, 1], conv[1])

    def wrong() -> bool:
        found = [(mutants.streaming_conv1d(*conv, 4, [0, 1]), conved)]
        for tactic in ("state-split g4", "length-split g4 x8", "time-split s8 k16"):
            found += zip(
                mutants.streaming_scan(*arguments, initial, *run, TACTICS.index(tactic)), expected, strict=True
            )
        return any(not distance(value, right) <= TOLERANCES[torch.float32] for value, right in found)

    which = ctypes.c_int.in_dll(mutants._library, "vivim_mutant")
    assert not wrong()
    unnoticed = []
    for number, name in enumerate(MUTANTS, 1):
        which.value = number
        if not wrong():
            unnoticed.append(name)
    assert unnoticed == []


@pytest.mark.slow
def test_a_whole_frame_of_stage_1_keeps_its_precision() -> None:
    """b3 at 256 x 256: 4096 steps a frame, states that forget nothing come in and go out."""
    case = replace(CASES["fp32"], rows=64, columns=64, width=16, directions=(0, 1, 2))
    assert [line for tactic in range(len(TACTICS)) for line in check(case, tactic)] == []
