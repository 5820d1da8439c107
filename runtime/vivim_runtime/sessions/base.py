"""A model that runs: clips of pixels in, logits out, whatever the file behind it is.

`open_session` chooses by the file: ONNX Runtime, or an engine of TensorRT (vivim_runtime.sessions.tensorrt). A file
says about itself what is needed (ModelInfo), and everything else in the runtime sees only the `Session` protocol.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vivim_runtime.errors import ModelError, UsageError
from vivim_runtime.sessions.onnx import onnx_runtime

__all__ = ["ClassInfo", "Clips", "Logits", "ModelInfo", "OnnxSession", "Session", "model_input", "open_session"]

Clips = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float32]

# The newest description of itself (vivim.format) that this version reads.
_FORMAT = 1


@dataclass(frozen=True)
class ClassInfo:
    """One output class: its name, and the RGB colour to draw it in."""

    name: str
    color: tuple[int, int, int]


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

    @classmethod
    def from_metadata(cls, path: Path, metadata: dict[str, str]) -> ModelInfo:
        """The description in a file's metadata; ModelError when vivim-export did not write it."""
        version = metadata.get("vivim.format")
        if version is None:
            raise ModelError(
                f"{path} was not written by vivim-export; make one with: vivim-export onnx --weights W -o M"
            )
        if not version.isdigit() or int(version) > _FORMAT:
            raise ModelError(f"{path} has format {version}, this version reads up to {_FORMAT}; update vivim-edge")
        try:
            text = {key.removeprefix("vivim."): value for key, value in metadata.items()}
            return cls(
                path=path,
                preset=text["preset"],
                frames=int(text["frames"]),
                size=(int(text["height"]), int(text["width"])),
                classes=tuple(ClassInfo(c["name"], tuple(c["color"])) for c in json.loads(text["classes"])),
                precision=text["precision"],
                input=text["input"],
                mean=tuple(json.loads(text["mean"])),
                std=tuple(json.loads(text["std"])),
                batch=None if text["batch"] == "dynamic" else int(text["batch"]),
                weights_sha256=text["weights_sha256"],
                metadata=metadata,
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ModelError(f"{path} describes itself wrongly ({error!r}); export it again") from None


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
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W)."""
        ...

    def warm_up(self) -> None:
        """Run once on black pixels, so that the first real clip is not the slow one."""
        ...

    def __enter__(self) -> Session: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_session(path: str | Path, device: str = "auto", threads: int = 0) -> Session:
    """A session for a model file.

    Args:
        path: a .onnx or .engine file of vivim-export.
        device: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:<index>". An engine runs on a GPU only.
        threads: CPU threads; 0 leaves the number to the library.

    Raises:
        ModelError: the file is missing, damaged, or not ours.
        UsageError: the device is unknown or not there.
        IncompatibleEngineError: the engine is not for this machine.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no model {path}; make one with: vivim-export onnx --weights tiny -o {path.name}")
    if path.suffix == ".engine":
        from vivim_runtime.sessions.tensorrt import TensorRTSession  # which itself needs this module

        return TensorRTSession(path, device)
    if path.suffix != ".onnx":
        raise ModelError(f"{path} is no model that can be run; expected a .onnx or .engine file of vivim-export")
    return OnnxSession(path, device, threads)


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


def _providers(device: str, available: list[str]) -> list[Any]:
    """ONNX Runtime's providers for a device name."""
    kind, _, index = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and not index.isdigit()) or (index and kind != "cuda"):
        raise UsageError(f"--device is {device}; expected auto, cpu, cuda or cuda:<index>")
    if kind == "cuda" and "CUDAExecutionProvider" not in available:
        raise UsageError(
            f"--device is {device}, but this ONNX Runtime has {', '.join(available)} only; "
            "pip uninstall onnxruntime and pip install 'vivim-edge[gpu]', or use --device cpu"
        )
    cpu: list[Any] = ["CPUExecutionProvider"]
    if kind == "cpu" or "CUDAExecutionProvider" not in available:
        return cpu
    return [("CUDAExecutionProvider", {"device_id": int(index or 0)}), *cpu]


class OnnxSession:
    """A model in ONNX Runtime. Calls may come from one thread at a time."""

    backend = "ONNX Runtime"

    def __init__(self, path: Path, device: str = "auto", threads: int = 0, profile: Path | None = None) -> None:
        """`profile`: start of the name of the file that `end_profiling` writes; see `sessions.onnx_profile`."""
        onnxruntime = onnx_runtime("running an ONNX model")
        if threads < 0:
            raise UsageError(f"--threads is {threads}; expected 0 (automatic) or more")
        providers = _providers(device, onnxruntime.get_available_providers())
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about graph rewrites
        options.intra_op_num_threads = threads
        # The int8 kernels of x86 without VNNI add pairs of products in 16 bits, which overflow and give wrong masks.
        # With this, exact ones run there; results elsewhere, and of files without int8, are the same bit by bit.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no base class
            if "NOT_IMPLEMENTED" in str(error):
                raise ModelError(
                    f"{path} does not run here, since ONNX Runtime has no bf16 convolutions; "
                    f"build an engine from it: vivim-export trt {path}"
                ) from None
            raise ModelError(f"{path} is no ONNX model that ONNX Runtime can load: {_first_line(error)}") from None
        self.info = ModelInfo.from_metadata(path, dict(self._session.get_modelmeta().custom_metadata_map))
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        self._input = self._session.get_inputs()[0].name
        self._opened_with = (path, device, threads)

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W)."""
        logits: Logits = self._session.run(["logits"], {self._input: model_input(self.info, clips)})[0]
        return logits

    def warm_up(self) -> None:
        """Run once on black pixels, so that the first real clip is not the slow one."""
        self(np.zeros((self.info.batch or 1, self.info.frames, *self.info.size, 3), np.uint8))

    def end_profiling(self) -> Path:
        """The file of a session that profiles, complete."""
        return Path(self._session.end_profiling())

    def layer_times(self, clips: Clips, runs: int) -> list[dict[str, float]]:
        """Milliseconds of every node, in order of execution, in each of some runs; opens the file once more."""
        from vivim_runtime.sessions.onnx_profile import node_times

        with TemporaryDirectory() as folder:
            with OnnxSession(*self._opened_with, profile=Path(folder) / "profile") as session:
                for _ in range(1 + runs):  # the first is a warm-up
                    session(clips)
                file = session.end_profiling()
            return node_times(json.loads(file.read_text(encoding="utf-8")))[1:]

    def __enter__(self) -> OnnxSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
