"""Lines that are cut or broken where they have no room."""

from __future__ import annotations

import numpy as np
import pytest

from vivim_runtime.live.screens.letters import broken, cut, fits, line_height, put, rendered

WHITE = (255, 255, 255)
TEXT = "rtsp://10.0.0.5/ward: nothing came for 2 s"


@pytest.mark.parametrize("letter", [7, 12, 16, 40])
def test_what_fits_is_what_a_rendered_line_needs(letter: int) -> None:
    width = rendered(TEXT, letter, WHITE).width
    assert fits(TEXT, letter, width) and not fits(TEXT, letter, width - 1)


def test_a_line_that_fits_is_left_alone_and_a_longer_one_ends_in_dots() -> None:
    width = rendered(TEXT, 12, WHITE).width
    assert cut(TEXT, 12, width) == TEXT
    shorter = cut(TEXT, 12, width - 1)
    assert shorter.endswith("...") and TEXT.startswith(shorter[:-3]) and len(shorter) > len(TEXT) - 5
    assert fits(shorter, 12, width - 1)


def test_where_nothing_fits_nothing_is_written() -> None:
    assert cut(TEXT, 12, 5) == "" and broken(TEXT, 12, 5, 1) == [] and broken("", 12, 100, 3) == []


def test_lines_are_broken_between_words_and_lose_none() -> None:
    lines = broken(TEXT, 12, 170, 9)
    assert len(lines) > 1 and " ".join(lines) == TEXT
    assert all(fits(line, 12, 170) for line in lines)


def test_a_word_that_is_longer_than_a_line_is_broken_within() -> None:
    lines = broken("x" * 60, 12, 100, 20)
    assert "".join(lines) == "x" * 60 and all(fits(line, 12, 100) for line in lines)


@pytest.mark.parametrize("most", [0, 1, 2])
def test_there_are_never_more_lines_than_asked_for_and_the_last_says_that_something_is_missing(most: int) -> None:
    lines = broken(TEXT, 12, 120, most)
    assert len(lines) == most
    assert not lines or lines[-1].endswith("...")


def test_a_line_is_as_high_as_the_tallest_letters() -> None:
    assert all(rendered(text, 12, WHITE).height <= line_height(12) for text in ("no mask", "| p95", "gy|", "ABC 0.50"))


def test_letters_beyond_the_edge_are_cut_off() -> None:
    line = rendered("no signal", 12, WHITE)
    whole = np.zeros((60, 200, 3), np.uint8)
    put(whole, line, 40, 20)
    part = np.zeros((20, 50, 3), np.uint8)
    put(part, line, 10, -5)
    assert (part[:15, 10:] == whole[25:40, 40:80]).all() and not part[:, :10].any()
