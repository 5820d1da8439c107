"""What was found out, for people: the verdict and the ranking of the layers as tables in the terminal."""

from __future__ import annotations

from rich.table import Table

from vivim_calibration.procedure import Outcome, Side
from vivim_calibration.sensitivity import Analysis
from vivim_calibration.verdict import MASK_DICE, TRUTH_POINTS

__all__ = ["sensitivity_table", "verdict_table"]

_SHOWN = 20


def verdict_table(outcome: Outcome) -> Table:
    """One column a precision; the verdict and notes below."""
    verdict = "int8 earns its place" if outcome.passed else "REFUSED: " + "; ".join(outcome.failures)
    table = Table(
        title=f"{outcome.sides[0].name}: int8 against float32 on {outcome.evaluation_clips} held-out clips",
        title_justify="left",
        caption="\n".join((verdict, *outcome.notes)),
        caption_justify="left",
    )
    table.add_column("figure")
    for side in outcome.sides:
        table.add_column(side.precision)
    table.add_column("budget of int8")

    def row(name: str, values: list[str], budget: str = "") -> None:
        table.add_row(name, *values, budget)

    int8 = outcome.sides[-1].agreement
    row("mask Dice with fp32, mean", [_of(s, "mask_dice", ".4f") for s in outcome.sides], f"at least {MASK_DICE}")
    row("mask Dice, worst frame", [_of(s, "worst_dice", ".4f") for s in outcome.sides])
    if int8 is not None and int8.truth is not None:
        first = f"{int8.truth_reference:.4f}"
        row(
            "Dice with truth",
            [first, *(_of(s, "truth", ".4f") for s in outcome.sides[1:])],
            f"at most {TRUTH_POINTS:g} points lower",
        )
    row("relative L2 of the logits", [_of(s, "relative_l2", ".4f") for s in outcome.sides])
    row("file, MB", [f"{side.megabytes:.1f}" for side in outcome.sides])
    speed = "not judged" if outcome.target else "the fastest"
    row(f"ms a clip, {outcome.device}", [f"{side.milliseconds:.1f}" for side in outcome.sides], speed)
    in_int8 = outcome.layers - len(outcome.left_in_float)
    row("layers in int8", [*("" for _ in outcome.sides[1:]), f"{in_int8} of {outcome.layers}"])
    row("calibration", [*("" for _ in outcome.sides[1:]), f"{outcome.method}, {outcome.calibration_clips} clips"])
    return table


def _of(side: Side, figure: str, form: str) -> str:
    value = None if side.agreement is None else getattr(side.agreement, figure)
    return "" if value is None else f"{value:{form}}"


def sensitivity_table(analysis: Analysis, left_in_float: tuple[str, ...] = ()) -> Table:
    """The dearest layers first."""
    more = len(analysis.costs) - _SHOWN
    table = Table(
        title=f"What layers cost in int8, on {analysis.clips} calibration clips: Dice points, and L2 of the logits",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=f"all in int8: {analysis.all_int8.points_lost:+.3f} points, {analysis.all_int8.relative_l2:.4f}"
        + (f"; {more} more layers cost less: --json has them all" if more > 0 else ""),
        caption_justify="left",
    )
    table.add_column("layer", no_wrap=True)
    for name in ("alone\nlost", "\nL2", "back in\nfloat", "\nL2"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for cost in analysis.costs[:_SHOWN]:
        table.add_row(
            cost.layer.name,
            f"{cost.alone_points:+.3f}",
            f"{cost.alone_error:.4f}",
            f"{cost.gained_points:+.3f}",
            f"{cost.gained_error:+.4f}",
            "float32" if cost.layer.name in left_in_float else "int8",
        )
    return table
