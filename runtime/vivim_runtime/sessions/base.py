"""A model that runs: clips of pixels in, logits out, whatever the file behind it is.

A file says about itself what is needed (ModelInfo), and everything else in the runtime sees only `Session`.
Behind it stands ONNX Runtime (sessions.onnx), an engine of TensorRT (sessions.tensorrt), or PyTorch, which another
package registers.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vivim_runtime.confidence import CONFIDENCE_KEY, Confidence
from vivim_runtime.contract import CONTRACT_KEY, InputContract
from vivim_runtime.errors import ModelError
from vivim_runtime.framing import Framing
from vivim_runtime.provenance import DATA_KEY, TrainingData, data_from_json
from vivim_runtime.regions import RegionRule
from vivim_runtime.text import parse_json, parse_number, printable

__all__ = [
    "ClassInfo",
    "Clips",
    "Logits",
    "ModelInfo",
    "Outlining",
    "Session",
    "StateInfo",
    "Stream",
    "film_runner",
    "model_input",
    "no_stream",
    "states_to_json",
]

Clips = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

_SAME_RATE = 0.1  # 29.97 and 30, or 24 and 25, are one rate
# The newest description of itself (vivim.format) that this version reads.
_FORMAT = 2  # 2: streaming files, whose states are inputs and outputs
# Bounds of what a file may say: far beyond every model, and small enough that a lie cannot take all memory.
_MOST = {"frames": 4096, "height": 16384, "width": 16384}
_MOST_BATCH = 4096
_MOST_PIXELS = 1 << 30  # of a call: 3 GB of uint8
_MOST_CLASSES = 254  # that an 8-bit label image can hold beside the background
_MOST_LETTERS = 128
_MOST_STATES = 1024
_MOST_NUMBERS = 1 << 30  # of the states together


@dataclass(frozen=True)
class ClassInfo:
    """One output class.

    Attributes:
        name: for people.
        color: RGB, to draw it in.
        category, kind: what it is in DICOM's words (Segmented Property Category and Type, PS3.3 C.8.20.4), each
            (value, coding scheme, meaning), where whoever exported the model has said it.
    """

    name: str
    color: tuple[int, int, int]
    category: tuple[str, str, str] | None = None
    kind: tuple[str, str, str] | None = None

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> ClassInfo:
        """An entry of `vivim.classes`; KeyError, TypeError or ValueError where it is none."""
        if not isinstance(entry, Mapping):
            raise ValueError(f"a class is {_quoted(entry)}; expected a name and a color")
        color = entry["color"]
        levels = isinstance(color, list | tuple) and all(isinstance(c, int) and not isinstance(c, bool) for c in color)
        if not levels or len(color) != 3 or not all(0 <= c <= 255 for c in color):
            raise ValueError(f"the color of a class is {_quoted(color)}; expected three levels of 0 to 255")
        name = _word(entry["name"], "the name of a class")
        return cls(name, tuple(color), _concept(entry.get("category")), _concept(entry.get("type")))


@dataclass(frozen=True)
class StateInfo:
    """What a streaming file remembers: a tensor that a call gives and the next call takes, float32.

    Attributes:
        input, output: its names in the file.
        shape: with the batch first; zeros before a film.
    """

    input: str
    output: str
    shape: tuple[int, ...]

    @classmethod
    def from_json(cls, entry: Any) -> StateInfo:
        """An entry of `vivim.states`; KeyError, TypeError or ValueError where it is none."""
        if not isinstance(entry, Mapping):
            raise ValueError(f"a state is {_quoted(entry)}; expected names and a shape")
        shape = entry["shape"]
        whole = isinstance(shape, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in shape)
        if not whole or not 1 <= len(shape) <= 8 or not all(0 < n < _MOST_NUMBERS for n in shape):
            raise ValueError(f"the shape of a state is {_quoted(shape)}; expected sizes")
        return cls(_word(entry["input"], "a state's input"), _word(entry["output"], "a state's output"), tuple(shape))


def states_to_json(states: Sequence[StateInfo]) -> str:
    """`vivim.states`, which ModelInfo reads."""
    return json.dumps([{"input": s.input, "output": s.output, "shape": list(s.shape)} for s in states])


def _states(values: Any) -> tuple[StateInfo, ...]:
    if not isinstance(values, list) or len(values) > _MOST_STATES:
        raise ValueError(f"states are {_quoted(values)}; expected a list of at most {_MOST_STATES}")
    states = tuple(StateInfo.from_json(value) for value in values)
    names = [name for state in states for name in (state.input, state.output)]
    if len(set(names)) < len(names):
        raise ValueError("two states have one name")
    if sum(math.prod(state.shape) for state in states) > _MOST_NUMBERS:
        raise ValueError(f"the states have more than {_MOST_NUMBERS} numbers")
    return states


def _concept(code: Any) -> tuple[str, str, str] | None:
    """(value, scheme, meaning) of a code in JSON, within the lengths of DICOM's SH and LO."""
    if code is None:
        return None
    value, scheme, meaning = code
    for text, most in ((value, 16), (scheme, 16), (meaning, 64)):
        if not isinstance(text, str) or not 0 < len(text) <= most or not text.isprintable() or "\\" in text:
            raise ValueError(f"{text!r} in a code; expected text of 1 to {most} characters")
    return value, scheme, meaning


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says about itself.

    Attributes:
        path: the file.
        preset: name of the network.
        frames: T, frames of a clip.
        size: (H, W) of the input in pixels.
        classes: the K output classes.
        precision: fp32, fp16, ...
        input: "uint8" pixels, or "float32" normalised outside (exported with --raw-input).
        mean, std: normalisation, RGB in 0..1.
        batch: clips a call; None takes any number.
        weights_sha256: of the checkpoint it was exported from.
        metadata: everything else, as text.
        contract: pictures and clips that the weights were trained on; None of files that do not say.
        training_data: what they were trained on.
        confidence: how sure it is, and what pictures it knows; None where nobody has calibrated it.
        streaming: it takes a film frame by frame (`frames` is 1) and remembers; `Session.stream` runs it.
        states: what it remembers from one call to the next.
    """

    path: Path
    preset: str
    frames: int
    size: tuple[int, int]
    classes: tuple[ClassInfo, ...]
    precision: str
    input: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    batch: int | None
    weights_sha256: str
    metadata: dict[str, str] = field(repr=False)
    contract: InputContract | None = None
    training_data: tuple[TrainingData, ...] = field(default=(), repr=False)
    confidence: Confidence | None = field(default=None, repr=False)
    streaming: bool = False
    states: tuple[StateInfo, ...] = field(default=(), repr=False)

    @property
    def hop(self) -> int:
        """Frames from one clip to the next where nobody asks for others."""
        if self.streaming:
            return 1
        return self.contract.default_hop(self.frames) if self.contract else self.frames

    @property
    def takes(self) -> InputContract:
        """How frames become what this file takes; files that do not say take whole pictures, stretched."""
        return (self.contract or InputContract.assumed(self.frames)).at(self.size, self.frames)

    def framing(self, rule: RegionRule | None = None) -> Framing:
        """How frames become pictures of it, and its logits come back, before a region is found in any frame.

        Args:
            rule: where the region comes from; None is that of the training.
        """
        contract = self.takes
        return Framing(contract if rule is None else dataclasses.replace(contract, region=str(rule)))

    def departure_of(self, rule: RegionRule | None) -> tuple[str, ...]:
        """In what a region that is asked for differs from that of the training; () where it does not."""
        if rule is None or rule == self.takes.rule:
            return ()
        return (f"trained on {self.takes.rule.describe()}, used on {rule.describe()}",)

    @property
    def departures(self) -> tuple[str, ...]:
        """In what its clips differ from those of the training, such as "trained at 128x128, exported at 256x256"."""
        return self._departing(1)

    def departures_at(self, rate: float, timed: bool) -> tuple[str, ...]:
        """The same of a run on frames that come at a rate.

        Args:
            rate: frames a second of its clips; 0 where nobody knows.
            timed: whether clips choose their frames by time, as live ones do; others take one frame after the other.
        """
        trained = self.takes.clip_fps
        known = trained is not None and rate > 0
        found = self._departing(self.takes.stride if timed and known else 1)
        if trained is not None and known and abs(rate / trained - 1) > _SAME_RATE:
            found += (f"trained on clips of {trained:g} frames a second, used on clips of {rate:g}",)
        return found

    def _departing(self, stride: int) -> tuple[str, ...]:
        if self.contract is None:
            return ()
        done = "exported" if self.path.suffix in (".onnx", ".engine") else "used"
        frames = self.contract.frames if self.streaming else self.frames  # however long its films were in the training
        return tuple(self.contract.departures(self.size, frames, done, stride))

    @classmethod
    def from_metadata(cls, path: Path, metadata: dict[str, str]) -> ModelInfo:
        """The description in a file's metadata; ModelError when vivim-export did not write it."""
        version = metadata.get("vivim.format")
        if version is None:
            raise ModelError(
                f"{path} was not written by vivim-export; make one with: vivim-export onnx --weights W -o M"
            )
        number = parse_number(version)
        if number is None or number > _FORMAT:
            raise ModelError(
                f"{path} has format {printable(version, 40)}, this version reads up to {_FORMAT}; update vivim-edge"
            )
        try:
            return cls._from_text(path, metadata)
        except KeyError as error:
            raise ModelError(f"{path} describes itself wrongly: {error} is missing; export it again") from None
        except (ValueError, TypeError) as error:
            reason = printable(str(error), 200)
            raise ModelError(f"{path} describes itself wrongly: {reason}; export it again") from None

    @classmethod
    def _from_text(cls, path: Path, metadata: dict[str, str]) -> ModelInfo:
        """ValueError, TypeError or KeyError say what is wrong."""
        text = {key.removeprefix("vivim."): value for key, value in metadata.items()}
        contract = metadata.get(f"vivim.{CONTRACT_KEY}")
        confidence = text.get(CONFIDENCE_KEY)
        frames, height, width = (_number(text, key, most) for key, most in _MOST.items())
        batch = None if text["batch"] == "dynamic" else _number(text, "batch", _MOST_BATCH)
        pixels = frames * height * width * (batch or 1)
        if pixels > _MOST_PIXELS:
            raise ValueError(f"a call takes {pixels} pixels; expected at most {_MOST_PIXELS}")
        streaming = text.get("streaming") == "1"
        if streaming and (frames != 1 or batch is None):
            raise ValueError("a streaming file takes more or less than one frame, or any number of films")
        if text["input"] not in ("uint8", "float32"):
            raise ValueError(f"input is {_quoted(text['input'])}; expected uint8 or float32")
        return cls(
            path=path,
            preset=_word(text["preset"], "preset"),
            frames=frames,
            size=(height, width),
            classes=_classes(parse_json(text["classes"])),
            precision=_word(text["precision"], "precision"),
            input=text["input"],
            mean=_channels(text, "mean"),
            std=_channels(text, "std", positive=True),
            batch=batch,
            weights_sha256=_word(text["weights_sha256"], "weights_sha256"),
            metadata=metadata,
            contract=None if contract is None else InputContract.from_json(contract, str(path)),
            training_data=data_from_json(text.get(DATA_KEY, "[]"), str(path)),
            confidence=None if confidence is None else Confidence.from_json(confidence, str(path)),
            streaming=streaming,
            states=_states(parse_json(text.get("states", "[]"))) if streaming else (),
        )

    def check_logits(self, shape: Sequence[int | str | None], clips: int | None = None) -> None:
        """ModelError where logits are not (B, T, K, H, W) as described; an axis that is no number is not known yet.

        Args:
            clips: B of a call; None takes what the description says.
        """
        expected = (self.batch if clips is None else clips, self.frames, len(self.classes), *self.size)
        self._check_axes("logits", shape, expected)

    def check_input(self, shape: Sequence[int | str | None]) -> None:
        """ModelError where the input is not the clips that the description says."""
        clip = (self.frames, 3, *self.size) if self.input == "float32" else (self.frames, *self.size, 3)
        self._check_axes("its input", shape, (self.batch, *clip))

    def _check_axes(self, what: str, shape: Sequence[int | str | None], expected: tuple[int | None, ...]) -> None:
        known = [(axis, size) for axis, size in zip(shape, expected, strict=False) if isinstance(axis, int)]
        if len(shape) != len(expected) or any(axis != size for axis, size in known):
            said = ", ".join("any" if size is None else str(size) for size in expected)
            found = ", ".join(printable(str(axis), 20) for axis in shape)
            raise ModelError(f"{self.path} has {what} as ({found}), its description says ({said}); export it again")


def _quoted(value: Any) -> str:
    return printable(repr(value), 80)


def _number(text: dict[str, str], key: str, most: int) -> int:
    value = parse_number(text[key])
    if value is None or not 1 <= value <= most:
        raise ValueError(f"{key} is {_quoted(text[key])}; expected 1 to {most}")
    return value


def _word(value: Any, what: str) -> str:
    """A short text that can be shown anywhere."""
    if not isinstance(value, str) or not value or not value.isprintable() or len(value) > _MOST_LETTERS:
        raise ValueError(
            f"{what} is {_quoted(value)}; expected 1 to {_MOST_LETTERS} letters without control characters"
        )
    return value


def _channels(text: dict[str, str], key: str, positive: bool = False) -> tuple[float, ...]:
    values = parse_json(text[key])
    kinds = isinstance(values, list) and all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if not kinds or len(values) != 3 or not all(abs(v) < 1e6 and (v > 0 or not positive) for v in values):
        raise ValueError(f"{key} is {_quoted(text[key])}; expected three {'positive ' if positive else ''}numbers")
    return tuple(float(v) for v in values)


def _classes(values: Any) -> tuple[ClassInfo, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= _MOST_CLASSES:
        raise ValueError(f"classes are {_quoted(values)}; expected 1 to {_MOST_CLASSES} names with colours")
    classes = [ClassInfo.from_json(value) for value in values]
    if len({info.name for info in classes}) < len(classes):
        raise ValueError("two classes have one name")
    return tuple(classes)


class Session(Protocol):
    """A model ready to run; a context manager that gives back what it holds.

    Attributes:
        backend: what runs it, for people.
        device: where: cpu, cuda.
    """

    @property
    def backend(self) -> str: ...

    @property
    def info(self) -> ModelInfo: ...

    @property
    def device(self) -> str: ...

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W).

        A streaming file takes any T here, as a film from its first frame on, and forgets it afterwards.
        """
        ...

    def step(self, frames: Clips, states: Any) -> tuple[Logits, Any]:
        """One more frame of a streaming file: uint8 RGB (B, 1, H, W, 3) -> logits (B, 1, K, H, W), and its states.

        Args:
            states: what the call before gave; None before the first frame. Streams have states of their own, so that
                several run through one session. Give them once: those of an engine stay on the GPU, and are gone then.

        Raises:
            ModelError: it is no streaming file.
        """
        ...

    def warm_up(self) -> None:
        """Run once on black pixels, so that the first real clip is not the slow one."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Outlining(Protocol):
    """A session whose network may have an edge head too; a model file never has."""

    def with_outlines(self) -> Session | None:
        """The same with the logits of outlines behind those of the classes; None without an edge head."""
        ...


class Stream:
    """A film, or as many at once as a streaming file has a batch for, frame after frame through its session.

    Attributes:
        seen: frames since the beginning, or the last reset.
    """

    def __init__(self, session: Session) -> None:
        self._session, self._states = session, None
        self.seen = 0

    def __call__(self, clips: Clips) -> Logits:
        """The next T >= 1 frames, uint8 RGB (B, T, H, W, 3) -> float32 logits (B, T, K, H, W)."""
        logits = []
        for t in range(clips.shape[1]):
            found, self._states = self._session.step(np.ascontiguousarray(clips[:, t : t + 1]), self._states)
            logits.append(found)
            self.seen += 1
        return logits[0] if len(logits) == 1 else np.concatenate(logits, axis=1)

    def reset(self) -> None:
        """Forget: the next frame is the first of a film."""
        self._states, self.seen = None, 0


def film_runner(session: Session) -> Callable[[Clips], Logits]:
    """What runs the clips of one film, in order: a stream that remembers, or the session, whose clips stand alone."""
    return Stream(session) if session.info.streaming else session


def no_stream(info: ModelInfo) -> ModelError:
    """What `Session.step` of a clip file raises."""
    return ModelError(f"{info.path} takes clips of {info.frames} frames, and remembers nothing from call to call")


def model_input(info: ModelInfo, clips: Clips) -> npt.NDArray[Any]:
    """What a model's input takes of clips: themselves, or float32 (B, T, 3, H, W) where it is normalised outside.

    Raises:
        ModelError: the clips have another shape or type than uint8 (B, T, H, W, 3).
    """
    if (
        clips.shape[1:] != (info.frames, *info.size, 3)
        or clips.dtype != np.uint8
        or info.batch not in (None, len(clips))
    ):
        raise ModelError(
            f"clips of {clips.dtype} {clips.shape}; {info.path} takes uint8 "
            f"({info.batch or 'B'}, {info.frames}, {info.size[0]}, {info.size[1]}, 3)"
        )
    if info.input != "float32":
        return clips
    mean, std = np.array(info.mean, np.float32), np.array(info.std, np.float32)
    scaled = (clips.astype(np.float32) / 255.0 - mean) / std
    return np.ascontiguousarray(np.moveaxis(scaled, -1, 2), np.float32)
