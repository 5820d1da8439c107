"""What was found out, for people: the verdict and the ranking of the layers as tables in the terminal."""

from __future__ import annotations

from rich.table import Table

from vivim_calibration.procedure import Outcome, Side
from vivim_calibration.sensitivity import Analysis
from vivim_runtime.judging.agreement import BUDGETS

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

    int8, budget = outcome.sides[-1].agreement, BUDGETS["int8"]
    row("mask Dice with fp32, mean", [_masks(s, "dice") for s in outcome.sides], f"at least {budget.mask_dice:g}")
    row("mask Dice, worst frame", [_masks(s, "worst_dice") for s in outcome.sides])
    if int8 is not None and int8.masks.truth_a is not None:
        row(
            "Dice with truth",
            [f"{int8.masks.truth_a:.4f}", *(_masks(s, "truth_b") for s in outcome.sides[1:])],
            f"at most {budget.truth_points:g} points lower",
        )
    errors = [f"{side.agreement.tensor.relative_l2:.4f}" if side.agreement else "" for side in outcome.sides]
    row("relative L2 of the logits", errors, f"at most {budget.relative_l2:g}")
    row("file, MB", [f"{side.megabytes:.1f}" for side in outcome.sides])
    speed = "not judged" if outcome.target else "the fastest"
    row(f"ms a clip, {outcome.device}", [f"{side.milliseconds:.1f}" for side in outcome.sides], speed)
    in_int8 = outcome.layers - len(outcome.left_in_float)
    row("layers in int8", [*("" for _ in outcome.sides[1:]), f"{in_int8} of {outcome.layers}"])
    row("calibration", [*("" for _ in outcome.sides[1:]), f"{outcome.method}, {outcome.calibration_clips} clips"])
    return table


def _masks(side: Side, figure: str) -> str:
    value = None if side.agreement is None else getattr(side.agreement.masks, figure)
    return "" if value is None else f"{value:.4f}"


def sensitivity_table(analysis: Analysis, left_in_float: tuple[str, ...] = ()) -> Table:
    """The dearest layers first."""
    more = len(analysis.costs) - _SHOWN
    table = Table(
        title=f"What layers cost in int8, on {analysis.clips} calibration clips: Dice points, and L2 of the logits",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=f"all in int8: {analysis.all_int8.points_lost:+.3f} points, {analysis.all_int8.tensor.relative_l2:.4f}"
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
            "" if cost.gained_points is None else f"{cost.gained_points:+.3f}",
            "" if cost.gained_error is None else f"{cost.gained_error:+.4f}",
            "float32" if cost.layer.name in left_in_float else "int8",
        )
    return table
