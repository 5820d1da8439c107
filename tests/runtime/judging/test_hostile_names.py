"""Names, metadata and errors of others in every page and table that is written: text, and nothing else."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import onnx
import pytest
from onnx import helper

from tests.runtime.judging.sets import report, shifted
from tests.runtime.models import brightness_model
from vivim_runtime.bench import ModelResult
from vivim_runtime.bench.results import markdown_table
from vivim_runtime.bench.worker import Opened
from vivim_runtime.judging import csv_text, html_page, latex, markdown
from vivim_runtime.judging.parity import compare
from vivim_runtime.judging.parity_report import html_report
from vivim_runtime.judging.plots import dice_at_threshold, dice_by_video, reliability_diagram
from vivim_runtime.sessions import open_session
from vivim_runtime.text import csv_cell, latex_text, markdown_text

HOSTILE = [
    pytest.param("<script>alert(1)</script>", id="script"),
    pytest.param('"><img src=x onerror=alert(1)>', id="end of an attribute"),
    pytest.param("a\x1b[2J\x1b]0;owned\x07", id="escapes"),
    pytest.param("a\r\nb\n\n# c\n<b>", id="lines"),
    pytest.param("a\u202egpj.exe\u2066", id="right to left"),
    pytest.param("a | b \\| c `d` **e** ~f~", id="Markdown"),
    pytest.param("![x](http://x.test/y) [z](javascript:alert(1))", id="links"),
    pytest.param("\\input{/etc/passwd} $x_1^2$ % & # { } ~ \\\\", id="LaTeX"),
    pytest.param("=cmd|' /C calc'!A0", id="formula"),
    pytest.param("@SUM(1+1)*cmd", id="formula by an at sign"),
    pytest.param("]]></style></title><!--", id="ends of everything"),
    pytest.param("x" * 5000, id="long"),
    pytest.param("\x00\ufffe\ud7ff", id="no characters"),
]
WORDS = """html head meta title style body h1 h2 h3 p table thead tbody tr th td ul li div figure img figcaption b br
    small span code svg rect text line polyline circle path g"""
TAGS = set(WORDS.split())


class Page(HTMLParser):
    """Fails on elements and attributes that no page of ours has."""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        for name, value in attrs:
            assert not name.startswith("on") and name != "href"
            assert name != "src" or (value or "").startswith("data:image/png;base64,")

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)


def is_text(written: str) -> None:
    assert all(line.isprintable() for line in written.split("\n"))


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_and_pages_of_an_evaluation(name: str) -> None:
    made = report(shifted, names=[f"{name}.onnx"])
    (evaluation,) = made.evaluations
    videos = tuple(replace(video, name=name) for video in evaluation.videos)
    model = replace(evaluation.model, preset=name, precision=name, weights_sha256=name, backend=name, device=name)
    worst = tuple(replace(frame, video=name) for frame in evaluation.worst)
    made = replace(
        made, data=name, evaluations=(replace(evaluation, videos=videos, model=model, worst=worst),), names=(name,)
    )
    for written in (html_page(made), markdown(made), latex(made), csv_text(made), dice_by_video(made)):
        is_text(written)
    Page().feed(html_page(made))
    for picture in (dice_by_video(made), dice_at_threshold(made), reliability_diagram(made)):
        ElementTree.fromstring(picture)
    rows = list(csv.reader(io.StringIO(csv_text(made))))
    assert all(len(row) == len(rows[0]) and row[0][:1] not in tuple("=+-@") for row in rows)
    for line in markdown(made).splitlines():
        assert not re.search(r"(?<!\\)(<|!\[|`)", line)
    columns = {line.count("|") - line.count("\\|") for line in markdown(made).splitlines() if line.startswith("| ")}
    assert len(columns) <= 4  # of five tables, two of one width
    tex = latex(made)
    assert "\\input" not in tex and tex.count("\\begin{") == tex.count("\\end{") > 0
    bare, harmless = (re.sub(r"\\[&%$#_{}\\]", "", text) for text in (tex, latex(report(shifted))))
    assert bare.count("{") == bare.count("}")
    assert all(bare.count(sign) == harmless.count(sign) for sign in "$#%&^~")


@pytest.mark.parametrize("name", HOSTILE)
def test_page_of_a_comparison(tmp_path: Path, name: str) -> None:
    word = "".join(c for c in name if c.isprintable())[:128] or "x"  # what a model may say of itself
    path = brightness_model(tmp_path / "m.onnx", preset=word, precision="fp32", weights_sha256=word)
    model = onnx.load(path)
    model.producer_name = name.encode("utf-8", "replace").decode()
    helper.set_model_props(model, {e.key: e.value for e in model.metadata_props} | {"vivim.other": "x"})
    onnx.save(model, path)
    with open_session(path, "cpu", 1) as a, open_session(path, "cpu", 1) as b:
        result = compare(a, b, ["phantom:?frames=5&size=32x48"])
    side = replace(result.a, name=name, backend=name, device=name, precision=name)
    hostile = replace(
        result,
        a=side,
        sources={name: 5},
        notes=(name,),
        worst=tuple(replace(frame, source=name) for frame in result.worst),
    )
    page = html_report(hostile)
    Page().feed(page)
    is_text(page)


@pytest.mark.parametrize("name", HOSTILE)
def test_tables_of_benchmarks_and_pictures_of_layers(name: str) -> None:
    opened = Opened(name, name, name, name, 5, (24, 32), 1000, 1.0, 1.0, False, (name,))
    written = markdown_table([ModelResult(name, 1, [1.0], None, None, None, opened)])
    is_text(written)
    lines = written.splitlines()
    assert len({re.sub(r"\\.", "", line).count("|") for line in lines}) == 1
    assert not re.search(r"(?<!\\)(<|!\[|`)", written)


def test_each_writer_keeps_what_is_harmless() -> None:
    name = "clip_01 (left) ä 10%.mp4"
    assert markdown_text(name) == csv_cell(name) == name
    assert latex_text(name) == r"clip\_01 (left) ä 10\%.mp4"
    assert csv_cell("-1.mp4") == "'-1.mp4"
