"""A report as one HTML file that needs nothing else: tables, plots, and the worst frames as pictures."""

from __future__ import annotations

import base64

import cv2

from vivim_runtime.judging.evaluation import MEAN, Evaluation
from vivim_runtime.judging.plots import dice_at_threshold, dice_by_video, reliability_diagram
from vivim_runtime.judging.report import Report
from vivim_runtime.judging.tables import grids, html_table
from vivim_runtime.judging.worst import MASK_COLOR, TRUTH_COLOR, WorstFrame, drawn_errors
from vivim_runtime.sources.base import Image
from vivim_runtime.text import html_text

__all__ = ["html_page", "png"]


def html_page(report: Report) -> str:
    """The page."""
    title = f"Evaluation on {html_text(report.title)}"
    tables = "".join(
        f"<h2>{html_text(grid.title)}</h2><div class=wide>{html_table(grid)}</div>" for grid in grids(report)
    )
    models = "".join(
        _model(name, e) for name, e in zip(report.names, report.evaluations, strict=True) if e.of in ("", MEAN)
    )
    having = "any class" if report.has_classes else "a lesion"
    notes = "".join(f"<li>{html_text(note)}</li>" for note in report.notes)
    rows = zip(report.labels, report.evaluations, strict=True)
    worst = "".join(_worst(label, e) for label, e in rows if not e.classes)
    return f"""<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430 }}
h1 {{ font-size: 1.5rem; margin-bottom: .3rem }} h2 {{ font-size: 1.1rem; margin-top: 2rem }}
table {{ border-collapse: collapse }} td, th {{ padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top }}
tr + tr td, thead + tbody td {{ border-top: 1px solid #dde2e8 }} th {{ font-weight: 600; color: #5a6675 }}
small {{ color: #5a6675; white-space: nowrap }} .wide {{ overflow-x: auto }}
.notes {{ color: #7a5200 }} svg {{ max-width: 100%; height: auto; margin-right: 1rem }}
figure {{ margin: 1rem 0 }} figure img {{ max-width: 100%; border-radius: .3rem }}
figcaption {{ color: #5a6675; font-size: .9rem }}
.truth {{ color: rgb{TRUTH_COLOR}; filter: brightness(.65) }} .mask {{ color: rgb{MASK_COLOR}; filter: brightness(.8) }}
</style></head><body>
<h1>{title}</h1>
<p>{len(report.evaluations[0].videos)} videos, {report.frames} frames, {report.lesion_frames} of them with {having}.
A pixel is marked above the probability {report.options.threshold:g}; masks are judged at the size of the true ones.</p>
<table><thead><tr><th>model</th><th>runs in</th><th>network</th><th>precision</th><th>clip</th><th>hop</th>
<th>weights</th></tr></thead><tbody>{models}</tbody></table>
<ul class=notes>{notes}</ul>
{tables}
<h2>Plots</h2>
{dice_by_video(report)}{dice_at_threshold(report)}{reliability_diagram(report)}
<h2>The worst frames</h2>
<p>Left to right: the frame; outlines of the <b class=truth>truth</b> and of the <b class=mask>mask</b>; what was
<b class=truth>missed</b> and what was <b class=mask>marked wrongly</b>. Of neighbouring frames one is shown.</p>
{worst}
</body></html>
"""


def _model(name: str, evaluation: Evaluation) -> str:
    m = evaluation.model
    clip = f"{m.frames} x {m.size[0]} x {m.size[1]}"
    cells = name, f"{m.backend} ({m.device})", m.preset, m.precision, clip, f"{evaluation.hop}", m.weights_sha256[:12]
    return "<tr>" + "".join(f"<td>{html_text(cell)}</td>" for cell in cells) + "</tr>"


def _worst(label: str, evaluation: Evaluation) -> str:
    frames = "".join(_frame(frame) for frame in evaluation.worst) or "<p>There is none: every mask is the true one.</p>"
    return f"<h3>{html_text(label)}</h3>{frames}"


def _frame(frame: WorstFrame) -> str:
    data = base64.b64encode(png(drawn_errors(frame))).decode()
    return (
        f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{html_text(frame.video)}, '
        f"frame {frame.frame}: Dice {frame.dice:.4f}, {frame.wrong} pixels wrong</figcaption></figure>"
    )


def png(image: Image) -> bytes:
    """RGB (H, W, 3) as a PNG file."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return data.tobytes()
