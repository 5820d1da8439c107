"""Probes of what runs models: TensorRT, for RTX too, cuda-python, the plugin, ONNX Runtime, our operators, PyTorch."""

from __future__ import annotations

import os
from dataclasses import replace

from vivim_runtime.doctor.asking import ask
from vivim_runtime.doctor.findings import Finding, State, wanting
from vivim_runtime.doctor.hardware import has_driver, l4t_release
from vivim_runtime.doctor.installed import least_version, older, version_of
from vivim_runtime.installation import install_words
from vivim_runtime.sessions.native import NATIVE_VARIABLE
from vivim_runtime.sessions.plugin import PLUGIN_VARIABLE, build_hint

__all__ = ["cuda_python", "native", "onnxruntime", "plugin", "tensorrt", "tensorrt_rtx", "torch"]


def tensorrt() -> Finding:
    """TensorRT; on a Jetson it is JetPack's."""
    means = "vivim-export trt --backend tensorrt, and its engines"
    finding = _library("TensorRT", "tensorrt", means, install_words("trt"))
    release = l4t_release()
    if release is None:
        return finding
    fix = finding.fix and "sudo apt install --reinstall python3-libnvinfer"
    return replace(finding, found=f"{finding.found}, Jetson Linux {release}", fix=fix)


def tensorrt_rtx() -> Finding:
    """TensorRT for RTX, which builds engines without a GPU too."""
    means = "vivim-export trt --backend rtx (builds without a GPU), and its engines"
    return _library("TensorRT for RTX", "tensorrt_rtx", means, install_words("rtx"))


def cuda_python() -> Finding:
    """NVIDIA's Python binding, with which a session drives the GPU."""
    means = "vivim-run and vivim-bench on engines"
    finding = _library("cuda-python", "cuda_python", means, "cuda-python")
    machine = ask("gpu").value
    newest = machine["cuda"] if machine else None
    if finding.state is not State.ok or newest is None:
        return finding
    # CUDA 13 needs a driver of 580 or later; within a major version, older drivers will do.
    major, driver = int(finding.found.partition(".")[0]), int(newest.partition(".")[0])
    if major <= driver:
        return finding
    found = f"{finding.found}, and the driver takes CUDA up to {newest}"
    fix = f"pip install 'cuda-python<{driver + 1}'"
    return Finding(finding.part, State.broken, found, f"it starts with a driver for CUDA {major}; {means}", fix)


def _library(part: str, question: str, means: str, package: str) -> Finding:
    """A library of which only the version counts."""
    asked = ask(question)
    return wanting(part, asked, means, package) or Finding(part, State.ok, asked.value, means)


def plugin() -> Finding:
    """libvivim_trt.so, as vivim-export and vivim-run look for it."""
    part, means = "TensorRT plugin", "engines of TensorRT"
    named = os.environ.get(PLUGIN_VARIABLE)
    # What is named is used even where another one was built.
    fix = f"{build_hint()} && unset {PLUGIN_VARIABLE}" if named else build_hint()
    asked = ask("plugin")
    if asked.problem:
        absent = not named and "was not found" in asked.problem
        state = State.missing if absent else State.broken
        return Finding(part, state, _sentence(asked.problem), f"needed for: {means}", fix)
    path, version = asked.value["path"], asked.value["version"]
    if asked.value["emulated"]:
        return Finding(part, State.broken, f"{path} is emulated", "it computes on the CPU, for tests alone", fix)
    if not asked.value["creators"]:
        return Finding(part, State.broken, f"{path} has no getCreators", "it is no plugin of TensorRT", fix)
    built_for, installed = asked.value["headers"] // 10000, ask("tensorrt").value
    if installed and not str(installed).startswith(f"{built_for}."):
        found = f"{path}, built for TensorRT {built_for or 'of an unknown version'}; installed is {installed}"
        return Finding(
            part,
            State.broken,
            found,
            f"needed for: {means}",
            f"VIVIM_TENSORRT_MAJOR={str(installed).partition('.')[0]} {fix}",
        )
    return Finding(part, State.ok, f"{path}, kernels of revision {version}", means)


def _sentence(message: str) -> str:
    """What an error says before it says how to repair it; that is the fix."""
    return message.partition("; build it")[0]


def onnxruntime() -> Finding:
    """ONNX Runtime and its providers. Its two packages hold the same module, so one overwrites the other."""
    part = "ONNX Runtime"
    both = ("onnxruntime", "onnxruntime-gpu")
    if all(version_of(name) for name in both):
        means = "which one is used depends on the order of installation"
        fix = f"pip uninstall --yes onnxruntime onnxruntime-gpu && pip install {install_words('gpu')}"
        return Finding(part, State.broken, " and ".join(both) + " are both installed", means, fix)
    means, asked = "vivim-run on .onnx files", ask("onnxruntime")
    if lack := wanting(part, asked, means, install_words("gpu") if has_driver() else install_words("cpu")):
        return lack
    providers = [name.removesuffix("ExecutionProvider") for name in asked.value["providers"]]
    found = f"{asked.value['version']}: {', '.join(providers)}"
    least = least_version("onnxruntime")
    if least and older(asked.value["version"], least):
        name = next((name for name in both if version_of(name)), both[0])
        return Finding(
            part, State.broken, f"{found}; vivim-edge needs {least}", means, f"pip install '{name}>={least}'"
        )
    if has_driver() and "CUDA" not in providers:
        fix = f"pip uninstall --yes onnxruntime && pip install {install_words('gpu')}"
        return Finding(part, State.missing, found, f"{means}, with --device cpu alone", fix)
    return Finding(part, State.ok, found, means)


def native() -> Finding:
    """libvivim_ort.so, as sessions of ONNX Runtime and PyTorch on a CPU look for it."""
    part, means = "Operators", "the scan of .onnx files and of PyTorch on a CPU, compiled"
    named = os.environ.get(NATIVE_VARIABLE)
    fix = f"unset {NATIVE_VARIABLE}" if named else "make native"
    asked = ask("native")
    if asked.problem:
        return Finding(part, State.broken, _sentence(asked.problem), f"needed for: {means}", fix)
    if asked.value is None:
        found = f"${NATIVE_VARIABLE} is {named}" if named else "not built"
        return Finding(part, State.missing, found, "the scan runs several times slower", fix)
    found = "{path}, version {version}, {instruction_set}".format(**asked.value)
    if kernels := asked.value["cuda_kernels"]:
        found += f", with {kernels} for CUDA"
    return Finding(part, State.ok, found, means)


def torch() -> Finding:
    """PyTorch, which running needs not."""
    part, means = "PyTorch", "vivim-export onnx and vivim-train"
    asked = ask("torch")
    if lack := wanting(part, asked, means, install_words("export")):
        return lack
    version, cuda = asked.value["version"], asked.value["cuda"]
    if cuda is None and has_driver():
        return Finding(
            part, State.missing, f"{version}, for CPUs", f"{means}, on the CPU", "pip install --force-reinstall torch"
        )
    return Finding(part, State.ok, f"{version}, " + (f"for CUDA {cuda}" if cuda else "for CPUs"), means)
