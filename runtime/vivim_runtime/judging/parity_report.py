"""A comparison for people: a table in the terminal, and one HTML file that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt
from rich.table import Table

from vivim_runtime.judging.parity import Comparison, WorstFrame
from vivim_runtime.overlay import drawn
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sources.base import Image
from vivim_runtime.text import html_text

__all__ = ["html_report", "rows", "terminal_table"]

_COLOR_A, _COLOR_B = (0, 230, 118), (255, 64, 196)


def rows(comparison: Comparison) -> Iterator[tuple[str, str, str]]:
    """Name, value and budget of every figure."""
    tensor, masks, budget = comparison.tensor, comparison.masks, comparison.budget
    yield "relative L2 of the logits", f"{tensor.relative_l2:.2e}", f"at most {budget.relative_l2:g}"
    yield "largest |difference|", f"{tensor.max_abs:.2e}", ""
    yield "|difference| p50, p99, p99.9", f"{tensor.p50:.1e}, {tensor.p99:.1e}, {tensor.p999:.1e}", ""
    yield "cosine", f"{tensor.cosine:.9f}", ""
    yield "logits that are not finite", str(tensor.not_finite), "0"
    yield "mask Dice, mean", _number(masks.dice, ".6f"), f"at least {budget.mask_dice:g}"
    yield "mask Dice, worst frame", _number(masks.worst_dice, ".6f"), ""
    yield "mask IoU, mean", _number(masks.iou, ".6f"), ""
    yield "HD95, worst frame", _number(masks.hd95, ".2f", " px"), ""
    yield "pixels that change sides", str(masks.changed_pixels), ""
    yield "frames, of them without a mask", f"{masks.frames}, {masks.empty}", ""
    yield "temporal flicker, A and B", f"{masks.flicker_a:.4f}, {masks.flicker_b:.4f}", ""
    if masks.truth_a is not None:
        limit = "" if budget.truth_points is None else f"at most {budget.truth_points:g} points lower"
        yield "Dice with truth, A and B", f"{masks.truth_a:.4f}, {_number(masks.truth_b, '.4f')}", limit


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "no masks" if value is None else f"{value:{form}}{unit}"


def _verdict(comparison: Comparison) -> str:
    return "within budget" if comparison.passed else "REFUSED: " + "; ".join(comparison.failures)


def terminal_table(comparison: Comparison) -> Table:
    """The figures as a table for Rich."""
    a, b = comparison.a, comparison.b
    sources = ", ".join(f"{name} ({count} frames)" for name, count in comparison.sources.items())
    table = Table(
        title=f"{a.name} ({a.backend}, {a.precision}) against {b.name} ({b.backend}, {b.precision})",
        title_justify="left",
        caption="\n".join((_verdict(comparison), f"on {sources}", *comparison.notes)),
        caption_justify="left",
    )
    for name in ("figure", "value", "budget"):
        table.add_column(name)
    for row in rows(comparison):
        table.add_row(*row)
    return table


def html_report(comparison: Comparison) -> str:
    """One HTML page: verdict, sides, figures, and the worst frames as pictures."""
    a, b = comparison.a, comparison.b
    sides = "".join(
        f"<tr><td>{label}</td><td>{html_text(side.name)}</td><td>{html_text(side.backend)}</td>"
        f"<td>{html_text(side.preset)}</td><td>{html_text(side.precision)}</td><td>{html_text(side.device)}</td>"
        f"<td><code>{html_text(side.weights_sha256[:12])}</code></td></tr>"
        for label, side in (("A", a), ("B", b))
    )
    figures = "".join(
        "<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in row) + "</tr>" for row in rows(comparison)
    )
    sources = "".join(f"<li>{html_text(name)}: {count} frames</li>" for name, count in comparison.sources.items())
    notes = "".join(f"<p class=note>{html_text(note)}</p>" for note in comparison.notes)
    worst = "".join(_worst_frame(frame, comparison.classes) for frame in comparison.worst)
    height, width = comparison.size
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>Parity: {html_text(a.name)} and {html_text(b.name)}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }}
h1 {{ font-size: 1.5rem; margin-bottom: .3rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .25rem .9rem .25rem 0; text-align: left; vertical-align: top }}
tr + tr td, thead + tbody td {{ border-top: 1px solid #dde2e8 }} th {{ font-weight: 600; color: #5a6675 }}
.verdict {{ display: inline-block; padding: .3rem .8rem; border-radius: .3rem; font-weight: 600; color: #fff }}
.pass {{ background: #1a7f4b }} .fail {{ background: #b3261e }} .note {{ color: #7a5200 }}
figure {{ margin: 1rem 0 }} figure img {{ width: 100%; image-rendering: pixelated; border-radius: .3rem }}
figcaption {{ color: #5a6675; font-size: .9rem }} .a {{ color: #00944c; font-weight: 600 }}
.b {{ color: #c8128f; font-weight: 600 }}
</style></head><body>
<h1>Parity: {html_text(a.name)} and {html_text(b.name)}</h1>
<p class="verdict {"pass" if comparison.passed else "fail"}">{html_text(_verdict(comparison))}</p>
{notes}
<p>Clips of {comparison.frames} frames, {width} x {height} pixels. A is the reference.</p>
<table><thead><tr><th></th><th>file</th><th>runs in</th><th>network</th><th>precision</th><th>device</th>
<th>weights</th></tr></thead><tbody>{sides}</tbody></table>
<h2>Figures</h2>
<table><thead><tr><th>figure</th><th>value</th><th>budget</th></tr></thead><tbody>{figures}</tbody></table>
<h2>Compared on</h2><ul>{sources}</ul>
<h2>The frames that differ most</h2>
<p>Left to right: the frame; the mask of <span class=a>A</span>; the mask of <span class=b>B</span>;
where the logits differ, black being no difference and yellow the largest of this frame.</p>
{worst}
</body></html>
"""


def _worst_frame(frame: WorstFrame, classes: tuple[ClassInfo, ...]) -> str:
    def outlined(masks: npt.NDArray[np.bool_], color: tuple[int, int, int]) -> Image:
        return drawn(frame.image, masks, [ClassInfo(c.name, color) for c in classes], ("contour",), 1.0)

    gap = np.full((frame.image.shape[0], 6, 3), 255, np.uint8)
    panels = (
        frame.image,
        outlined(frame.mask_a, _COLOR_A),
        outlined(frame.mask_b, _COLOR_B),
        _heat(frame.difference),
    )
    strip = np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)
    return (
        f'<figure><img alt="" src="data:image/png;base64,{_png(strip)}"><figcaption>{html_text(frame.source)}, '
        f"frame {frame.frame}: Dice {frame.dice:.6f}, largest difference {frame.max_abs:.2e}</figcaption></figure>"
    )


def _heat(difference: npt.NDArray[np.float32]) -> Image:
    finite = np.nan_to_num(difference, nan=np.inf, posinf=np.inf)
    largest = float(finite[np.isfinite(finite)].max(initial=0.0))
    level = np.clip(finite / max(largest, 1e-30), 0.0, 1.0) * 255
    return cv2.cvtColor(cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def _png(image: Image) -> str:
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return base64.b64encode(data.tobytes()).decode()
