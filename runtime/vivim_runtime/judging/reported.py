"""What training reported of weights on the very videos that they are now judged on, and in what the two differ."""

from __future__ import annotations

from collections.abc import Iterator

from vivim_runtime.datasets import Dataset
from vivim_runtime.datasets.fingerprints import video_print
from vivim_runtime.judging.evaluation import Evaluation, EvaluationOptions
from vivim_runtime.sessions.base import ModelInfo

__all__ = ["reported_dice"]


def reported_dice(info: ModelInfo, dataset: Dataset, evaluation: Evaluation, options: EvaluationOptions) -> str | None:
    """A note where the data set is the one that chose a model's weights; None elsewhere."""
    for entry in info.training_data:
        validation = {(v.label, v.pictures) for v in entry.splits.get("validation", ())}
        if entry.validation_dice is None or not validation:
            continue
        prints = [video_print(video) for video in dataset.videos]
        if {(v.label, v.pictures) for v in prints} != validation:
            continue
        dice = evaluation.overall["all"]["dice"].value
        differing = ", ".join(_differing(info, evaluation, options))
        return (
            f"{info.path.name}: these videos chose the weights, which flatters; training reported Dice "
            f"{entry.validation_dice:.4f}, here it is {dice:.4f}" + (f" with {differing}" if differing else "")
        )
    return None


def _differing(info: ModelInfo, evaluation: Evaluation, options: EvaluationOptions) -> Iterator[str]:
    contract = info.contract
    if contract is not None:
        if info.size != contract.size:
            yield f"frames of {info.size[0]}x{info.size[1]} instead of {contract.size[0]}x{contract.size[1]}"
        if info.frames != contract.frames:
            yield f"clips of {info.frames} frames instead of {contract.frames}"
        if evaluation.hop != contract.default_hop(info.frames):
            yield f"hop {evaluation.hop} instead of {contract.default_hop(info.frames)}"
        if contract.stride != 1:
            yield f"every frame instead of one in {contract.stride}"
    if options.region is not None and contract is not None and options.region != contract.rule:
        yield f"{options.region.describe()} instead of {contract.rule.describe()}"
    if options.smooth > 1:
        yield f"a mean over {options.smooth} frames"
    if options.threshold != 0.5:
        yield f"threshold {options.threshold:g} instead of 0.5"
    if info.precision != "fp32":
        yield f"{info.precision} instead of fp32"
