"""How sure a model is, and what kind of pictures it knows: a record that `vivim-train calibrate-confidence` writes.

In safetensors it is the metadata `confidence`, in model files `vivim.confidence`. A network's probabilities are too
sure of themselves, mostly; logits divided by a temperature that was learnt on validation data are not. And a network
marks something in every picture, also in one that is no ultrasound: therefore the record has the statistics of the
encoder's first features over the pictures of the training, which the features of another kind of picture leave, and a
judge of the grain that tells echoes from other grey pictures (vivim_runtime/texture.py).
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import ModelError
from vivim_runtime.text import parse_json
from vivim_runtime.texture import TEXTURE_FEATURES, TEXTURE_PRODUCTS, Texture

__all__ = ["CONFIDENCE_KEY", "Confidence", "Domain", "expected_dice", "first_features"]

CONFIDENCE_KEY = "confidence"

Array = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]

# Arrays of a record's `texture`, with their shapes.
_TEXTURE_ARRAYS = {
    "centre": (TEXTURE_FEATURES,),
    "scale": (TEXTURE_FEATURES,),
    "weights": (TEXTURE_PRODUCTS,),
    "whitening": (TEXTURE_FEATURES, TEXTURE_FEATURES),
    "middle": (TEXTURE_FEATURES,),
}
# Bounds of what a file may say.
_MOST_CHANNELS, _MOST_PATCH = 1024, 32


@dataclass(frozen=True, eq=False)
class Domain:
    """Which pictures a network knows.

    Attributes:
        kernel: (C, 3, k, k), of the encoder's first convolution, for RGB in 0..1 less `mean`, divided by `std`.
        stride: of that.
        mean, std: normalisation, RGB.
        centre: (2 C), mean over the training of a picture's mean and standard deviation of each channel.
        whitening: (D, 2 C), to independent directions of variance 1.
        threshold: distance from the centre beyond which a picture is of another kind.
        false_alarms: share of pictures of the validation that are taken for another kind.
        texture: judges grain; None in files of before there was one.
    """

    kernel: Array
    stride: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    centre: Array
    whitening: Array
    threshold: float
    false_alarms: float
    texture: Texture | None = None

    def distance(self, picture: Picture) -> float:
        """Of a picture uint8 (H, W, 3) from those of the training, a root mean square over the directions."""
        features = first_features(picture, self.kernel, self.stride, self.mean, self.std)
        z = self.whitening @ (features - self.centre)
        return float(np.sqrt(np.mean(z * z)))

    def knows(self, picture: Picture) -> bool:
        """Whether the picture is of the kind of the training."""
        if self.distance(picture) > self.threshold:
            return False
        return self.texture is None or self.texture.knows(picture)


@dataclass(frozen=True, eq=False)
class Confidence:
    """What the record holds.

    Attributes:
        temperature: that logits are divided by before they are probabilities.
        nothing: share of the frames in which nothing was marked, and nothing was.
        data: what it was learnt on, for people.
        error_before, error_after: expected calibration error of the probabilities, on the data it was learnt on.
        domain: which pictures the network knows; None where nobody has measured it.
    """

    temperature: float
    nothing: float = 1.0
    data: str = ""
    error_before: float = 0.0
    error_after: float = 0.0
    domain: Domain | None = None

    def __post_init__(self) -> None:
        if not 0.01 <= self.temperature <= 100:
            raise ModelError(f"the temperature is {self.temperature}; expected 0.01 to 100")
        if not 0 <= self.nothing <= 1:
            raise ModelError(f"the share of frames that are rightly empty is {self.nothing}; expected 0 to 1")

    def expects(self, logits: npt.NDArray[np.float32], threshold: float) -> float:
        """The Dice that the model itself expects of its mask in a frame; see `expected_dice`."""
        return expected_dice(logits, threshold, self.temperature, self.nothing)

    def to_json(self) -> str:
        """One line of JSON that `from_json` takes."""
        values: dict[str, Any] = {
            "temperature": self.temperature,
            "nothing": self.nothing,
            "data": self.data,
            "error_before": self.error_before,
            "error_after": self.error_after,
        }
        if self.domain is not None:
            d = self.domain
            values["domain"] = {
                "kernel": _packed(d.kernel),
                "stride": d.stride,
                "mean": list(d.mean),
                "std": list(d.std),
                "centre": _packed(d.centre),
                "whitening": _packed(d.whitening),
                "threshold": d.threshold,
                "false_alarms": d.false_alarms,
            }
            if d.texture is not None:
                values["domain"]["texture"] = {
                    **{name: _packed(getattr(d.texture, name)) for name in _TEXTURE_ARRAYS},
                    "odds": d.texture.odds,
                    "far": d.texture.far,
                }
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, origin: str) -> Confidence:
        """The record that `to_json` wrote; ModelError, which begins with `origin`, where it is none."""
        try:
            values = dict(parse_json(text))
            domain = values.pop("domain", None)
            found = cls(
                float(values["temperature"]),
                float(values.get("nothing", 1.0)),
                str(values.get("data", ""))[:400],
                float(values.get("error_before", 0)),
                float(values.get("error_after", 0)),
                None if domain is None else _domain(domain),
            )
        except (ValueError, TypeError, KeyError, AttributeError, ModelError) as error:
            raise ModelError(
                f"{origin}: the record of its confidence cannot be read ({error}); "
                "run vivim-train calibrate-confidence again"
            ) from None
        return found


def _packed(array: Array) -> dict[str, Any]:
    values = np.ascontiguousarray(array, "<f4")
    return {"shape": list(array.shape), "float32": base64.b64encode(values.tobytes()).decode("ascii")}


def _unpacked(entry: Any, dimensions: int) -> Array:
    """ValueError, TypeError or KeyError where it is none."""
    shape = [int(side) for side in entry["shape"]]
    if len(shape) != dimensions or min(shape) < 1 or max(shape) > 2 * _MOST_CHANNELS:
        raise ValueError(f"an array of shape {shape}; expected {dimensions} sides")
    values = np.frombuffer(base64.b64decode(entry["float32"], validate=True), "<f4")
    if values.size != np.prod(shape, dtype=np.int64) or not np.isfinite(values).all():
        raise ValueError("an array whose numbers do not fit its shape, or are not finite")
    return values.reshape(shape).astype(np.float32)


def _domain(entry: Any) -> Domain:
    kernel, centre = _unpacked(entry["kernel"], 4), _unpacked(entry["centre"], 1)
    whitening = _unpacked(entry["whitening"], 2)
    stride, threshold = int(entry["stride"]), float(entry["threshold"])
    channels, colours, tall, wide = kernel.shape
    if colours != 3 or tall != wide or tall > _MOST_PATCH or not 1 <= stride <= tall or threshold <= 0:
        raise ValueError("a convolution that is none of an encoder's first")
    if centre.shape != (2 * channels,) or whitening.shape[1] != 2 * channels:
        raise ValueError("statistics of other features")
    mean, std = (tuple(float(value) for value in entry[key]) for key in ("mean", "std"))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError("a normalisation that is none")
    texture = None if entry.get("texture") is None else _texture(entry["texture"])
    return Domain(kernel, stride, mean, std, centre, whitening, threshold, float(entry["false_alarms"]), texture)


def _texture(entry: Any) -> Texture:
    arrays = {name: _unpacked(entry[name], len(shape)) for name, shape in _TEXTURE_ARRAYS.items()}
    odds, far = float(entry["odds"]), float(entry["far"])
    if any(arrays[name].shape != shape for name, shape in _TEXTURE_ARRAYS.items()):
        raise ValueError("statistics of grain that this version does not know")
    if arrays["scale"].min() <= 0 or not np.isfinite(odds) or not 0 < far < np.inf:
        raise ValueError("statistics of grain that are none")
    return Texture(odds=odds, far=far, **arrays)


def first_features(
    picture: Picture, kernel: Array, stride: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> Array:
    """Mean and standard deviation over a picture uint8 (H, W, 3) of the encoder's first features: (2 C).

    Args:
        kernel: (C, 3, k, k); the convolution's bias is left out, and its padding, so that no border is seen.
    """
    centred = picture.astype(np.float32) / np.float32(255) - np.array(mean, np.float32)
    x = centred / np.array(std, np.float32)
    k = kernel.shape[-1]
    patches = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(0, 1))[::stride, ::stride]  # (h, w, 3, k, k)
    flat = np.ascontiguousarray(patches).reshape(-1, kernel[0].size)
    values = flat @ kernel.reshape(len(kernel), -1).T
    return np.concatenate((values.mean(axis=0), values.std(axis=0)))


def expected_dice(logits: npt.NDArray[np.float32], threshold: float, temperature: float, nothing: float = 1.0) -> float:
    """The Dice that the model itself expects of its mask, from calibrated probabilities, 0 to 1.

    2 sum(p m) / (sum p + sum m) over the pixels, p the probability and m the mask; where nothing is marked, the
    probability that the likeliest pixel is none either, times `nothing`: pixels do not know of each other, and whole
    lesions are missed. Of several classes, the least sure one that marks something.

    Args:
        logits: (K, H, W) of one frame, at the model's own size.
        threshold: probability, not calibrated, above which a pixel is marked.
        temperature: of the calibration.
        nothing: how often it is right that nothing is marked.
    """
    z = np.clip(logits.astype(np.float32), -60, 60)
    marked = z > np.float32(np.log(threshold / (1 - threshold)))
    p = 1 / (1 + np.exp(-z / np.float32(temperature)))
    found = []
    for probability, mask in zip(p, marked, strict=True):
        if mask.any():
            found.append(float(2 * probability[mask].sum() / (probability.sum() + mask.sum())))
    return min(found) if found else float(nothing * (1 - p.max()))
