"""Models in ONNX Runtime, which is silenced: its official Linux builds from 1.29 on report sessions to their maker."""

from __future__ import annotations

import importlib
import json
import logging
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np

from vivim_runtime.errors import MissingExtraError, ModelError, PluginError, UsageError
from vivim_runtime.installation import install_words
from vivim_runtime.sessions.base import Clips, Logits, ModelInfo, Stream, model_input, no_stream
from vivim_runtime.sessions.native import BODIES, NATIVE_VARIABLE, native_library
from vivim_runtime.sessions.onnx_file import check_onnx_file
from vivim_runtime.text import parse_number, printable

__all__ = ["OnnxSession", "inference_session", "node_times", "onnx_runtime"]

_log = logging.getLogger(__name__)

_OPERATORS = (b"SelectiveScan", b"StreamingScan")
# What an input is called in ONNX Runtime, by the description's name.
_TYPES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}


def onnx_runtime(what: str) -> Any:
    """The module, without telemetry: nothing about models or patients' machines leaves them.

    Args:
        what: what needs it, for the message.

    Raises:
        MissingExtraError: it is not installed.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # is read when it is imported, so it comes before that
    try:
        runtime = importlib.import_module("onnxruntime")
    except ModuleNotFoundError:
        raise MissingExtraError(what, "cpu") from None
    runtime.disable_telemetry_events()  # of a program that had imported it before us
    return runtime


def inference_session(
    model: str | bytes, options: Callable[[], Any], providers: list[Any], bodies: bool = False
) -> tuple[Any, str]:
    """ONNX Runtime's session for a file or its content, with our compiled operators where they are installed.

    Where they are not, or cannot take what the file holds, its bodies run, and a line of the log says so.

    Args:
        options: makes SessionOptions, to which the operators are added.
        bodies: leave the operators out.

    Returns:
        The session, and what computes the operators: the library's instruction set, or "bodies".

    Raises:
        PluginError: there is a library of operators, and it does not load.
        Exception: ONNX Runtime cannot load the model; its exceptions share no base class.
    """
    runtime = onnx_runtime("running an ONNX model")
    fallback = len(providers) > 1  # from one provider to itself it is a second failure, and lines that are not ours
    # It makes one Gemm of a product and its bias before int8 is looked for, and has no int8 Gemm with a float32 bias:
    # such layers would run in float32, with the roundings on top.
    disabled = ["MatMulAddFusion"] if len(providers) == 1 and _holds(model, b"QuantizeLinear") else []

    def create(loaded: str | bytes, made: Any) -> Any:
        return runtime.InferenceSession(
            loaded, made, providers=providers, enable_fallback=fallback, disabled_optimizers=disabled
        )

    native = None if bodies else native_library()
    reason = "they are not installed: make native, or pip install vivim-edge-native"
    if native is not None:
        with_operators = options()
        with_operators.register_custom_ops_library(str(native.path))
        try:
            return create(model, with_operators), native.instruction_set
        except Exception as error:  # of the file, which then fails again, or of types that the operators do not have
            reason = f"they cannot run this file: {_first_line(error)}"
    session = create(model, options())
    if not bodies and os.environ.get(NATIVE_VARIABLE) != BODIES and _holds(model, *_OPERATORS):
        _log.warning("running without compiled operators, several times slower, since %s", reason)
    return session, BODIES


def _holds(model: str | bytes, *operators: bytes) -> bool:
    """Whether a file, or its content, names one of the operators anywhere."""
    if isinstance(model, bytes):
        return any(operator in model for operator in operators)
    with Path(model).open("rb") as file:
        if not Path(model).stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(operator) >= 0 for operator in operators)


class OnnxSession:
    """A model in ONNX Runtime. Calls may come from one thread at a time.

    Attributes:
        operators: what computes the scan: an instruction set of our compiled operators, or "bodies".
    """

    def __init__(
        self,
        path: Path,
        device: str = "auto",
        threads: int = 0,
        profile: Path | None = None,
        fused: bool = True,
        bodies: bool = False,
    ) -> None:
        """Open a file; see vivim_runtime.open_session for `device`, `threads` and what is raised.

        Args:
            profile: start of the name of the file that `end_profiling` writes; see `node_times`.
            fused: False computes what an int8 file says, rounding where it has Q/DQ and float32 in between, and
                nothing that a CPU's fused int8 kernels, which add in another order, make of it; it takes less memory.
            bodies: what is in the file computes the scan, as in a runtime that has not our operators.
        """
        onnxruntime = onnx_runtime("running an ONNX model")
        self.backend = "ONNX Runtime" if fused else "ONNX Runtime, not fused"
        if threads < 0:
            raise UsageError(f"--threads is {threads}; expected 0 (automatic) or more")
        providers = _providers(device, onnxruntime.get_available_providers())

        def options() -> Any:
            made = onnxruntime.SessionOptions()
            made.log_severity_level = 4  # an exception says what fails, in one line; warnings are about graph rewrites
            made.intra_op_num_threads = threads
            # The int8 kernels of x86 without VNNI add pairs of products in 16 bits, which overflow and give wrong
            # masks. With this, exact ones run there; results elsewhere, and of files without int8, are the same bit by
            # bit.
            made.add_session_config_entry("session.x64quantprecision", "1")
            # 1.18 plans memory from the first run and with our loops overwrites what it still needs in later ones:
            # logits of tiny are 18 % off, without an error. 1.19 does not.
            made.enable_mem_pattern = not onnxruntime.__version__.startswith("1.18.")
            if not fused:
                made.enable_cpu_mem_arena = False
                # Quantised kernels come with the extended optimisations.
                made.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            if profile:
                made.enable_profiling, made.profile_file_prefix = True, str(profile)
            return made

        check_onnx_file(path)
        try:
            self._session: Any
            self._session, self.operators = inference_session(str(path), options, providers, bodies)
        except PluginError:
            raise
        except Exception as error:  # onnxruntime's exceptions share no base class
            if "NOT_IMPLEMENTED" in str(error):
                raise ModelError(
                    f"{path} does not run here, since ONNX Runtime has no bf16 convolutions; "
                    f"build an engine from it: vivim-export trt {path}"
                ) from None
            raise ModelError(f"{path} is no ONNX model that ONNX Runtime can load: {_first_line(error)}") from None
        try:
            self.info = ModelInfo.from_metadata(path, dict(self._session.get_modelmeta().custom_metadata_map))
            self._input = _checked_input(self.info, self._session)
        except UnicodeDecodeError:
            raise ModelError(f"{path} has names or a description that are not UTF-8; export it again") from None
        self.device = "cuda" if "CUDAExecutionProvider" in self._session.get_providers() else "cpu"
        if self.device == "cpu" and len(providers) > 1:
            _tell_fallback(device)
        self._opened_with: dict[str, Any] = {"path": path, "device": device, "threads": threads, "bodies": bodies}

    def __call__(self, clips: Clips) -> Logits:
        """uint8 RGB (B, T, H, W, 3) at the model's size -> float32 logits (B, T, K, H, W)."""
        if self.info.streaming:
            return Stream(self)(clips)
        return self._run(clips, {}, ["logits"])[0]

    def step(self, frames: Clips, states: Any) -> tuple[Logits, Any]:
        """One more frame of a streaming file; see vivim_runtime.sessions.base.Session."""
        if not self.info.streaming:
            raise no_stream(self.info)
        known = self.info.states
        if states is None:
            states = [np.zeros(state.shape, np.float32) for state in known]
        feed = {state.input: value for state, value in zip(known, states, strict=True)}
        logits, *after = self._run(frames, feed, ["logits", *(state.output for state in known)])
        return logits, after

    def _run(self, clips: Clips, states: dict[str, Any], outputs: list[str]) -> list[Any]:
        feed = {self._input: model_input(self.info, clips), **states}
        try:
            results: list[Any] = self._session.run(outputs, feed)
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"{self.info.path} failed when it ran: {_first_line(error)}") from None
        self.info.check_logits(results[0].shape, len(clips))
        return results

    def warm_up(self) -> None:
        """Run once on black pixels, so that the first real clip is not the slow one."""
        self(np.zeros((self.info.batch or 1, self.info.frames, *self.info.size, 3), np.uint8))

    def end_profiling(self) -> Path:
        """The file of a session that profiles, complete."""
        return Path(self._session.end_profiling())

    def layer_times(self, clips: Clips, runs: int) -> list[dict[str, float]]:
        """Milliseconds of every node, in order of execution, in each of some runs; opens the file once more."""
        with TemporaryDirectory() as folder:
            with OnnxSession(**self._opened_with, profile=Path(folder) / "profile") as session:
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


def _providers(device: str, available: list[str]) -> list[Any]:
    """ONNX Runtime's providers for a device name."""
    kind, _, index = device.partition(":")
    if (
        kind not in ("auto", "cpu", "cuda")
        or (index and kind != "cuda")
        or (number := parse_number(index or "0")) is None
    ):
        raise UsageError(f"--device is {device}; expected auto, cpu, cuda, cuda:<index>, openvino or openvino:bf16")
    if kind == "cuda" and "CUDAExecutionProvider" not in available:
        raise UsageError(
            f"--device is {device}, but this ONNX Runtime has {', '.join(available)} only; "
            f"pip uninstall onnxruntime and pip install {install_words('gpu')}, or use --device cpu"
        )
    cpu: list[Any] = ["CPUExecutionProvider"]
    if kind == "cpu" or "CUDAExecutionProvider" not in available:
        return cpu
    return [("CUDAExecutionProvider", {"device_id": number}), *cpu]


def _checked_input(info: ModelInfo, session: Any) -> str:
    """The name of the input, once the graph has turned out to be what the description says.

    Raises:
        ModelError: other inputs, no logits, or other types and sizes.
    """
    inputs = session.get_inputs()
    states = {state.input: state for state in info.states}
    inputs = [value for value in inputs if value.name not in states]
    if len(inputs) != 1:
        names = printable(", ".join(value.name for value in inputs) or "none", 200)
        raise ModelError(f"{info.path} has {len(inputs)} inputs ({names}); expected one, the frames; export it again")
    _check_states(info, session)
    logits = next((value for value in session.get_outputs() if value.name == "logits"), None)
    if logits is None:
        raise ModelError(f"{info.path} has no output `logits`; export it again")
    for value, kind in ((inputs[0], _TYPES[info.input]), (logits, "tensor(float)")):
        if value.type != kind:
            name = printable(value.name, 80)
            raise ModelError(f"{info.path} has {name} as {value.type}; expected {kind}; export it again")
    info.check_input(inputs[0].shape)
    if logits.shape:  # a file may leave it open, and every call is checked
        info.check_logits(logits.shape)
    return str(inputs[0].name)


def _check_states(info: ModelInfo, session: Any) -> None:
    """ModelError where the graph has other states than the description says."""
    given = {value.name: value for value in (*session.get_inputs(), *session.get_outputs())}
    for state in info.states:
        for name in (state.input, state.output):
            value = given.get(name)
            # A file may leave the shape of an output open; what comes out is what goes in, which is checked.
            if value is None or value.type != "tensor(float)" or (value.shape and tuple(value.shape) != state.shape):
                found = "no such tensor" if value is None else f"{value.type} {value.shape}"
                raise ModelError(
                    f"{info.path} has {printable(name, 80)} as {printable(found, 80)}, its description says "
                    f"tensor(float) {state.shape}; export it again"
                )


def _tell_fallback(device: str) -> None:
    """ONNX Runtime goes on on the CPU where its CUDA provider does not load: cuDNN or CUDA is missing, or another one.

    Raises:
        UsageError: CUDA was asked for by name.
    """
    if device != "auto":
        raise UsageError(
            f"--device is {device}, but ONNX Runtime's CUDA provider did not load and it would run on the CPU; "
            "pip install 'onnxruntime-gpu[cuda,cudnn]' brings what it needs, or use --device cpu"
        )
    logging.getLogger(__name__).warning(
        "ONNX Runtime's CUDA provider did not load: this runs on the CPU; vivim-doctor looks for the cause"
    )


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return printable(text[0], 400) if text else type(error).__name__


def node_times(events: list[dict[str, Any]]) -> list[dict[str, float]]:
    """Milliseconds of the nodes of every run, in order of execution, from what ONNX Runtime writes when it profiles.

    What runs within another node (the body of a Scan, of an If) is part of that node and not listed by itself: it
    starts before the other ends, since ONNX Runtime executes one node after the other.

    Args:
        events: content of the file; `ts` and `dur` are in microseconds.
    """
    runs = sorted((e for e in events if e.get("name") == "model_run"), key=lambda e: e["ts"])
    nodes = sorted(
        (e for e in events if e.get("name", "").endswith("_kernel_time")), key=lambda e: (e["ts"], -e["dur"])
    )
    times: list[dict[str, float]] = [{} for _ in runs]
    current, end = 0, 0.0
    for event in nodes:
        while current + 1 < len(runs) and event["ts"] >= runs[current + 1]["ts"]:
            current += 1
        if event["ts"] < end or not runs:
            continue
        end = event["ts"] + event["dur"]
        name = event["name"].removesuffix("_kernel_time")
        times[current][name] = times[current].get(name, 0.0) + event["dur"] / 1e3
    return times
