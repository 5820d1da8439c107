"""Gates: each closes for what it is meant for, and for no tissue; records of confidence survive and refuse damage."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import cv2
import numpy as np
import pytest

from vivim_runtime.confidence import Confidence, Domain, expected_dice, first_features
from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.gating import GATES, HIDING, MEANING, Gatekeeper, parse_gates, touches_edge
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sinks.base import MaskedFrame, gated_frame
from vivim_runtime.sources import Frame
from vivim_runtime.texture import TEXTURE_FEATURES as D
from vivim_runtime.texture import Texture, texture_features

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


@cache
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


def texture(odds: float = 0.0, far: float = 9.0) -> Texture:
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(n).astype(np.float32) for n in (D, D, 1 + D + D * (D + 1) // 2)]
    whitening = rng.standard_normal((D, D)).astype(np.float32)
    return Texture(arrays[0], np.abs(arrays[1]) + 1, arrays[2], odds, whitening, arrays[0][::-1].copy(), far)


def test_grain_says_down_from_across_and_strong_from_faint() -> None:
    """White noise is alike in all directions and correlated in none; drawn out across, only in that one."""
    noise = np.random.default_rng(0).integers(40, 216, SIZE, np.uint8)
    white = texture_features(np.repeat(noise[..., None], 3, axis=2))
    wide = texture_features(np.repeat(cv2.blur(noise, (9, 1))[..., None], 3, axis=2))
    across, down, anisotropy = 9, 12, 16  # lag 1 of either, in the picture itself
    # Correlations of n = H W independent pixels have a standard error of 1 / sqrt(n), some 0.01; less the local mean of
    # 15 pixels, another 0.01.
    assert np.abs(white[[across, down]]).max() < 0.05 and abs(white[anisotropy]) < 0.05
    assert wide[across] > 0.7 and abs(wide[down]) < 0.1 and wide[anisotropy] > 1
    assert texture_features(np.full((*SIZE, 3), 128, np.uint8))[across + 8] == 1.0  # all of it is flat


@pytest.mark.parametrize("size", [(1, 1), (3, 40), (8, 8), (64, 48)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_grain_of_any_picture_is_finite(size: tuple[int, int], level: int) -> None:
    found = texture_features(np.full((*size, 3), level, np.uint8))
    assert found.shape == (D,) and np.isfinite(found).all()


def test_a_picture_is_strange_by_its_features_by_the_odds_of_its_grain_or_by_its_distance() -> None:
    picture = clip(100, 1)[0]
    odds, far = (float(values[0]) for values in texture().judged(texture_features(picture)[None]))
    known = domain()
    assert known.knows(picture)
    assert replace(known, texture=texture(odds + 0.1, far + 0.1)).knows(picture)
    assert not replace(known, texture=texture(odds - 0.1, far + 0.1)).knows(picture)
    assert not replace(known, texture=texture(odds + 0.1, far - 0.1)).knows(picture)
    assert not replace(known, threshold=1e-6, texture=texture(odds + 0.1, far + 0.1)).knows(picture)


def test_a_record_without_grain_is_one_of_before_there_was_one() -> None:
    """The same features decide, and the record that is written is that of before, to the letter."""
    old = Confidence(1.5, domain=domain())
    values = json.loads(old.to_json())
    assert set(values["domain"]) == {
        "kernel", "stride", "mean", "std", "centre", "whitening", "threshold", "false_alarms",
    }  # fmt: skip
    back = Confidence.from_json(json.dumps(values), "x")
    assert back.domain is not None and back.domain.texture is None and back.to_json() == old.to_json()
    new = Confidence(1.5, domain=replace(domain(), texture=texture()))
    values = json.loads(new.to_json())
    del values["domain"]["texture"]  # a version of before reads the rest, and judges by it
    assert values == json.loads(old.to_json())


def test_grain_comes_back_as_it_was_written() -> None:
    record = Confidence(1.5, domain=replace(domain(), texture=texture(0.5, 4.0)))
    back = Confidence.from_json(record.to_json(), "x")
    assert back.to_json() == record.to_json() and back.domain is not None and back.domain.texture is not None
    features = texture_features(clip(5, 1)[0])[None]
    assert back.domain.texture.judged(features) == texture().judged(features)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"odds": float("inf")}, "none|JSON", id="odds without end"),
        pytest.param({"far": 0}, "none", id="no distance"),
        pytest.param({"centre": {"shape": [2], "float32": "AAAAAAAAAAA="}}, "does not know", id="other features"),
        pytest.param({"weights": None}, "subscriptable", id="no weights"),
    ],
)
def test_grain_that_cannot_be_used_is_refused_in_one_line(change: dict[str, object], said: str) -> None:
    values = json.loads(Confidence(1.5, domain=replace(domain(), texture=texture())).to_json())
    values["domain"]["texture"].update(change)
    with pytest.raises(ModelError, match=said) as caught:
        Confidence.from_json(json.dumps(values), "x.onnx")
    assert str(caught.value).startswith("x.onnx: ") and "calibrate-confidence" in str(caught.value)


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
