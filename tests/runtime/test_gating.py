"""Gates: each closes for what it is meant for, and for no tissue; records of confidence survive and refuse damage."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vivim_runtime.confidence import Confidence, Domain, expected_dice, first_features
from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.gating import GATES, HIDING, MEANING, Gatekeeper, parse_gates, touches_edge
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sinks.base import MaskedFrame, gated_frame
from vivim_runtime.sources import Frame

SIZE = (96, 96)


def clip(seed: int = 1, frames: int = 3, contact: bool = True) -> list[np.ndarray]:
    return [image for image, _ in phantom_frames(PhantomSpec(seed, frames, SIZE, contact=contact))]


@pytest.mark.parametrize(
    ("pictures", "gate"),
    [
        pytest.param([np.zeros((*SIZE, 3), np.uint8)] * 3, "black", id="black, which stands still too"),
        pytest.param([clip(1, 1)[0]] * 3, "frozen", id="the same picture again"),
        pytest.param(clip(1, 1), "", id="of one picture nobody can tell whether it moves"),
        pytest.param(clip(2, 3, contact=False), "contact", id="reverberations of air"),
        pytest.param(clip(3), "", id="tissue"),
    ],
)
def test_each_gate_closes_for_what_it_is_meant_for(pictures: list[np.ndarray], gate: str) -> None:
    assert Gatekeeper(("black", "frozen", "contact")).judge(pictures) == gate
    assert Gatekeeper(()).judge(pictures) == ""


def test_no_gate_closes_for_tissue_of_many_kinds() -> None:
    keeper = Gatekeeper(("black", "frozen", "contact"))
    closed = [keeper.judge(clip(seed, 2)) for seed in range(30)]
    assert closed == [""] * 30  # `benchmarks/gates.py` counts more of them


def test_a_clip_is_hidden_only_where_all_views_are() -> None:
    keeper, black = Gatekeeper(("black",)), [np.zeros((*SIZE, 3), np.uint8)]
    assert keeper.judge_views([black, black]) == "black" and keeper.judge_views([black, clip(3, 1)]) == ""


def test_a_mask_touches_the_edge_of_frame_or_outline() -> None:
    masks = np.zeros((1, 20, 20), bool)
    assert not touches_edge(masks, None)
    masks[0, 5:9, 5:9] = True
    assert not touches_edge(masks, None)
    inside = np.ones((20, 20), bool)
    inside[:, 9:] = False
    assert touches_edge(masks, inside)
    masks[0, 0, 5] = True
    assert touches_edge(masks, None)


@pytest.mark.parametrize("state", ["", *GATES])
def test_masks_are_hidden_where_the_state_says_so_and_only_there(state: str) -> None:
    frame = Frame(0, 0.0, np.zeros((*SIZE, 3), np.uint8))
    logits = np.full((1, *SIZE), 3.0, np.float32)
    masked = MaskedFrame.of(frame, logits, 0.5, clip=0, position=0, latency_ms=1.0)
    gated = gated_frame(masked, state, ("edge",), None, 0.9)
    hidden = state in HIDING
    assert gated.masks.any() is not hidden and gated.state == state and gated.at_edge is not hidden
    assert gated.confidence == (None if hidden else 0.9)


def test_gates_are_parsed_and_unknown_ones_refused() -> None:
    assert parse_gates("black, frozen") == ("black", "frozen") and parse_gates("none") == ()
    assert parse_gates("auto", domain()) == GATES == tuple(MEANING)
    assert parse_gates("auto") == ("black", "frozen", "contact", "edge")  # a model that was never calibrated
    with pytest.raises(UsageError, match="expected auto, none, or some of"):
        parse_gates("dark")
    with pytest.raises(UsageError, match="calibrate-confidence"):
        Gatekeeper(("domain",))


def domain(threshold: float = 3.0) -> Domain:
    rng = np.random.default_rng(0)
    kernel = rng.standard_normal((4, 3, 7, 7)).astype(np.float32) / 12
    features = np.stack([first_features(clip(s, 1)[0], kernel, 4, (0.5,) * 3, (0.25,) * 3) for s in range(24)])
    whitening = np.diag(1 / features.std(axis=0)).astype(np.float32)
    return Domain(kernel, 4, (0.5,) * 3, (0.25,) * 3, features.mean(axis=0), whitening, threshold, 0.0)


def test_the_domain_knows_tissue_and_not_noise() -> None:
    keeper = Gatekeeper(("domain",), domain(2.4))  # noise lies at 3.0, tissue up to 1.9
    noise = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    assert keeper.judge([noise]) == "domain"
    assert [keeper.judge(clip(seed, 1)) for seed in range(100, 110)] == [""] * 10


def test_first_features_are_those_of_a_convolution() -> None:
    torch = pytest.importorskip("torch")
    kernel = np.random.default_rng(2).standard_normal((5, 3, 7, 7)).astype(np.float32)
    picture = clip(1, 1)[0]
    x = torch.from_numpy((picture.astype(np.float32) / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]
    truth = torch.nn.functional.conv2d(x, torch.from_numpy(kernel), stride=4)[0].numpy()
    found = first_features(picture, kernel, 4, (0.5,) * 3, (0.25,) * 3)
    # Sums of 147 float32 products in another order: a relative error of some 1e-6 of values around 10.
    assert np.allclose(found[:5], truth.mean(axis=(1, 2)), atol=1e-4)
    assert np.allclose(found[5:], truth.std(axis=(1, 2)), rtol=1e-4)


def test_expected_dice_is_that_of_independent_pixels() -> None:
    logits = np.full((1, 8, 8), -20.0, np.float32)
    logits[0, :4] = np.log(4)  # probability 0.8 of half of the pixels
    # 2 * 0.8 n / (0.8 n + n) = 1.6 / 1.8
    assert expected_dice(logits, 0.5, 1.0) == pytest.approx(1.6 / 1.8, rel=1e-5)
    assert expected_dice(logits, 0.5, 4.0) < expected_dice(logits, 0.5, 1.0) < expected_dice(logits, 0.5, 0.5)
    nothing = np.full((1, 8, 8), -4.0, np.float32)
    assert expected_dice(nothing, 0.5, 1.0, 0.5) == pytest.approx(0.5 / (1 + np.exp(-4)), rel=1e-5)


def test_a_record_comes_back_as_it_was_written() -> None:
    record = Confidence(1.5, 0.7, "phantoms", 0.02, 0.01, domain())
    back = Confidence.from_json(record.to_json(), "x")
    assert (back.temperature, back.nothing, back.data, back.error_after) == (1.5, 0.7, "phantoms", 0.01)
    assert record.domain is not None and back.domain is not None
    picture = clip(5, 1)[0]
    assert back.domain.distance(picture) == record.domain.distance(picture)
    assert Confidence.from_json(replace(record, domain=None).to_json(), "x").domain is None


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"temperature": 0}, id="temperature of nothing"),
        pytest.param({"temperature": "hot"}, id="no number"),
        pytest.param({"nothing": 2}, id="no share"),
        pytest.param({"domain": {}}, id="a domain without anything"),
        pytest.param({"domain": 7}, id="no domain"),
    ],
)
def test_a_damaged_record_is_refused_with_what_to_do(change: dict[str, object]) -> None:
    values = {**json.loads(Confidence(1.5).to_json()), **change}
    with pytest.raises(ModelError, match=r"m\.onnx: the record of its confidence .* calibrate-confidence again"):
        Confidence.from_json(json.dumps(values), "m.onnx")


def test_a_domain_whose_arrays_do_not_fit_is_refused() -> None:
    values = json.loads(Confidence(1.5, domain=domain()).to_json())
    values["domain"]["centre"]["shape"] = [7]
    with pytest.raises(ModelError, match="numbers do not fit"):
        Confidence.from_json(json.dumps(values), "m.onnx")
