"""The tables of a report, in the paper's arrangement: models are rows, figures are columns.

A table is made once, as cells; Markdown, LaTeX, HTML and the terminal are ways to write it down.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from vivim_runtime.judging.figures import ALSO, AVERAGED, PAPER_1, PAPER_2, Estimate, Figure
from vivim_runtime.judging.outlines import EDGE_FIGURES
from vivim_runtime.judging.report import Report
from vivim_runtime.text import html_text, latex_text, markdown_text

__all__ = ["Cell", "Grid", "grids", "html_table", "latex", "markdown", "terminal_tables"]


@dataclass(frozen=True)
class Cell:
    """A value as text, its interval ("" for none), and whether it is the best of several."""

    text: str
    interval: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A table.

    Attributes:
        title: above it.
        head, latex_head: of the columns; the first one names the rows.
        rows: name and cells.
        in_paper: whether it is one of the paper's tables, so that it goes into a LaTeX document.
    """

    title: str
    head: tuple[str, ...]
    latex_head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]
    in_paper: bool


@dataclass(frozen=True)
class _Column:
    """One figure of every model; see vivim_runtime.judging.figures.Figure."""

    title: str
    latex: str
    better: str
    digits: int
    estimates: list[Estimate]

    def cells(self) -> list[Cell]:
        """One a model; the best one is marked where there are different ones."""
        shown = [None if e.value is None else round(e.value, self.digits) for e in self.estimates]
        known = [value for value in shown if value is not None]
        best = None
        if len(set(known)) > 1 and self.better != "zero":
            best = max(known) if self.better == "higher" else min(known)
        pairs = zip(self.estimates, shown, strict=True)
        return [_cell(e, self.digits, best=value is not None and value == best) for e, value in pairs]


def _cell(estimate: Estimate, digits: int, sign: str = "", best: bool = False) -> Cell:
    if estimate.value is None:
        return Cell("–")

    def text(value: float) -> str:
        return f"{round(value, digits) + 0.0:{sign}.{digits}f}"  # + 0.0 makes 0 of -0

    interval = ""
    if estimate.low is not None and estimate.high is not None:
        interval = f"[{text(estimate.low)}, {text(estimate.high)}]"
    return Cell(text(estimate.value), interval, best)


def grids(report: Report) -> Iterator[Grid]:
    """The tables of a report."""
    having = f"the {report.lesion_frames} frames with a lesion"
    if report.has_classes:
        having = "the frames that have the class"
    frames = {"all": f"all {report.frames} frames", "lesion": having}
    for subset in report.subsets:
        columns = [*_figures(report, subset, PAPER_1), *(_speed(report) if subset == "all" else ())]
        yield _models(report, f"Table I: means over {frames[subset]}", columns, in_paper=True)
    for subset in report.subsets:
        title = f"Table II: means over videos, {frames[subset]} but the first and last of each video"
        yield _models(report, title, list(_figures(report, subset, PAPER_2)), in_paper=True)
    averaged = list(_figures(report, "all", AVERAGED))
    yield _models(report, f"Means over 256 thresholds, {frames['all']}", averaged)
    also = [*_figures(report, "all", ALSO), *_edges(report), *_probabilities(report), *_memory(report)]
    yield _models(report, f"Also, {frames['all']}", also)
    if any(report.first(i) != i for i in range(len(report.evaluations))):
        yield _differences(report, frames["all"])
    yield _videos(report)


def _figures(report: Report, subset: str, figures: Sequence[Figure]) -> Iterator[_Column]:
    for figure in figures:
        estimates = [evaluation.overall[subset][figure.key] for evaluation in report.evaluations]
        yield _Column(figure.title, figure.latex, figure.better, figure.digits, estimates)


def _edges(report: Report) -> Iterator[_Column]:
    """Of edge heads, where a model has one."""
    none = Estimate(None, None, None)
    for key, title in EDGE_FIGURES.items():
        if any(key in evaluation.overall["all"] for evaluation in report.evaluations):
            estimates = [evaluation.overall["all"].get(key, none) for evaluation in report.evaluations]
            yield _Column(title, title, "higher", 4, estimates)


def _plain(title: str, better: str, digits: int, values: Sequence[float | None]) -> _Column:
    """A column without intervals."""
    return _Column(title, title, better, digits, [Estimate(value, None, None) for value in values])


def _speed(report: Report) -> Iterator[_Column]:
    if report.speeds:
        yield _plain("FPS", "higher", 2, [report.frames_per_second(i) for i in range(len(report.speeds))])


def _memory(report: Report) -> Iterator[_Column]:
    columns = {
        "host memory, MB": [speed.host_bytes for speed in report.speeds],
        "GPU memory, MB": [speed.gpu_bytes for speed in report.speeds],
    }
    for title, counts in columns.items():
        if any(count is not None for count in counts):
            yield _plain(title, "lower", 0, [None if count is None else count / 1e6 for count in counts])


def _probabilities(report: Report) -> Iterator[_Column]:
    yield _plain("calibration error", "lower", 4, [evaluation.reliability.error for evaluation in report.evaluations])
    yield _plain("best threshold", "zero", 2, [evaluation.best_threshold for evaluation in report.evaluations])


def _models(report: Report, title: str, columns: Sequence[_Column], in_paper: bool = False) -> Grid:
    """One row a model."""
    cells = [column.cells() for column in columns]
    rows = tuple((label, tuple(column[i] for column in cells)) for i, label in enumerate(report.labels))
    head = ("model", *(column.title for column in columns))
    return Grid(title, head, ("Model", *(column.latex for column in columns)), rows, in_paper)


def _differences(report: Report, frames: str) -> Grid:
    figures = (*PAPER_1, *PAPER_2)
    rows = []
    for i, label in enumerate(report.labels):
        if report.first(i) == i:
            continue
        found = report.difference(i, "all")
        rows.append((label, tuple(_cell(found[f.key], max(f.digits, 4), "+") for f in figures)))
    head = ("model", *(f.title for f in figures))
    first = report.names[0] if report.has_classes else report.labels[0]
    title = f"Difference to {first} on the same videos, {frames}"
    return Grid(title, head, head, tuple(rows), False)


def _videos(report: Report) -> Grid:
    of_models = [f"Dice, {label}" for label in report.labels] if len(report.labels) > 1 else ["Dice"]
    head = ("video", "frames", "with any class" if report.has_classes else "with a lesion", *of_models)
    rows = []
    for videos in zip(*(evaluation.videos for evaluation in report.evaluations), strict=True):
        dice = _Column("", "", "higher", 4, [video.dice for video in videos]).cells()
        counts = Cell(str(videos[0].frames)), Cell(str(videos[0].lesion_frames))
        rows.append((videos[0].name, (*counts, *dice)))
    return Grid("Dice by video; intervals over stretches of its frames", head, head, tuple(rows), False)


def markdown(report: Report) -> str:
    """All tables and notes in Markdown."""
    lines = [f"# {markdown_text(report.title)}", ""]
    for grid in grids(report):
        lines += [f"**{markdown_text(grid.title)}**", ""]
        lines.append("| " + " | ".join(markdown_text(name) for name in grid.head) + " |")
        lines.append("| --- |" + " ---: |" * (len(grid.head) - 1))
        for name, cells in grid.rows:
            texts = [" ".join(filter(None, (f"**{c.text}**" if c.best else c.text, c.interval))) for c in cells]
            lines.append("| " + " | ".join((markdown_text(name), *texts)) + " |")
        lines.append("")
    lines += [f"- {markdown_text(note)}" for note in report.notes]
    return "\n".join(lines) + "\n"


def latex(report: Report) -> str:
    """The paper's tables in LaTeX, for the package booktabs; the best value of a column is bold."""
    parts = ["% needs \\usepackage{booktabs}"]
    for grid in grids(report):
        if not grid.in_paper:
            continue
        parts.append("\\begin{table}\n\\centering")
        caption = grid.title.partition(": ")[2].capitalize()
        parts.append(f"\\caption{{{latex_text(caption)} ({latex_text(report.title)}).}}")
        parts.append(f"\\begin{{tabular}}{{l{'c' * (len(grid.head) - 1)}}}\n\\toprule")
        parts.append(" & ".join(grid.latex_head) + " \\\\\n\\midrule")
        for name, cells in grid.rows:
            values = [f"\\textbf{{{c.text}}}" if c.best else latex_text(c.text) for c in cells]
            parts.append(" & ".join((latex_text(name), *values)) + " \\\\")
            if any(c.interval for c in cells):
                small = [f"{{\\scriptsize {c.interval}}}" if c.interval else "" for c in cells]
                parts.append(" & ".join(("", *small)) + " \\\\")
        parts.append("\\bottomrule\n\\end{tabular}\n\\end{table}\n")
    return "\n".join(parts)


def html_table(grid: Grid) -> str:
    """A table in HTML, without its title."""
    head = "".join(f"<th>{html_text(name)}</th>" for name in grid.head)
    rows = "".join(
        f"<tr><td>{html_text(name)}</td>"
        + "".join(
            f"<td>{f'<b>{c.text}</b>' if c.best else c.text}"
            + (f"<br><small>{c.interval}</small>" if c.interval else "")
            + "</td>"
            for c in cells
        )
        + "</tr>"
        for name, cells in grid.rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def terminal_tables(report: Report) -> Iterator[Group]:
    """All tables but that of the videos, for Rich: figures are rows, models are columns."""
    for grid in list(grids(report))[:-1]:
        table = Table(box=None, pad_edge=False)
        for name in ("", *(name for name, _ in grid.rows)):
            table.add_column(name, justify="right" if name else "left", overflow="fold")
        for column, title in enumerate(grid.head[1:]):
            cells = [cells[column] for _, cells in grid.rows]
            table.add_row(title, *(f"{cell.text} {cell.interval}".strip() for cell in cells))
        yield Group(Text(grid.title, style="bold"), table, "")
