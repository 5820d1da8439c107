"""From a float32 file to an int8 one that has earned its place: what `vivim-calibrate` does, without its terminal."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import helper

from vivim_calibration.calibration import Calibration, check_method, learn_ranges
from vivim_calibration.choosing import FEWEST_GROUPS, Choice, choose_layers
from vivim_calibration.clips import ClipSet, DrawOptions, check_disjoint, drawn_clips, whole_clips
from vivim_calibration.float_model import FloatModel, load_float_model
from vivim_calibration.layers import Layer, quantisable_layers
from vivim_calibration.quantise import quantise_layers
from vivim_calibration.sensitivity import Analysis, Trial, rank_layers
from vivim_calibration.verdict import (
    agreement_of,
    latencies,
    logits_of_clips,
    most_of_int8,
    share_of_layers,
    speed_failure,
)
from vivim_runtime.datasets import refuse_trained
from vivim_runtime.datasets.as_source import datasets_of
from vivim_runtime.datasets.fingerprints import trained_videos
from vivim_runtime.errors import DataError, ModelError, UsageError, VerdictError
from vivim_runtime.files import atomic_path, json_value, writable_file
from vivim_runtime.judging.agreement import BUDGETS, Agreement, budget_failures
from vivim_runtime.provenance import TrainingData
from vivim_runtime.regions import RegionRule
from vivim_runtime.sessions import open_session
from vivim_runtime.sessions.base import ModelInfo, Session
from vivim_runtime.sessions.onnx import OnnxSession

__all__ = ["DEFAULT_METHOD", "Options", "Outcome", "Side", "calibrate"]

DEFAULT_METHOD = "mse"


@dataclass(frozen=True)
class Options:
    """What to do.

    Attributes:
        method: of vivim_calibration.histogram.METHODS; None is that of the cache, or mse.
        draw: which clips calibrate.
        eval_clips: clips to judge on, at most.
        cache: file of ranges, read where it is there, else written.
        analyse: rank the layers.
        analyse_clips: of the calibration clips, how many the ranking looks at.
        budget: Dice points that may be lost on clips like these; layers are left in float until that holds on clips
            held out for it, with a margin (vivim_calibration.choosing). None quantises all.
        choose_clips: held out for that, at most.
        left_in_float: names of layers that stay float32 in any case.
        depthwise: quantise depthwise convolutions, too, with whose Q/DQ TensorRT is known to fail.
        fp16: the float16 file of the same model, a rival that int8 has to beat.
        target: the device that the file is for; "" is this one, where int8 must then be faster.
        device, threads: as for vivim_runtime.open_session; sensitivity and ranges are worked out on the CPU.
        runs: calls that latency is the median of.
        allow_trained: judge on videos of data sets that the weights were trained on, too.
        region: which part of the frames the model sees; None is that of its contract.
    """

    method: str | None = None
    draw: DrawOptions = field(default_factory=DrawOptions)
    eval_clips: int = 16
    cache: Path | None = None
    analyse: bool = False
    analyse_clips: int = 4
    budget: float | None = None
    choose_clips: int = 12
    left_in_float: tuple[str, ...] = ()
    depthwise: bool = False
    fp16: Path | None = None
    target: str = ""
    device: str = "auto"
    threads: int = 0
    runs: int = 10
    allow_trained: bool = False
    region: RegionRule | None = None

    def __post_init__(self) -> None:
        if self.method is not None:
            check_method(self.method)
        for name, value in (
            ("--eval-clips", self.eval_clips),
            ("--analyse-clips", self.analyse_clips),
            ("--choose-clips", self.choose_clips),
            ("--runs", self.runs),
        ):
            if value < 1:
                raise UsageError(f"{name} is {value}; expected at least 1")
        most = BUDGETS["int8"].truth_points or math.inf
        if self.budget is not None and not 0.0 < self.budget <= most:
            raise UsageError(
                f"--budget is {self.budget:g}; expected Dice points above 0 and at most {most:g}, "
                "the budget that every int8 file is judged by"
            )


@dataclass(frozen=True)
class Side:
    """A model that took part: its precision, size, median latency on the device, and how far it is from float32."""

    precision: str
    name: str
    megabytes: float
    milliseconds: float
    agreement: Agreement | None


@dataclass(frozen=True)
class Outcome:
    """Everything that was found out; float32 first, int8 last."""

    sides: tuple[Side, ...]
    failures: tuple[str, ...]
    notes: tuple[str, ...]
    device: str
    target: str
    method: str
    calibration_sha256: str
    data_sha256: str
    calibration_clips: int
    evaluation_clips: int
    evaluation_sources: tuple[str, ...]
    layers: int
    left_in_float: tuple[str, ...]
    analysis: Analysis | None
    choice: Choice | None = None

    @property
    def passed(self) -> bool:
        """Whether the int8 model earns its place."""
        return not self.failures

    def record(self) -> dict[str, Any]:
        """The outcome for JSON."""
        record = asdict(self)
        record["passed"] = self.passed
        if self.analysis is not None:
            record["analysis"] = {
                "clips": self.analysis.clips,
                "all_int8": asdict(self.analysis.all_int8),
                "layers": [{**asdict(cost), "layer": cost.layer.name} for cost in self.analysis.costs],
            }
        return json_value(record)  # type: ignore[no-any-return]


def calibrate(
    source: Path,
    output: Path | None,
    calibration_data: Sequence[str],
    evaluation_data: Sequence[str],
    options: Options,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """Make `output` and judge it; it appears whole and within its budget, or not at all.

    Args:
        source: float32 file of vivim-export.
        output: the int8 file; None only finds out.
        calibration_data, evaluation_data: see vivim_runtime.datasets.as_source.videos_of. Without evaluation data, a
            quarter of the calibration data is set apart for it; where that has trained the network, the test videos of
            the same data sets judge.
        on_stage: told what is being done.

    Raises:
        UsageError, ModelError, DataError, and those of vivim_runtime: exit code 2.
        VerdictError: the int8 model does not earn its place; its `outcome` says how. Exit code 3.
    """
    if output is not None:
        if output.suffix != ".onnx":
            raise UsageError(f"the output is {output}; expected a name ending in .onnx")
        if output.resolve() == source.resolve():
            raise UsageError(f"the output is the model itself, {output}; give another name to -o")
        writable_file(output)
    model = load_float_model(source)
    layers = quantisable_layers(model.proto)
    names = [layer.name for layer in layers]
    unknown = sorted(set(options.left_in_float) - set(names))
    if unknown:
        raise UsageError(f"--exclude names no layer: {', '.join(unknown)}; --analyse lists them, such as {names[0]}")
    if options.fp16:
        _check_rival(model.info, options.fp16, options)
    on_stage("counting the clips")
    learnt_from, chosen_on, judged_on, seen = _clips(model, calibration_data, evaluation_data, options)
    calibration = _calibration(model, learnt_from, options, on_stage)
    check_disjoint(calibration.clips, judged_on)
    always, unused = _floats(model, options)
    options = replace(options, left_in_float=always)
    left_in_float, analysis, choice = _left_in_float(model, calibration, learnt_from, chosen_on, options, on_stage)
    if chosen_on is not None:
        check_disjoint([clip.digest for clip in chosen_on], judged_on)

    on_stage("writing the int8 graph")
    result = quantise_layers(model.proto, calibration.ranges, left_in_float)
    _describe(result, calibration, left_in_float)
    info = model.info
    del model  # its graph: hundreds of megabytes that the sessions below can use
    with TemporaryDirectory() as folder:  # beside the output only what has been judged appears
        judged = Path(folder) / (output.name if output else f"{source.stem}.int8.onnx")
        onnx.save(result, judged)
        onnx.checker.check_model(judged, full_check=True)
        sides, device = _sides(info, judged, judged_on, options, on_stage)
        share = None if options.target else _share(info, [n for n in layers if n.name not in left_in_float], options)
    outcome = Outcome(
        sides=sides,
        failures=tuple(_failures(sides, device, options, share)),
        notes=(
            *info.departures,
            *info.departure_of(options.region),
            *seen,
            *unused,
            *_notes(sides, learnt_from, judged_on, device, options, choice, share),
        ),
        device=device,
        target=options.target,
        method=calibration.method,
        calibration_sha256=calibration.sha256,
        data_sha256=calibration.data_sha256,
        calibration_clips=len(calibration.clips),
        evaluation_clips=len(judged_on),
        evaluation_sources=judged_on.sources,
        layers=len(names),
        left_in_float=tuple(left_in_float),
        analysis=analysis,
        choice=choice,
    )
    if not outcome.passed:
        raise VerdictError(f"int8 does not earn its place: {'; '.join(outcome.failures)}; nothing was written", outcome)
    if output is not None:
        _describe(result, calibration, left_in_float, sides[-1].agreement)
        with atomic_path(output) as temporary:
            onnx.save(result, temporary)
    return outcome


def _clips(
    model: FloatModel, calibration_data: Sequence[str], evaluation_data: Sequence[str], options: Options
) -> tuple[ClipSet | None, ClipSet | None, ClipSet, list[str]]:
    """Clips to calibrate with (None where a cache stands for them), to choose layers on (None where none are chosen),
    to judge on, and what to know of these.
    """
    info, frames = model.info, model.frames
    trained, framing = info.training_data, info.framing(options.region)
    marked = [entry.name for entry in info.classes]
    if not evaluation_data and not options.allow_trained and _trained(calibration_data, "train", trained):
        evaluation_data = calibration_data
    seen: list[str] = []
    for dataset in datasets_of(evaluation_data, "test", trained):
        seen += refuse_trained(dataset, trained, info.path.name, options.allow_trained)
    if not evaluation_data and _trained(calibration_data, "train", trained):
        seen.append(f"{info.path.name} was trained on videos of {', '.join(calibration_data)} (--allow-trained)")
    if not calibration_data:
        if options.cache is None or not options.cache.is_file():
            raise UsageError("nothing to calibrate on; give videos, folders or DICOM files with --calib-data")
        if not evaluation_data:
            raise UsageError("nothing to judge the result on; give --eval-data, or the clips again with --calib-data")
        if options.analyse or options.budget is not None:
            raise UsageError("--analyse and --budget look at calibration clips; give them with --calib-data")
        judged_on = whole_clips(evaluation_data, frames, framing, options.eval_clips, trained, marked)
        return None, None, judged_on, seen
    choosing = options.choose_clips if options.budget is not None else 0
    held_out = choosing + (0 if evaluation_data else options.eval_clips)
    learnt_from, apart = drawn_clips(calibration_data, frames, framing, options.draw, held_out, trained, marked)
    chosen_on = judged_on = apart
    if evaluation_data:
        judged_on = whole_clips(evaluation_data, frames, framing, options.eval_clips, trained, marked)
    elif choosing:
        chosen_on, judged_on = apart.halves()
    return learnt_from, chosen_on if choosing else None, judged_on, seen


def _trained(names: Sequence[str], split: str, trained: Sequence[TrainingData]) -> bool:
    """Whether a network was trained on videos of a data set among names."""
    return bool(trained) and any(trained_videos(dataset, trained) for dataset in datasets_of(names, split, trained))


def _calibration(
    model: FloatModel, clips: ClipSet | None, options: Options, on_stage: Callable[[str], None]
) -> Calibration:
    """Ranges from the cache where it is there, else from the clips; then the cache is written."""
    if options.cache is not None and options.cache.is_file():
        calibration = Calibration.load(options.cache)
        activations = [layer.activation for layer in quantisable_layers(model.proto)]
        calibration.check(options.cache, model.sha256, options.method, activations)
        if clips is not None:
            on_stage("comparing the clips with those of the cache")
            calibration.check_clips(options.cache, clips)
        return calibration
    assert clips is not None
    calibration = learn_ranges(
        model.proto,
        model.info,
        model.sha256,
        clips,
        options.method or DEFAULT_METHOD,
        options.threads,
        lambda done: on_stage(f"learning ranges, clip {done} of {len(clips)}"),
    )
    if options.cache is not None:
        calibration.save(options.cache)
    return calibration


def _floats(model: FloatModel, options: Options) -> tuple[tuple[str, ...], list[str]]:
    """Layers that stay float32 in any case, and why.

    ONNX Runtime on a CPU has no int8 convolution that takes int8 and gives float32: it would compute ours in float32,
    and the roundings would be work for nothing.
    """
    if options.target:
        return options.left_in_float, []
    with open_session(model.info.path, options.device, options.threads) as session:
        if session.device != "cpu":
            return options.left_in_float, []
    kinds = {layer.name: layer.kind for layer in quantisable_layers(model.proto)}
    convolutions = [name for name, kind in kinds.items() if kind == "Conv" and name not in options.left_in_float]
    if not convolutions or len(convolutions) == len(kinds):
        return options.left_in_float, []
    note = f"{len(convolutions)} convolutions stay float32, which is how ONNX Runtime computes them on a CPU"
    return (*options.left_in_float, *convolutions), [note]


def _left_in_float(
    model: FloatModel,
    calibration: Calibration,
    clips: ClipSet | None,
    chosen_on: ClipSet | None,
    options: Options,
    on_stage: Callable[[str], None],
) -> tuple[list[str], Analysis | None, Choice | None]:
    """Layers that stay in float, the ranking where one was asked for or needed, and how they were chosen."""
    depthwise = [layer.name for layer in quantisable_layers(model.proto) if layer.is_depthwise]
    always = list(dict.fromkeys([*options.left_in_float, *([] if options.depthwise else depthwise)]))
    analyses: list[Analysis] = []

    def told(done: int, count: int) -> None:
        on_stage(f"ranking the layers, {done} of {count}")

    def analysis() -> Analysis:
        if not analyses:
            assert clips is not None
            on_stage("reading clips to rank the layers on")
            few = list(clips.first(options.analyse_clips))
            trial = Trial(model.proto, calibration.ranges, model.info.path, few, options.threads)
            analyses.append(rank_layers(trial, told, options.analyse))
        return analyses[0]

    if clips is None or not (options.analyse or options.budget is not None):
        return always, None, None
    if options.analyse:
        analysis()
    if options.budget is None:
        return always, analysis(), None
    assert chosen_on is not None
    if len(chosen_on) < FEWEST_GROUPS:
        raise DataError(
            f"--budget has {len(chosen_on)} clips to choose layers on and needs at least {FEWEST_GROUPS} that neither "
            "calibrate nor judge: give more with --calib-data"
        )
    on_stage("looking for the fewest layers to leave in float")
    trial = Trial(model.proto, calibration.ranges, model.info.path, list(chosen_on), options.threads)
    if trial.without(always).masks.dice is None:
        raise DataError(
            f"nothing is marked on the {len(chosen_on)} clips that --budget chooses layers on; "
            "give clips with findings to --calib-data, or more of them with --choose-clips"
        )
    choice = choose_layers(
        trial,
        lambda: [cost.layer.name for cost in analysis().costs if cost.layer.name not in always],
        options.budget,
        always,
    )
    if choice is None:
        raise VerdictError(
            f"no part of {model.info.path} can be int8 within --budget {options.budget:g} points, margin included; "
            "give more clips with --calib-data and --choose-clips, which narrow the margin, or another --method; "
            "nothing was written"
        )
    return list(choice.left_in_float), analyses[0] if analyses else None, choice


def _describe(
    result: onnx.ModelProto,
    calibration: Calibration,
    left_in_float: Sequence[str],
    agreement: Agreement | None = None,
) -> None:
    """The description of the int8 file: that of the float32 one, but for what has changed."""
    description = {entry.key: entry.value for entry in result.metadata_props}
    description.pop("vivim.parity", None)  # that of the float32 file
    description["vivim.precision"] = "int8"
    description["vivim.calibration_sha256"] = calibration.sha256
    record: dict[str, Any] = {"method": calibration.method, "left_in_float": list(left_in_float)}
    if agreement is not None:
        record["agreement"] = asdict(agreement)
    description["vivim.int8"] = json.dumps(json_value(record), sort_keys=True)
    del result.metadata_props[:]
    helper.set_model_props(result, description)


def _sides(
    reference: ModelInfo, int8: Path, clips: ClipSet, options: Options, on_stage: Callable[[str], None]
) -> tuple[tuple[Side, ...], str]:
    """Float32, float16 where it is given, and int8: how far apart, how large, how fast; and the device they ran on.

    Each model has its own pass over the clips, so that the memory of one is there at a time.
    """
    paths = {"fp32": reference.path, **({"fp16": options.fp16} if options.fp16 else {}), "int8": int8}

    def opened(precision: str) -> Session:
        if precision == "int8" and options.target:  # what is fast on this CPU says nothing about another device
            return OnnxSession(int8, "cpu", options.threads, fused=False)
        return open_session(paths[precision], options.device, options.threads)

    def told(precision: str) -> Callable[[int], None]:
        return lambda done: on_stage(f"judging {precision}, clip {done} of {len(clips)}")

    with opened("fp32") as session:
        expected = logits_of_clips(session, clips, told("fp32"))
    found: dict[str, Agreement | None] = {"fp32": None}
    for precision in list(paths)[1:]:
        with opened(precision) as session:
            found[precision] = agreement_of(session, clips, expected, told(precision))
    on_stage("measuring latency")
    pixels = np.repeat(next(iter(clips)).pixels[None], reference.batch or 1, axis=0)
    with ExitStack() as stack:
        sessions = [stack.enter_context(open_session(p, options.device, options.threads)) for p in paths.values()]
        times = latencies(sessions, pixels, options.runs)
        device = f"{sessions[0].device} ({sessions[0].backend})"
    sides = tuple(
        Side(precision, path.name, path.stat().st_size / 1e6, time, found[precision])
        for (precision, path), time in zip(paths.items(), times, strict=True)
    )
    return sides, device


def _check_rival(reference: ModelInfo, path: Path, options: Options) -> None:
    with open_session(path, options.device, options.threads) as session:
        rival = session.info
    if meeting := reference.takes.meets(rival.takes, reference.path.name, rival.path.name):
        raise ModelError(f"{meeting}; export both from the same weights")
    same = ("frames", "size", "batch", "classes", "weights_sha256")
    if rival.precision != "fp16" or any(getattr(reference, name) != getattr(rival, name) for name in same):
        raise ModelError(
            f"{rival.path} ({rival.precision}) is not the fp16 file of {reference.path}; "
            "export it from the same weights with the same size, frames and batch, and --fp16"
        )


def _share(reference: ModelInfo, layers: Sequence[Layer], options: Options) -> float | None:
    """What part of a float32 clip the layers take that are in int8, on a CPU; None elsewhere."""
    with open_session(reference.path, options.device, options.threads) as session:
        if not isinstance(session, OnnxSession) or session.device != "cpu":
            return None
        black = np.zeros((reference.batch or 1, reference.frames, *reference.size, 3), np.uint8)
        return share_of_layers(session, black, layers)


def _failures(sides: Sequence[Side], device: str, options: Options, share: float | None) -> Iterator[str]:
    int8 = sides[-1]
    assert int8.agreement is not None
    yield from budget_failures(int8.agreement, BUDGETS["int8"])
    if options.budget is not None and int8.agreement.points_lost > options.budget:
        yield f"Dice falls by {int8.agreement.points_lost:.2f} points on clips that nobody had seen, over --budget"
    if not options.target:
        rivals = {side.precision: side.milliseconds for side in sides[:-1]}
        slow = speed_failure(int8.milliseconds, rivals, device, share)
        if slow:
            yield slow


def _notes(
    sides: Sequence[Side],
    learnt_from: ClipSet | None,
    judged_on: ClipSet,
    device: str,
    options: Options,
    choice: Choice | None,
    share: float | None,
) -> Iterator[str]:
    agreement = sides[-1].agreement
    if share is not None:
        yield most_of_int8(share)
    if choice is not None:
        yield (
            f"chosen on {choice.clips} other held-out clips: {choice.points_lost:+.2f} Dice points there, 95 % bound "
            f"{choice.points_bound:+.2f}, --budget {options.budget:g}"
        )
    if options.target:
        yield f"made for {options.target}: masks are judged by the file's own arithmetic, latency on {device} is not"
    masks = agreement.masks if agreement is not None else None
    if masks is not None and masks.truth_b is None:
        yield "the clips know no ground truth, so only the two masks were compared"
    if masks is not None and masks.empty:
        yield f"{masks.empty} of {masks.frames} frames have no mask on either side and do not count for Dice"
    if learnt_from is not None and set(learnt_from.sources) & set(judged_on.sources):
        yield "judged on other parts of the sources that calibrated, which flatters; --eval-data takes others"
    for clips in (learnt_from, judged_on):
        yield from clips.notes if clips is not None else ()
