"""What clips taught about a model: the range of every activation, as a file that can be used again.

The activations are read from the float32 model in ONNX Runtime, one clip at a time; only histograms are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from vivim_calibration.clips import ClipSet
from vivim_calibration.histogram import METHODS, Histogram, range_of
from vivim_calibration.layers import quantisable_layers
from vivim_runtime.clips import Clip
from vivim_runtime.errors import DataError, ModelError, PluginError, UsageError
from vivim_runtime.files import write_text
from vivim_runtime.sessions.base import ModelInfo, model_input
from vivim_runtime.sessions.onnx import inference_session, onnx_runtime
from vivim_runtime.text import parse_json

__all__ = ["Calibration", "check_method", "learn_ranges"]

_FORMAT = 1
# What one run may hand out of activations: more are read in several runs of the same clip.
_BYTES_A_RUN = 1 << 30


@dataclass(frozen=True)
class Calibration:
    """Ranges, and what they were made from.

    Attributes:
        model_sha256: of the float32 file.
        method: of vivim_calibration.histogram.METHODS.
        clips: SHA-256 of the pixels of every clip.
        ranges: largest magnitude that int8 covers, of every activation.
    """

    model_sha256: str
    method: str
    clips: tuple[str, ...]
    ranges: dict[str, float]

    @property
    def data_sha256(self) -> str:
        """Fingerprint of all clips together."""
        return hashlib.sha256("\n".join(self.clips).encode()).hexdigest()

    @property
    def sha256(self) -> str:
        """Of the file that `save` writes."""
        return hashlib.sha256(self._text().encode()).hexdigest()

    def _text(self) -> str:
        record = {
            "format": _FORMAT,
            "model_sha256": self.model_sha256,
            "method": self.method,
            "data_sha256": self.data_sha256,
            "clips": list(self.clips),
            "ranges": self.ranges,
        }
        return json.dumps(record, indent=1, sort_keys=True) + "\n"

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        write_text(path, self._text())

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file of `save`; DataError where it is none."""
        try:
            record = parse_json(path.read_text(encoding="utf-8"))
            if record["format"] != _FORMAT:
                raise ValueError(f"format {record['format']}")
            ranges = {str(name): float(value) for name, value in record["ranges"].items()}
            if not all(np.isfinite(value) and value >= 0 for value in ranges.values()):
                raise ValueError("a range that is no magnitude")
            result = cls(str(record["model_sha256"]), str(record["method"]), tuple(record["clips"]), ranges)
            if record["data_sha256"] != result.data_sha256:
                raise ValueError("its clips are not those of its fingerprint")
        except OSError as error:
            raise DataError(f"cannot read the cache {path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path} is no calibration cache ({error}); delete it, or give another --cache") from None
        return result

    def check(self, path: Path, model: str, method: str | None, activations: Sequence[str]) -> None:
        """DataError where the cache at `path` is of another model (its SHA-256), or of another method than asked."""
        if self.model_sha256 != model or not set(activations) <= set(self.ranges):
            raise DataError(
                f"{path} was made for another model (sha256 {self.model_sha256[:12]}, this one is {model[:12]}); "
                "delete it, or give another --cache"
            )
        if method is not None and method != self.method:
            raise DataError(f"{path} holds ranges of --method {self.method}, not {method}; give another --cache")

    def check_clips(self, path: Path, clips: ClipSet) -> None:
        """DataError where the cache at `path` was made from other clips."""
        found = tuple(clip.digest for clip in clips)
        if found != self.clips:
            raise DataError(
                f"{path} was made from other clips ({len(self.clips)} of them, fingerprint {self.data_sha256[:12]}); "
                "give those with the same --fraction, --max-clips and --seed, or another --cache"
            )


def check_method(method: str) -> None:
    """UsageError for a method that is not there."""
    if method not in METHODS:
        raise UsageError(f"--method is {method}; expected {', '.join(METHODS)}")


def learn_ranges(
    model: onnx.ModelProto,
    info: ModelInfo,
    digest: str,
    clips: ClipSet,
    method: str,
    threads: int = 0,
    on_clip: Callable[[int], None] = lambda _: None,
) -> Calibration:
    """Learn the ranges of a float32 model's activations.

    Args:
        info: what the file says about itself.
        digest: SHA-256 of the file.
        clips: what to learn from.
        method: of vivim_calibration.histogram.METHODS.
        threads: CPU threads; 0 is automatic.
        on_clip: called with the number of clips done.

    Raises:
        DataError: an activation that is not finite, or clips without anything on them.
    """
    check_method(method)
    readers: dict[str, str] = {}  # an activation, and the first layer that reads it
    for layer in quantisable_layers(model):
        readers.setdefault(layer.activation, layer.name)
    histograms = {name: Histogram() for name in readers}
    probe = _Probe(model, info, list(readers), threads)
    digests, flat = [], True
    for done, clip in enumerate(clips, 1):
        flat = flat and int(clip.pixels.min()) == int(clip.pixels.max())
        digests.append(clip.digest)
        for name, values in probe.activations(clip):
            try:
                histograms[name].add(values)
            except ValueError:
                raise DataError(
                    f"what {readers[name]} reads is not finite on {clip.label}; "
                    "the weights are damaged, or the network leaves float32 there: check it with vivim-check"
                ) from None
        on_clip(done)
    if flat:
        raise DataError(
            f"every pixel of the calibration clips ({', '.join(clips.sources)}) has the same value, which teaches "
            "nothing; give clips of the kind that the model will see"
        )
    return Calibration(digest, method, tuple(digests), {n: range_of(h, method) for n, h in sorted(histograms.items())})


class _Probe:
    """The float32 model with its activations as outputs."""

    def __init__(self, model: onnx.ModelProto, info: ModelInfo, names: list[str], threads: int) -> None:
        onnxruntime = onnx_runtime("calibration")
        probed = onnx.ModelProto()
        probed.CopyFrom(model)
        shapes = {value.name: value for value in model.graph.value_info}
        outputs = {value.name for value in model.graph.output}
        for name in names:
            if name not in outputs:
                untyped = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
                probed.graph.output.append(shapes.get(name, untyped))

        def options() -> Any:
            made = onnxruntime.SessionOptions()
            made.log_severity_level = 3
            made.intra_op_num_threads = threads
            # What a run hands out is new memory every time: an arena would keep the most it ever needed.
            made.enable_cpu_mem_arena = False
            return made

        try:
            self._session, _ = inference_session(probed.SerializeToString(), options, ["CPUExecutionProvider"])
        except PluginError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{info.path} does not run in ONNX Runtime: {str(error).splitlines()[0]}") from None
        self._info = info
        self._input = next(v.name for v in self._session.get_inputs() if v.name not in {s.input for s in info.states})
        self._groups = _groups(names, shapes)

    def activations(self, clip: Clip) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        """Name and values of every activation on one clip; of a streaming file, on frame after frame of a film."""
        clips = np.repeat(clip.pixels[None], self._info.batch or 1, axis=0)
        states = {state.input: np.zeros(state.shape, np.float32) for state in self._info.states}
        after = [state.output for state in self._info.states]
        for begin in range(0, clips.shape[1], self._info.frames):
            part = np.ascontiguousarray(clips[:, begin : begin + self._info.frames])
            feed = {self._input: model_input(self._info, part), **states}
            for group in self._groups:
                values = self._session.run([*group, *after], feed)
                for name in group:
                    yield name, values.pop(0)
            states = dict(zip(states, values, strict=True))


def _groups(names: list[str], shapes: dict[str, onnx.ValueInfoProto]) -> list[list[str]]:
    """Names in groups whose values together stay under a limit."""
    groups: list[list[str]] = [[]]
    total = 0
    for name in names:
        size = 4
        for dim in shapes[name].type.tensor_type.shape.dim if name in shapes else ():
            size *= max(1, dim.dim_value)
        if groups[-1] and total + size > _BYTES_A_RUN:
            groups.append([])
            total = 0
        groups[-1].append(name)
        total += size
    return groups
