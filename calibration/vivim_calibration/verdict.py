"""Does an int8 model earn its place? How far it is from float32 on clips that did not calibrate, and how long it takes.

Figures and the budget of int8 are those of vivim_runtime.judging.agreement, as in every comparison (docs/parity.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from vivim_calibration.layers import Layer
from vivim_runtime.clips import Clip
from vivim_runtime.judging.agreement import Agreement, AgreementMeter, logits_of
from vivim_runtime.sessions.base import Clips, Logits, Session
from vivim_runtime.sessions.onnx import OnnxSession

__all__ = ["agreement_of", "latencies", "logits_of_clips", "most_of_int8", "share_of_layers", "speed_failure"]


def logits_of_clips(
    session: Session, clips: Iterable[Clip], on_clip: Callable[[int], None] = lambda _: None
) -> list[Logits]:
    """What a model makes of clips; `on_clip` is told how many are done."""
    found = []
    for done, clip in enumerate(clips, 1):
        found.append(logits_of(session, clip.pixels))
        on_clip(done)
    return found


def agreement_of(
    session: Session,
    clips: Iterable[Clip],
    expected: Sequence[Logits],
    on_clip: Callable[[int], None] = lambda _: None,
) -> Agreement:
    """How far a model is from what the reference makes of the same clips."""
    meter = AgreementMeter()
    for done, (clip, reference) in enumerate(zip(clips, expected, strict=True), 1):
        meter.add(clip, reference, logits_of(session, clip.pixels))
        on_clip(done)
    return meter.value()


def latencies(sessions: Sequence[Session], clips: Clips, runs: int) -> list[float]:
    """Median milliseconds of a call of each session on clips (B, T, H, W, 3).

    The sessions take turns, so that what else the machine does falls on all of them.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for session in sessions:
        session.warm_up()
    for _ in range(runs):
        for session, taken in zip(sessions, times, strict=True):
            begin = time.perf_counter()
            session(clips)
            taken.append(1e3 * (time.perf_counter() - begin))
    return [median(taken) for taken in times]


def speed_failure(int8: float, rivals: dict[str, float], device: str, share: float | None = None) -> str | None:
    """Why int8 wins nothing here, from the milliseconds of it and of other precisions; None where it is fastest.

    Args:
        share: of the float32 clip, what the layers that are in int8 take there.
    """
    name, best = min(rivals.items(), key=lambda item: item[1])
    if int8 < best:
        return None
    why = "" if share is None else f" ({most_of_int8(share)})"
    return (
        f"int8 takes {int8:.1f} ms and {name} {best:.1f} ms on {device}, so it wins nothing here{why}; "
        "if the file is for another device, say which: --target NAME"
    )


def most_of_int8(share: float) -> str:
    """What int8 could win at most, in words, where its layers take that share of a float32 clip."""
    return (
        f"the layers that are in int8 take {100 * share:.0f} % of a float32 clip: "
        f"{1 / max(1 - share, 0.01):.2f} times as fast at most, if they took no time at all"
    )


def share_of_layers(session: OnnxSession, clips: Clips, layers: Iterable[Layer]) -> float:
    """What part of a call some layers take, of the time of all nodes; the better of two runs."""
    nodes = {layer.node for layer in layers}
    best = (float("inf"), 0.0)
    for times in session.layer_times(clips, 2):
        # ONNX Runtime calls what it fuses after the first node, with its own word behind a stroke.
        taken = sum(ms for name, ms in times.items() if name.partition("/")[0] in nodes)
        best = min(best, (sum(times.values()), taken))
    return best[1] / best[0]
