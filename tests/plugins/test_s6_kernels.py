"""The CUDA kernels of the plain scan, emulated: against the float64 loop, over types, sizes and orders of threads."""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.plugins.kernel_library import PLUGINS, build, build_mutants
from tests.plugins.test_kernels import (
    BAD_ARGUMENT,
    BAD_WORKSPACE,
    OK,
    ORDERS,
    TOLERANCES,
    changed_call,
    default_emulation,  # noqa: F401  (a fixture: every test starts from ascending threads)
    distance,
    emulation,
    library,
    named,
)
from tests.vivim.scan.test_s6 import s6_arguments
from vivim.scan import s6
from vivim.scan.kernels import KernelLibrary, _S6Desc
from vivim.scan.s6 import s6_scan_reference

TACTICS = ["lanes 4", "lanes 4 x4", "lanes 4 x16", "lanes 4 x64", "lanes 1", "lanes 1 x16"]


@dataclass(frozen=True)
class Case:
    """One plain scan; sizes as in vivim.scan.s6."""

    batch: int = 1
    groups: int = 1
    inner: int = 5  # channels of a group: E
    states: int = 16
    length: int = 70
    dtype: torch.dtype = torch.float32
    softplus: bool = True
    skip: bool = True
    bias: bool = True
    decay: float = 1.0  # times what s6_arguments has
    time: float = 0.0  # added to delta


CASES = {
    # every type; more channels than a block has, whole tiles and a ragged one, an odd length: rows begin anywhere
    "fp32": Case(inner=37, length=131),
    "fp16": Case(inner=37, length=131, dtype=torch.float16),
    "bf16": Case(inner=37, length=131, dtype=torch.bfloat16),
    # N of every kernel: the first and the last that each takes
    "N = 1": Case(states=1, inner=70, length=97),
    "N = 2": Case(states=2, inner=33),
    "N = 3": Case(states=3, groups=2),
    "N = 8": Case(states=8, inner=33, length=98, dtype=torch.float16),
    "N = 9": Case(states=9),
    "N = 17": Case(states=17, groups=2, inner=9),
    "N = 64": Case(states=64, inner=9, dtype=torch.bfloat16),
    "N = 65": Case(states=65, inner=9),
    "N = 256": Case(states=256, inner=3, length=40, dtype=torch.float16),
    # one step; less than a tile; a whole tile; one more
    "one step": Case(length=1, batch=3, groups=4),
    "3 steps": Case(length=3, states=1),
    "32 steps": Case(length=32),
    "33 steps": Case(length=33),
    # VMamba's four groups of a batch; one channel a group
    "four groups": Case(batch=2, groups=4, inner=6, states=1, length=49),
    "one channel a group": Case(batch=2, groups=3, inner=1),
    # what may be absent, and time steps as they are
    "no skip": Case(skip=False),
    "no bias": Case(bias=False),
    "neither, no softplus": Case(skip=False, bias=False, softplus=False, groups=2, dtype=torch.float16),
    "no softplus": Case(softplus=False),
    # exp(dt A) from 1 to less than float32 has; dt of 1e-5 and of 20
    "no decay": Case(decay=1e-8),
    "decays that underflow": Case(decay=1e6),
    "dt near 0": Case(time=-9.0),
    "dt near 20": Case(time=23.0),
}


# Two pictures and groups, two blocks of channels a group, four chunks of a tile; slow states, which live through them.
MUTATED = Case(batch=2, groups=2, inner=35, states=3, length=100, decay=1e-2)


def arguments_of(case: Case) -> list[Tensor | None]:
    """u, delta, A, B, C, skip, bias; the data already rounded to its type."""
    u, delta, A, B, C, skip, bias = s6_arguments((case.batch, case.groups, case.inner, case.states, case.length))
    delta, A = delta + case.time, A * case.decay
    if not case.softplus:
        delta, bias = delta.abs() * 0.1, bias.abs() * 0.01  # below zero the state would grow
    data = (t.to(case.dtype) for t in (u, delta, B, C))
    u, delta, B, C = data
    return [u, delta, A.float(), B, C, skip.float() if case.skip else None, bias.float() if case.bias else None]


def far_off(case: Case, arguments: list[Tensor | None], expected: Tensor, tactics: list[str]) -> list[str]:
    """What is wrong with each of the tactics."""
    wrong = []
    for tactic in tactics:
        value = library().s6_scan(*arguments, case.softplus, TACTICS.index(tactic))
        if value.dtype != case.dtype or not distance(value, expected) <= TOLERANCES[case.dtype]:
            wrong.append(f"{tactic}: {distance(value, expected):.1e}")
    return wrong


def test_tactics_are_known_by_name() -> None:
    assert list(library().s6_tactics) == TACTICS
    assert emulation().vivim_s6_tactic_name(len(TACTICS)) is None
    assert emulation().vivim_s6_tactic_name(-1) is None


@pytest.mark.parametrize("name", CASES)
def test_every_tactic_equals_the_float64_loop(name: str) -> None:
    case = CASES[name]
    arguments = arguments_of(case)
    assert far_off(case, arguments, s6_scan_reference(*arguments, case.softplus), TACTICS) == []


def test_every_chunk_of_a_long_sequence_goes_on_from_those_before() -> None:
    """1500 steps: 12 chunks of 128 steps and 47 of 32; slow states live through many of them."""
    case = Case(inner=3, states=4, length=1500, decay=1e-3)
    arguments = arguments_of(case)
    assert far_off(case, arguments, s6_scan_reference(*arguments, True), TACTICS) == []


def test_the_library_chooses_by_itself_and_memory_may_begin_at_any_element() -> None:
    case = Case(batch=2, groups=2, inner=9, length=45, dtype=torch.float16)
    arguments = arguments_of(case)
    expected = s6_scan_reference(*arguments, True)
    shifted = []
    for tensor in arguments:
        room = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
        room[1:] = tensor.flatten()
        shifted.append(room[1:].view(tensor.shape))
    assert distance(library().s6_scan(*shifted, True), expected) <= TOLERANCES[case.dtype]
    turned = [shifted[0].mT.contiguous().mT, *shifted[1:]]  # the same numbers, channels innermost
    assert library().s6_scan(*turned, True).equal(library().s6_scan(*shifted, True))


@pytest.mark.parametrize("tactic", TACTICS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
@pytest.mark.parametrize("index", [0, 1, 3], ids=["u", "delta", "B"])
def test_what_is_not_finite_goes_where_it_goes_in_the_loop(index: int, value: float, tactic: str) -> None:
    """From its step on and in its channels, and nowhere else: neither padding nor a neighbour hides or spreads it."""
    case = Case(groups=2, inner=3, states=3, length=70)
    arguments = arguments_of(case)
    arguments[index].view(1, -1, 70)[0, 1, 40] = value
    expected = s6_scan_reference(*arguments, True)
    found = library().s6_scan(*arguments, True, TACTICS.index(tactic))
    good = expected.isfinite()
    assert not good.all() and good.any()
    assert found.isfinite().equal(good)
    assert distance(found[good], expected[good]) <= TOLERANCES[torch.float32]


@pytest.mark.parametrize("tactic", TACTICS)
def test_results_do_not_depend_on_the_order_of_threads(tactic: str) -> None:
    """Bitwise: no atomics, no race. 300 steps: several tiles, the last one ragged."""
    case = Case(groups=2, inner=9, length=300)
    results = []
    for order, seed, threads in [(0, 1, 1), (1, 1, 2), (2, 1, 1), (2, 2, 2)]:
        emulation().vivim_emulation_set_order(order, seed)
        emulation().vivim_emulation_set_threads(threads)
        results.append(library().s6_scan(*arguments_of(case), True, TACTICS.index(tactic)))
    emulation().vivim_emulation_set_threads(0)
    assert all(result.equal(results[0]) for result in results)


# ---- mutation: every barrier is needed ----


@pytest.mark.parametrize(
    ("states", "tactic", "launch"),
    [(16, "lanes 4", 0), (16, "lanes 4 x4", 0), (16, "lanes 4 x4", 1), (1, "lanes 1", 0), (40, "lanes 4", 0)],
)
def test_every_barrier_is_needed(states: int, tactic: str, launch: int) -> None:
    """Removed in this kernel alone, it must show in the result for at least one order of threads."""
    case = Case(states=states, inner=9, length=330)
    arguments = arguments_of(case)
    expected = s6_scan_reference(*arguments, True)
    lines = (PLUGINS / "kernels" / "s6_scan.cuh").read_text().splitlines()
    barriers = [number for number, line in enumerate(lines, 1) if re.match(r"\s*__sync(threads|warp)\(", line)]
    assert len(barriers) == 2
    missed = []
    for line in barriers:
        caught = False
        for order in ORDERS.values():
            emulation().vivim_emulation_set_order(order, 5)
            emulation().vivim_emulation_remove_barrier(b"s6_scan.cuh", line, launch)
            caught = far_off(case, arguments, expected, [tactic]) != [] or caught
            assert emulation().vivim_emulation_barrier_was_reached()
        if not caught:
            missed.append(line)
    assert missed == []


# ---- mutation: no line of the kernel can be another ----

# An expression of s6_scan.cuh, and what it is in a mutant.
MUTANTS = {
    "every group reads the first one's B and C": (
        "(size_t(b) * a.groups + group) * a.states * a.length",
        "(size_t(b) * a.groups) * a.states * a.length",
    ),
    "every picture reads the first one's": (
        "(size_t(b) * a.groups + group) * a.states * a.length",
        "size_t(group) * a.states * a.length",
    ),
    "bias of the block's number": ("a.bias[firstChannel + c]", "a.bias[c]"),
    "always softplus": ("a.softplus ? softplus(v) : v", "softplus(v)"),
    "never softplus": ("a.softplus ? softplus(v) : v", "v"),
    "skip of the first channel": ("a.skip[scanned]", "a.skip[firstChannel]"),
    "no skip": ("a.skip ? fmaf(skip, place, y[0]) : y[0]", "y[0]"),
    "A in powers of 2": (
        "a.A[size_t(scanned) * a.states + state] * kLog2e",
        "a.A[size_t(scanned) * a.states + state]",
    ),
    "inputs without their time": ("du * B[n]", "t.y * B[n]"),
    "chunks begin at the one before": ("fmaf(exp2Fast(total * A[n]), h[n], ended[n])", "ended[n]"),
    "chunks forget no more": ("fmaf(exp2Fast(total * A[n]), h[n], ended[n])", "h[n] + ended[n]"),
    "chunks of the first picture": ("size_t(b) * a.width + scanned", "size_t(scanned)"),
    "chunks are stored by picture": (
        "(size_t(chunk) * a.batch + b) * a.width + scanned",
        "(size_t(b) * (a.chunks - 1) + chunk) * a.width + scanned",
    ),
    "padding is what memory holds": ("n < kPadded", "n < 0"),
    "sums of lanes go to one step": ("steps[step + lane]", "steps[step]"),
}


@pytest.mark.slow
def test_the_kernel_cannot_be_changed_unnoticed(tmp_path: Path) -> None:
    found = [("s6_scan.cuh", right, wrong) for right, wrong in MUTANTS.values()]
    mutants = KernelLibrary(build_mutants(tmp_path / "sources", found))
    which = ctypes.c_int.in_dll(mutants._library, "vivim_mutant")
    given = {case: arguments_of(case) for case in (MUTATED, replace(MUTATED, states=16, softplus=False))}
    expected = {case: s6_scan_reference(*arguments, case.softplus) for case, arguments in given.items()}

    def is_wrong() -> bool:
        return any(
            not distance(mutants.s6_scan(*given[case], case.softplus, TACTICS.index(tactic)), expected[case])
            <= TOLERANCES[torch.float32]
            for case in given
            for tactic in ("lanes 4", "lanes 4 x4", "lanes 1 x16")
        )

    assert not is_wrong()
    unnoticed = []
    for number, name in enumerate(MUTANTS, 1):
        which.value = number
        if not is_wrong():
            unnoticed.append(name)
    assert unnoticed == []


# ---- what is called, and wrong arguments ----

POINTERS = ["u", "delta", "B", "C", "A", "skip", "bias", "y", "workspace"]


def call(**changes: object) -> tuple[int, str]:
    return changed_call("vivim_s6_scan", _S6Desc(1, 20, 8, 2, 4, 1, 0), POINTERS, 2, changes)


@pytest.mark.parametrize(
    ("changes", "status", "message"),
    [
        ({"batch": 0}, BAD_ARGUMENT, "batch is 0"),
        ({"batch": 1 << 16}, BAD_ARGUMENT, "batch is 65536; it must be 1 to 65535"),
        ({"length": 0}, BAD_ARGUMENT, "length is 0"),
        ({"width": 0}, BAD_ARGUMENT, "width is 0"),
        ({"width": 9}, BAD_ARGUMENT, "width is 9; it must be a multiple of groups, 2"),
        ({"groups": 0}, BAD_ARGUMENT, "groups is 0"),
        ({"states": 0}, BAD_ARGUMENT, "states is 0"),
        ({"states": 257}, BAD_ARGUMENT, "states is 257; it must be 1 to 256"),
        ({"softplus": 2}, BAD_ARGUMENT, "softplus is 2"),
        ({"dtype": 3}, BAD_ARGUMENT, "dtype is 3"),
        ({"tactic": 99}, BAD_ARGUMENT, "tactic is 99"),
        ({"tactic": -1}, BAD_ARGUMENT, "tactic is -1"),
        ({"desc": None}, BAD_ARGUMENT, "desc is null"),
        *(({name: None}, BAD_ARGUMENT, f"{name} is null") for name in ("u", "delta", "B", "C", "A", "y")),
        *(({name: "odd"}, BAD_ARGUMENT, f"{name} is not aligned to 4 bytes") for name in POINTERS[:-1]),
        ({"workspace": None}, BAD_WORKSPACE, r"workspace is null; \d+ bytes are needed"),
        ({"workspace": "odd"}, BAD_WORKSPACE, "workspace is not aligned"),
        ({"workspace_bytes": 1}, BAD_WORKSPACE, r"workspace_bytes is 1; \d+ bytes are needed"),
    ],
    ids=named,
)
def test_wrong_arguments_are_named(changes: dict[str, object], status: int, message: str) -> None:
    assert call()[0] == OK and call(skip=None, bias=None)[0] == OK
    found = call(**changes)
    assert found[0] == status
    assert re.match(message, found[1])


def test_a_wrong_description_has_no_workspace_and_no_tactic() -> None:
    desc = _S6Desc(1, 20, 8, 3, 4, 1, 0)
    assert emulation().vivim_s6_workspace(ctypes.byref(desc), 0) == 0
    assert "width is 8; it must be a multiple of groups, 3" in emulation().vivim_kernels_error().decode()
    assert emulation().vivim_s6_default_tactic(ctypes.byref(desc)) < 0
    desc.groups = 2
    assert emulation().vivim_s6_workspace(ctypes.byref(desc), len(TACTICS)) == 0
    assert f"tactic is {len(TACTICS)}" in emulation().vivim_kernels_error().decode()


@pytest.mark.parametrize("states", [1, 8, 16, 64, 256])
def test_workspace_for_the_longest_sequence_holds_every_shorter_one(states: int) -> None:
    """TensorRT allocates for the largest shape of a profile alone; chunks of a longer sequence can be fewer."""
    desc = _S6Desc(2, 1, 12, 2, states, 1, 0)
    before = 256
    for desc.length in range(1, 4300, 7):
        sizes = [emulation().vivim_s6_workspace(ctypes.byref(desc), t) for t in range(-1, len(TACTICS))]
        assert sizes[0] == max(sizes[1:]) and sizes[0] >= before, desc.length
        before = sizes[0]


@pytest.mark.parametrize(
    ("batch", "width", "states", "length", "tactic"),
    [
        (1, 768, 1, 3136, "lanes 4 x16"),  # VMamba at 224 x 224, stage 1: four groups of 192 channels
        (1, 320, 8, 196, "lanes 4 x4"),  # MambaVision
        (1, 384, 16, 197, "lanes 4 x4"),  # Vim
        (1, 96, 16, 32768, "lanes 4 x64"),  # SegMamba's first stage, at 32 x 32 x 32
        (1, 4096, 16, 49, "lanes 4"),
        (64, 3072, 16, 196, "lanes 1"),
        (1, 384, 16, 20, "lanes 4"),  # nothing to split
    ],
)
def test_default_tactic_splits_what_has_few_channels(
    batch: int, width: int, states: int, length: int, tactic: str
) -> None:
    desc = _S6Desc(batch, length, width, 4, states, 1, 1)
    assert TACTICS[emulation().vivim_s6_default_tactic(ctypes.byref(desc))] == tactic


def test_what_the_kernels_do_not_take_is_known_before(monkeypatch: pytest.MonkeyPatch) -> None:
    u, delta, A, B, C, *_ = arguments_of(Case(states=16))
    assert library().takes_s6(u, delta, A, B, C)
    assert not library().takes_s6(u, delta.half(), A, B, C)  # two types
    assert not library().takes_s6(*(t.double() for t in (u, delta, A, B, C)))
    assert not library().takes_s6(u, delta, torch.zeros(5, 257), B, C)
    assert not library().takes_s6(u[:0], delta, A, B, C)
    monkeypatch.setattr(library(), "s6_tactics", ())  # a library from before the plain scan
    assert not library().takes_s6(u, delta, A, B, C)


def test_pytorch_calls_them_for_cuda_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function that is registered for CUDA, on the emulated library: it is called, and its numbers come back."""
    case = CASES["no skip"]
    arguments = arguments_of(case)
    calls = []

    class Watched(KernelLibrary):
        def s6_scan(self, *given: object) -> Tensor:
            calls.append(len(given))
            return super().s6_scan(*given)

    monkeypatch.setattr(s6, "library", lambda: Watched(build()))
    expected = s6_scan_reference(*arguments, True)
    assert distance(s6._s6_scan_cuda(*arguments, True), expected) <= TOLERANCES[torch.float32]
    assert calls == [8]
    doubled = [None if t is None else t.double() for t in arguments]
    assert distance(s6._s6_scan_cuda(*doubled, True), expected) <= 1e-13  # float64 never goes to the kernels
    assert calls == [8]


def test_cases_have_the_first_and_last_number_of_states_of_every_kernel() -> None:
    assert {1, 2, 8, 9, 16, 17, 64, 65, 256} <= {case.states for case in CASES.values()}
