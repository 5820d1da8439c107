"""What is asked of libraries, each question in a process of its own (vivim_runtime.doctor.asking).

A question is a function without arguments that returns what JSON can hold. It imports what it asks about; that fails
with ModuleNotFoundError where the library is not installed, and in any way where it is broken.

This file is run by its path, so only the standard library is imported at once.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable
from typing import Any

__all__ = ["QUESTIONS", "answer"]


def answer(question: str) -> None:
    """Write the answer to standard output, as `asking.ask` reads it."""
    try:
        content: dict[str, Any] = {"value": QUESTIONS[question]()}
    except ModuleNotFoundError as error:
        name, wanted = error.name or "", _MODULES.get(question, "nothing")
        content = {"absent": True} if name and f"{wanted}.".startswith(f"{name}.") else {"problem": str(error)}
    except Exception as error:
        content = {"problem": _last_line(str(error)) or type(error).__name__}
    sys.stdout.write("\n" + json.dumps(content) + "\n")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


# --- the questions ------------------------------------------------------------------------------------------------


def _gpu() -> dict[str, Any]:
    from vivim_runtime.sessions.machine import Machine

    machine = Machine.here(backends=())
    return {
        "gpu": machine.gpu,
        "capability": machine.compute_capability,
        "cuda": machine.cuda,
        "no_gpu": machine.no_gpu,
    }


def _module(question: str) -> Any:
    return importlib.import_module(_MODULES[question])


def _version(question: str) -> Callable[[], str]:
    return lambda: str(_module(question).__version__)


def _cuda_python() -> str:
    """12.6.0 has no cuda.bindings yet, and a session then takes cuda.cudart."""
    try:
        return str(_module("cuda_python").__version__)
    except ModuleNotFoundError:
        if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.cudart") is None:
            raise
    return str(importlib.import_module("cuda").__version__)


def _plugin() -> dict[str, Any]:
    from vivim_runtime.sessions.plugin import Plugin

    plugin = Plugin.find()
    library = ctypes.CDLL(str(plugin.path))
    kernels = ctypes.CDLL(str(plugin.path.resolve().with_name("libvivim_kernels.so")))
    return {
        "path": str(plugin.path),
        "version": plugin.version,
        "creators": hasattr(library, "getCreators"),
        "headers": library.vivim_trt_headers_version() if hasattr(library, "vivim_trt_headers_version") else 0,
        "emulated": hasattr(kernels, "vivim_emulation_set_order"),
    }


def _native() -> dict[str, Any] | None:
    from vivim_runtime.sessions.native import native_library

    found = native_library()
    if found is None:
        return None
    return {
        "path": str(found.path),
        "version": found.version,
        "instruction_set": found.instruction_set,
        "cuda_kernels": found.cuda_kernels,
    }


def _onnxruntime() -> dict[str, Any]:
    module = _module("onnxruntime")
    return {"version": module.__version__, "providers": module.get_available_providers()}


def _torch() -> dict[str, Any]:
    module = _module("torch")
    return {"version": module.__version__, "cuda": module.version.cuda}


def _opencv() -> dict[str, Any]:
    module = _module("opencv")
    features = dict(re.findall(r"^ *(FFMPEG|GStreamer|v4l/v4l2): +(YES|NO)", module.getBuildInformation(), re.M))
    return {"version": module.__version__, "features": [name for name, there in features.items() if there == "YES"]}


def _codecs() -> dict[str, Any]:
    av = _module("codecs")
    families = ("h264", "hevc")
    names = {name for name in av.codecs_available if any(part in families for part in name.split("_"))}
    names |= {"libx264", "libx265"} & set(av.codecs_available)

    def usable(mode: str) -> list[str]:
        found = []
        for name in sorted(names):
            try:
                codec = av.codec.Codec(name, mode)
            except ValueError:  # UnknownCodecError: there for the other direction only
                continue
            if codec.name == name:  # "h264" as an encoder stands for some other one
                found.append(name)
        return found

    return {"version": av.__version__, "decoders": usable("r"), "encoders": usable("w")}


def _display() -> str:
    pygame = _module("display")
    pygame.display.init()
    return f"pygame {pygame.version.ver}, {pygame.display.get_driver()}"


def _dicom() -> dict[str, Any]:
    pydicom = _module("dicom")
    from pydicom import uid
    from pydicom.pixels import get_decoder

    syntaxes = {
        "JPEG": uid.JPEGBaseline8Bit,
        "JPEG 12 bit": uid.JPEGExtended12Bit,
        "lossless JPEG": uid.JPEGLosslessSV1,
        "JPEG-LS": uid.JPEGLSLossless,
        "JPEG 2000": uid.JPEG2000,
        "RLE": uid.RLELossless,
    }
    decoded = {name: bool(get_decoder(syntax).is_available) for name, syntax in syntaxes.items()}
    return {"version": pydicom.__version__, "decoded": decoded}


# What a question imports first: a library that is not installed is one whose module is not there.
_MODULES = {
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
    "cuda_python": "cuda.bindings",
    "onnxruntime": "onnxruntime",
    "torch": "torch",
    "opencv": "cv2",
    "codecs": "av",
    "display": "pygame",
    "dicom": "pydicom",
}
QUESTIONS: dict[str, Callable[[], Any]] = {
    "gpu": _gpu,
    "tensorrt": _version("tensorrt"),
    "tensorrt_rtx": _version("tensorrt_rtx"),
    "cuda_python": _cuda_python,
    "plugin": _plugin,
    "native": _native,
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "opencv": _opencv,
    "codecs": _codecs,
    "display": _display,
    "dicom": _dicom,
}
