"""Of the pixels that are given a probability, the share that is right."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest

from tests.runtime.judging.sets import KnownSession, MadeVideo, brightness, dataset, moving, report, shifted
from vivim_runtime.confidence import Confidence
from vivim_runtime.framing import OUTSIDE_LOGIT
from vivim_runtime.judging import EvaluationOptions, Report, evaluate, html_page, markdown, record
from vivim_runtime.judging.plots import reliability_diagram
from vivim_runtime.judging.reliability import ReliabilityTally
from vivim_runtime.sessions.base import ModelInfo


def test_bins_are_counted_by_hand() -> None:
    # p = 0.9 three times and 0.1, which is as sure of "no lesion"; one of the four is wrong. One pixel nobody has seen.
    logits = np.log([[9.0, 9.0], [9.0, 1 / 9]]).astype(np.float32)
    truth = np.array([[True, True], [False, False]])
    tally = ReliabilityTally()
    tally.add(logits, truth)
    tally.add(np.array([[OUTSIDE_LOGIT]]), np.array([[True]]))
    found = tally.reliability()
    assert found.confidence == pytest.approx((0.9,), rel=1e-6) and found.accuracy == (0.75,) and found.share == (1.0,)
    assert found.error == pytest.approx(0.15, rel=1e-6)
    cooled = ReliabilityTally(2.0)
    cooled.add(logits, truth)
    assert cooled.reliability().confidence == pytest.approx((0.75,), rel=1e-6)  # sqrt(9) = 3 to 1


def test_probabilities_that_are_true_have_no_error() -> None:
    rng = np.random.default_rng(0)
    p = rng.uniform(0.01, 0.99, (400, 500))
    tally = ReliabilityTally()
    tally.add(np.log(p / (1 - p)).astype(np.float32), rng.random(p.shape) < p)
    # 200,000 pixels in 15 bins: a bin's share is off by sqrt(0.25 / 13,000) = 0.004 or less.
    assert tally.reliability().error < 0.005


class CalibratedSession(KnownSession):
    """Its probabilities come with a temperature."""

    @property
    def info(self) -> ModelInfo:
        return replace(super().info, confidence=Confidence(3.0))


def test_a_report_draws_the_diagram_of_every_model_and_says_its_error() -> None:
    data = dataset(MadeVideo("a", moving, 11))
    sessions = (KnownSession(brightness), CalibratedSession(shifted))
    plain, calibrated = (evaluate(session, data, EvaluationOptions()) for session in sessions)
    assert plain.reliability.accuracy == (1.0,) * len(plain.reliability.accuracy)
    assert calibrated.temperature == 3.0 and calibrated.reliability.confidence[-1] < 0.95
    both = Report("made", "", EvaluationOptions(), ("p.onnx", "c.onnx"), (plain, calibrated))
    svg = reliability_diagram(both)
    ElementTree.fromstring(svg)
    assert svg.count("<circle") == len(plain.reliability.share) + len(calibrated.reliability.share)
    assert "p.onnx: as they are" in svg and "c.onnx: temperature 3.00" in svg
    assert svg in html_page(both)
    assert "calibration error" in markdown(both)
    entry = record(both)["models"][1]["reliability"]
    assert entry["temperature"] == 3.0 and entry["error"] == calibrated.reliability.error


def test_a_diagram_of_one_model_is_drawn_too() -> None:
    assert reliability_diagram(report(shifted)).startswith("<svg")
