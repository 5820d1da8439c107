"""Tables, records, plots and the page of a report: complete, well-formed, and safe for any name."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from tests.runtime.judging.sets import MadeVideo, brightness, report, shifted
from vivim_runtime.bench import ModelResult
from vivim_runtime.bench.worker import Opened
from vivim_runtime.judging import Report, csv_text, html_page, latex, markdown, record, terminal_tables
from vivim_runtime.judging.figures import FIGURES
from vivim_runtime.judging.plots import dice_at_threshold, dice_by_video
from vivim_runtime.judging.worst import WorstFrame, WorstFrames, drawn_errors
from vivim_runtime.sessions.base import Clips

OPENED = Opened("known", "cpu", "known", "fp32", 5, (24, 32), 1000, 1.0, 1.0, False)
SVG = "{http://www.w3.org/2000/svg}"


def speed(milliseconds: float, host: int | None) -> ModelResult:
    return ModelResult("m", 1, [milliseconds], host, None, None, OPENED)


@pytest.fixture(scope="module")
def pair() -> Report:
    """A model that is wrong and one that is perfect, with their speed."""
    return replace(report(shifted, brightness), speeds=(speed(50.0, 10_000_000), speed(20.0, 30_000_000)))


def table(text: str, title: str) -> list[list[str]]:
    """The rows of the Markdown table under a title, the head first."""
    lines = text.split(f"**{title}**")[1].strip().split("\n\n")[0].splitlines()
    return [line.strip("| ").split(" | ") for line in lines if not line.startswith("| ---")]


def test_paper_tables_have_a_row_a_model_and_mark_the_best(pair: Report) -> None:
    text = markdown(pair)
    head, first, second = table(text, "Table I: means over all 33 frames")
    assert head == ["model", "Dice", "Jaccard", "Precision", "Recall", "HD95, px", "FPS"]
    assert first[0] == "m_0.onnx" and second[0] == "m_1.onnx"
    assert second[1].startswith("**1.0000** [1.0000, 1.0000]")
    wrong = pair.evaluations[0].overall["all"]["dice"]
    assert first[1] == f"{wrong.value:.4f} [{wrong.low:.4f}, {wrong.high:.4f}]"
    assert second[5].startswith("**0.00**")  # a distance is best when it is short
    assert (first[6], second[6]) == ("100.00", "**250.00**")  # clips of 5 frames in 50 and in 20 ms
    assert "Table I: means over the 22 frames with a lesion" in text
    head, *_ = table(
        text, "Table II: means over videos, the 22 frames with a lesion but the first and last of each video"
    )
    assert head == ["model", "maxDice", "maxSpe", "maxIoU", "S-measure", "E-measure", "MAE"]


def test_every_video_has_its_dice(pair: Report) -> None:
    head, *rows = table(markdown(pair), "Dice by video; intervals over stretches of its frames")
    assert head == ["video", "frames", "with a lesion", "Dice, m_0.onnx", "Dice, m_1.onnx"]
    assert [row[:3] for row in rows] == [["a & b", "11", "0"], [r"v\<1>", "11", "11"], [r"v\<2>", "11", "11"]]
    assert rows[1][4].startswith("**1.0000**") and "[" in rows[1][3]


def test_differences_are_those_to_the_first_model(pair: Report) -> None:
    head, row = table(markdown(pair), "Difference to m_0.onnx on the same videos, all 33 frames")
    wrong = pair.evaluations[0].overall["all"]["dice"].value
    assert wrong is not None and row[1].startswith(f"{1 - wrong:+.4f} [")
    assert row[head.index("HD95, px")].startswith("-")


def test_notes_are_said_once(pair: Report) -> None:
    assert len(pair.notes) == len(set(pair.notes))
    assert pair.notes[0] == "intervals: 95 %, bootstrap over 3 videos, seed 0"
    assert all(f"- {note}" in markdown(pair) for note in pair.notes)


def test_without_other_frames_or_models_nothing_is_compared() -> None:
    with_lesion = report(brightness, videos=1)
    assert with_lesion.subsets == ("all",)  # no lesion at all
    text = markdown(with_lesion)
    assert "Difference" not in text and "frames with a lesion" not in text.split("- ")[0] and "**1" not in text
    assert "FPS" not in text and "memory" not in text


def test_a_figure_for_which_nothing_counts_is_a_dash() -> None:
    head, row = table(markdown(report(brightness, videos=1)), "Table I: means over all 11 frames")
    assert row[head.index("HD95, px")] == "–"


def test_nothing_is_shown_as_negative_zero() -> None:
    def nearly(clips: Clips) -> np.ndarray:
        bright = brightness(clips)
        return bright - (bright > 0.5) * np.linspace(0, 1e-5, clips.shape[-2])

    both = report(brightness, nearly)
    changes = [estimate.value for estimate in both.difference(1, "all").values()]
    assert any(change is not None and -1e-5 < change < 0 for change in changes)
    assert "+0.0000" in markdown(both) and "-0.0000" not in markdown(both)


def test_names_cannot_break_a_table_or_a_page() -> None:
    alone = report(shifted, names=["a_b&c|<d>.onnx"])
    assert r"| a_b&c\|\<d>.onnx |" in markdown(alone)
    assert r"a\_b\&c\textbar{}\textless{}d\textgreater{}.onnx" in latex(alone)
    page = html_page(alone)
    assert "<d>" not in page and "a_b&amp;c|&lt;d&gt;.onnx" in page
    assert "<1>" not in page and "<figcaption>v&lt;1&gt;, frame" in page
    for svg in (dice_by_video(alone), dice_at_threshold(alone)):
        assert any("a_b&c|<d>.onnx" in (text.text or "") for text in ElementTree.fromstring(svg).iter(f"{SVG}text"))


def test_latex_holds_the_papers_tables_and_balances(pair: Report) -> None:
    text = latex(pair)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 4
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 4
    assert text.count("{") == text.count("}")
    assert r"m\_1.onnx & \textbf{1.0000} &" in text and r"$S_\alpha$ & $E_\phi$" in text
    for block in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, re.DOTALL):
        lines = [line for line in block.splitlines() if line.endswith(r"\\")]
        assert len({line.count(" & ") for line in lines}) == 1


def test_terminal_has_every_figure(pair: Report) -> None:
    console = Console(width=100, file=io.StringIO())
    for part in terminal_tables(pair):
        console.print(part)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    for title in ("Dice", "HD95, px", "FPS", "maxSpe", "S-measure", "MAE", "flicker", "host memory, MB", "Specificity"):
        assert title in shown
    assert "m_0.onnx" in shown and "m_1.onnx" in shown and "250.00" in shown


def test_json_holds_every_figure_and_no_value_that_json_does_not_know(pair: Report) -> None:
    content: dict[str, Any] = json.loads(json.dumps(record(pair), allow_nan=False))
    assert content["data"] == {"name": "made", "split": "test", "videos": 3, "frames": 33, "lesion_frames": 22}
    first, second = content["models"]
    for subset in ("all", "lesion"):
        assert set(first["overall"][subset]) == {figure.key for figure in FIGURES}
    assert second["overall"]["all"]["dice"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert first["overall"]["lesion"]["false_alarm"] == {"value": None, "low": None, "high": None}
    assert len(first["dice_at"]) == 256 and len(first["videos"]) == 3
    assert first["speed"]["fps"] == 100.0 and "latencies_ms" not in first["speed"]
    assert "higher_than_first" not in first and second["higher_than_first"]["dice"]["value"] > 0
    assert first["worst_frames"] and second["worst_frames"] == []
    assert content["options"]["bootstrap"] == {"resamples": 2000, "seed": 0}


def test_csv_has_a_line_a_figure_and_video(pair: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(pair))))
    assert len(rows) == 2 * 2 * len(FIGURES) * (1 + 3)
    (of_all,) = (
        r for r in rows if (r["model"], r["video"], r["frames"], r["figure"]) == ("folder/m_0.onnx", "", "all", "dice")
    )
    estimate = pair.evaluations[0].overall["all"]["dice"]
    assert (float(of_all["value"]), float(of_all["low"])) == (estimate.value, estimate.low)
    (of_one,) = (
        r
        for r in rows
        if (r["model"], r["video"], r["frames"], r["figure"]) == ("folder/m_0.onnx", "v<1>", "all", "max_dice")
    )
    assert float(of_one["value"]) == pair.evaluations[0].videos[1].figures["all"]["max_dice"] and of_one["low"] == ""


def bars(svg: str, color: str) -> list[float]:
    """Widths of the bars of a colour, without the legend's."""
    rectangles = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    return [float(r.attrib["width"]) for r in rectangles if r.attrib["fill"] == color][1:]


def test_bars_are_as_long_as_the_dice_of_their_videos_worst_first(pair: Report) -> None:
    svg = dice_by_video(pair)
    ranked = sorted(zip(*(e.videos for e in pair.evaluations), strict=True), key=lambda both: both[0].dice.value or 0)
    for i, color in enumerate(("#2563a8", "#c2562b")):
        expected = [420 * (both[i].dice.value or 0) for both in ranked]
        assert bars(svg, color) == pytest.approx(expected, abs=0.06)  # one digit after the point
    whiskers = [line for line in ElementTree.fromstring(svg).iter(f"{SVG}line") if line.attrib["stroke"] == "#1c2430"]
    assert len(whiskers) == 3 * sum(v.dice.low is not None for e in pair.evaluations for v in e.videos) > 0


def test_of_many_videos_the_worst_are_drawn() -> None:
    svg = dice_by_video(report(shifted, videos=41))
    assert len(bars(svg, "#2563a8")) == 40 and "the worst 40 of 41" in svg


def test_the_curve_goes_through_the_dice_at_every_threshold(pair: Report) -> None:
    root = ElementTree.fromstring(dice_at_threshold(pair))
    lines = list(root.iter(f"{SVG}polyline"))
    assert len(lines) == 2
    for line, evaluation in zip(lines, pair.evaluations, strict=True):
        points = np.array([[float(v) for v in point.split(",")] for point in line.attrib["points"].split()])
        assert points.shape == (256, 2)
        dice = evaluation.dice_at
        slope, offset = np.polyfit(dice, points[:, 1], 1)
        assert slope < 0 and points[:, 1] == pytest.approx(slope * dice + offset, abs=0.06)
    # The dot stands on the line: half way between the thresholds 127/255 and 128/255.
    dot = next(root.iter(f"{SVG}circle")).attrib
    points = np.array([[float(v) for v in p.split(",")] for p in lines[0].attrib["points"].split()])
    assert float(dot["cx"]) == pytest.approx(points[127:129, 0].mean(), abs=0.1)
    assert float(dot["cy"]) == pytest.approx(points[127:129, 1].mean(), abs=1.0)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_needs_nothing_else_and_shows_the_worst_frames(pair: Report) -> None:
    page = html_page(pair)
    tags = Tags()
    tags.feed(page)
    images = [attrs["src"] or "" for tag, attrs in tags.found if tag == "img"]
    assert len(images) == len(pair.evaluations[0].worst) > 0
    assert all(source.startswith("data:image/png;base64,") for source in images)
    assert not [tag for tag, _ in tags.found if tag in ("script", "link", "iframe")]
    assert set(re.findall(r"https?://[^\s\"<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "every mask is the true one" in page  # of the second model
    assert sum(tag == "svg" for tag, _ in tags.found) == 3  # Dice by video, at every threshold, and reliability


def found_frame(dice: float = 0.5, frame: int = 0) -> WorstFrame:
    image = np.full((40, 60, 3), 100, np.uint8)
    truth, mask = np.zeros((2, 40, 60), bool)
    truth[10:20, 10:30] = True
    mask[10:20, 20:40] = True
    return WorstFrame("v", frame, dice, 200, image, mask, truth)


def test_what_was_missed_and_what_was_wrong_have_their_colours() -> None:
    picture = drawn_errors(found_frame())
    assert picture.shape == (40, 3 * 60 + 2 * 6, 3)
    assert (picture[:, :60] == 100).all()
    missed, wrong, right = picture[15, 132 + 15], picture[15, 132 + 35], picture[15, 132 + 25]
    assert missed[1] > missed[0] + 50 and wrong[0] > wrong[1] + 50 and (right == 100).all()


def test_large_frames_are_drawn_small() -> None:
    large = found_frame()
    enlarged = [np.kron(part, np.ones((20, 20), part.dtype)) for part in (large.mask, large.truth)]
    image = np.full((800, 1200, 3), 100, np.uint8)
    assert drawn_errors(WorstFrame("v", 0, 0.5, 9, image, *enlarged)).shape == (320, 3 * 480 + 12, 3)


def test_worst_frames_own_their_pixels() -> None:
    kept, video = WorstFrames(2), MadeVideo("v", lambda i: np.eye(6, dtype=bool), 1)
    image, truth = video.read(0)
    film = image[None].repeat(50, 0)
    kept.add("v", 0, 0.5, film[0], ~truth, truth)
    kept.add("v", 1, 1.0, film[1], truth, truth)
    (frame,) = kept.ranked()
    assert frame.image.base is None and (frame.image == image).all()


def test_of_equal_dice_the_frame_with_more_wrong_pixels_is_worse() -> None:
    kept, truth = WorstFrames(2), np.zeros((4, 8), bool)
    image = np.zeros((4, 8, 3), np.uint8)
    for frame, wrong in ((0, 3), (16, 5), (32, 4), (33, 6)):
        mask = truth.copy()
        mask.ravel()[:wrong] = True
        kept.add("v", frame, 0.0, image, mask, truth)
    assert [(f.frame, f.wrong) for f in kept.ranked()] == [(33, 6), (16, 5)]
