"""The cases of Table IV and Fig. 7 (b) of the paper, and what came out of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from vivim.config import SpatioTemporalModule, VivimConfig
from vivim.efficiency.counting import Counts, count
from vivim.efficiency.measuring import Case, Limits, Outcome, Status, measure
from vivim_runtime.errors import ConfigError

__all__ = ["METHODS", "Method", "Row", "StudyOptions", "Variant", "run_growth", "run_table"]


@dataclass(frozen=True)
class Method:
    """A line of Table IV: the paper's names, and whether every token sees all others in one module."""

    name: str
    core: str
    is_global: bool


METHODS: dict[SpatioTemporalModule, Method] = {
    "self_attention": Method("M1", "spatio-temporal self-attention", True),
    "window_attention": Method("M2", "spatio-temporal window attention", False),
    "factorized_attention": Method("M3", "spatio-temporal factorised attention", False),
    "st_mamba": Method("ours", "spatio-temporal Mamba", True),
}


@dataclass(frozen=True)
class StudyOptions:
    """What to measure, and how.

    Attributes:
        preset: of the networks (vivim.config.PRESETS).
        frames, size: T and (H, W) of the table's clip; the paper's is 32 x 256 x 256. T = 0 leaves the table out.
        growth_frames, growth_size: Ts, in rising order, and (H, W) of the figure's clips; no Ts leave the figure out.
        modules: rows of the table, and lines of the figure where those show something (see `run_growth`).
        written_out: whether attention is measured with its scores in memory, as one fused operation, or both ways.
        device, threads, runs: as in a Case; without runs, costs are counted only.
        limits: of every case.
    """

    limits: Limits
    preset: str = "tiny"
    frames: int = 32
    size: tuple[int, int] = (256, 256)
    growth_frames: tuple[int, ...] = (5, 10, 20, 40, 80, 160)
    growth_size: tuple[int, int] = (128, 128)
    modules: tuple[SpatioTemporalModule, ...] = tuple(METHODS)
    written_out: tuple[bool, ...] = (True, False)
    device: str = "cpu"
    threads: int = 1
    runs: int = 3

    def __post_init__(self) -> None:
        for option, value, least in (
            ("--frames", self.frames, 0),
            ("--runs", self.runs, 0),
            ("--threads", self.threads, 0),
            ("--memory-limit", self.limits.memory, 1),
        ):
            if value < least:
                raise ConfigError(f"{option} is {value}; expected at least {least}")
        if not self.limits.seconds > 0:  # so that a NaN is refused too
            raise ConfigError(f"--time-limit is {self.limits.seconds}; expected more than 0 seconds")
        VivimConfig.preset(self.preset)  # raises for an unknown name


@dataclass(frozen=True)
class Variant:
    """A module, and how its attention (and SegFormer's, in the same network) is computed."""

    module: SpatioTemporalModule
    written_out: bool

    @property
    def label(self) -> str:
        """`M1, written out`."""
        return f"{METHODS[self.module].name}, {'written out' if self.written_out else 'fused'}"


@dataclass(frozen=True)
class Row:
    """A variant at some number of frames: what was counted, and what was measured; None where that was not asked."""

    variant: Variant
    frames: int
    counts: Counts
    inference: Outcome
    training: Outcome | None = None


def run_table(options: StudyOptions, progress: Callable[[str], None] = lambda text: None) -> Iterator[Row]:
    """Table IV: training memory, inference memory and run time of every variant, a row after the other.

    Raises:
        InputError: exit code 2, for clips that are too small for the network.
    """
    for variant in _variants(options, options.modules if options.frames else ()):
        case = _case(options, variant, options.frames, options.size)
        counts = _count(case)
        progress(f"{variant.label}: inference")
        inference = _outcome(case, counts, options.limits)
        progress(f"{variant.label}: training")
        training = _outcome(replace(case, training=True), counts, options.limits)
        yield Row(variant, options.frames, counts, inference, training)


def run_growth(options: StudyOptions, progress: Callable[[str], None] = lambda text: None) -> Iterator[Row]:
    """Fig. 7 (b): inference of clips of more and more frames, by self-attention and ST-Mamba where they are asked for.

    A clip that is longer than one that was over the time limit is not run.

    Raises:
        InputError: exit code 2, for clips that are too small for the network.
    """
    shown: list[SpatioTemporalModule] = ["self_attention", "st_mamba"]
    for variant in _variants(options, tuple(m for m in options.modules if m in shown)):
        slow = False
        for frames in options.growth_frames:
            case = _case(options, variant, frames, options.growth_size)
            counts = _count(case)
            progress(f"{variant.label}: {frames} frames")
            outcome = Outcome(Status.TOO_SLOW) if slow else _outcome(case, counts, options.limits)
            slow = outcome.status is Status.TOO_SLOW
            yield Row(variant, frames, counts, outcome)


def _variants(options: StudyOptions, modules: tuple[SpatioTemporalModule, ...]) -> list[Variant]:
    return [Variant(module, written_out) for written_out in options.written_out for module in modules]


def _case(options: StudyOptions, variant: Variant, frames: int, size: tuple[int, int]) -> Case:
    config = VivimConfig.preset(options.preset, st_module=variant.module)
    return Case(
        config,
        frames,
        size,
        written_out=variant.written_out,
        device=options.device,
        threads=options.threads,
        runs=options.runs,
    )


def _count(case: Case) -> Counts:
    return count(case.config, case.frames, case.size, case.written_out)


def _outcome(case: Case, counts: Counts, limits: Limits) -> Outcome:
    """Measured, unless what is counted, which a measurement exceeds, is too much already."""
    if not case.runs:
        return Outcome(Status.NOT_RUN)
    counted = counts.training_bytes if case.training else counts.inference_bytes
    return Outcome(Status.TOO_LARGE) if counted > limits.memory else measure(case, limits)
