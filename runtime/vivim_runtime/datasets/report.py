"""What a check found, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.table import Table

from vivim_runtime.datasets.check import CheckReport, Problem, VideoFigures

__all__ = ["class_lines", "problem_lines", "summary", "videos_table"]

_VIDEOS_SHOWN = 20


def summary(report: CheckReport) -> str:
    """One line: how much there is."""
    what = f"{report.name}, {report.split}" if report.split else report.name
    clips = sum(video.clips for video in report.videos)
    return (
        f"{what} ({report.layout}): {_count(len(report.videos), 'video')}, {_count(report.frames, 'frame')}, "
        f"{_count(clips, 'clip')} of {report.clip_frames}, {report.empty_share:.1%} of the masks empty, "
        f"{_count(len(report.errors), 'error')}, {_count(len(report.warnings), 'warning')}"
    )


def class_lines(report: CheckReport) -> Iterator[str]:
    """One line a class: where it is, and how much of it."""
    width = max(map(len, report.classes), default=0)
    for name, figures in report.classes.items():
        masks, area = report.shares(name)
        where = figures.area / figures.frames if figures.frames else 0.0
        yield (
            f"{name:{width}}  in {figures.frames} masks ({masks:.1%}); {area:.2%} of all pixels, "
            f"{where:.1%} of the frame where it is"
        )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def videos_table(report: CheckReport, shown: int = _VIDEOS_SHOWN) -> Table:
    """One row a video, the sum below; of many videos the first ones, since JSON has them all."""
    table = Table(box=None, pad_edge=False)
    table.add_column("video")
    for title in ("frames", "masks", "empty", "object, % of frame", "clips"):
        table.add_column(title, justify="right")
    table.add_column("size (frames)")
    for video in report.videos[:shown]:
        table.add_row(*_cells(video))
    if len(report.videos) > shown:
        table.add_row(f"... {len(report.videos) - shown} more")
    if len(report.videos) > 1:
        table.add_section()
        table.add_row(
            "all",
            str(report.frames),
            str(sum(video.masks for video in report.videos)),
            str(sum(video.empty for video in report.videos)),
            "",
            str(sum(video.clips for video in report.videos)),
            _sizes(report.sizes),
        )
    return table


def _cells(video: VideoFigures) -> tuple[str, ...]:
    area = "" if video.area is None else f"{100 * video.area:.1f}"
    counts = (str(video.frames), str(video.masks), str(video.empty), area, str(video.clips))
    return (video.name, *counts, _sizes(video.sizes))


def _sizes(sizes: dict[tuple[int, int], int]) -> str:
    if len(sizes) == 1:
        ((height, width),) = sizes
        return f"{width}x{height}"
    return ", ".join(f"{width}x{height} ({count})" for (height, width), count in sizes.items())


def problem_lines(problems: Sequence[Problem], most: int = 10) -> Iterator[str]:
    """A line a problem, errors first and the same kinds together, of every kind at most `most`."""
    for (level, kind), members in groupby(sorted(problems, key=_kind), key=_kind):
        found = list(members)
        for problem in found[:most]:
            yield f"{level}: {kind}: {problem.where}" + (f": {problem.what}" if problem.what else "")
        if len(found) > most:
            yield f"{level}: {kind}: {len(found) - most} more"


def _kind(problem: Problem) -> tuple[str, str]:
    return problem.level, problem.kind
