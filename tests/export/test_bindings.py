"""Every name of TensorRT's Python module that the code uses, looked up in NVIDIA's own bindings of six versions.

The bindings are wheels of about a megabyte; the libraries that they link are stood in for by empty ones of our own, so
that names can be looked up and nothing can be called. docs/engine.md says which versions these are.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.wheels import wheel

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# JetPack 6 has 10.3; the others are the ends of what `vivim-edge[trt]` allows and steps between them.
VERSIONS = {
    "10.3.0": "tensorrt-cu12-bindings",
    "10.8.0.43": "tensorrt-cu12-bindings",
    "10.13.0.35": "tensorrt-cu12-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.0.0.114": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
NAMES = """
    Builder.create_network Builder.create_builder_config Builder.create_optimization_profile
    Builder.build_serialized_network NetworkDefinitionCreationFlag.STRONGLY_TYPED
    OnnxParser.parse OnnxParser.get_error OnnxParser.num_errors ParserError.desc
    IBuilderConfig.clear_flag IBuilderConfig.set_flag IBuilderConfig.profiling_verbosity
    IBuilderConfig.set_memory_pool_limit IBuilderConfig.builder_optimization_level
    IBuilderConfig.add_optimization_profile IBuilderConfig.hardware_compatibility_level
    IBuilderConfig.create_timing_cache IBuilderConfig.set_timing_cache IBuilderConfig.get_timing_cache
    IBuilderConfig.progress_monitor ITimingCache.serialize IOptimizationProfile.set_shape
    BuilderFlag.TF32 BuilderFlag.VERSION_COMPATIBLE MemoryPoolType.WORKSPACE
    ProfilingVerbosity.NONE ProfilingVerbosity.LAYER_NAMES_ONLY ProfilingVerbosity.DETAILED
    HardwareCompatibilityLevel.__members__ HardwareCompatibilityLevel.NONE HardwareCompatibilityLevel.AMPERE_PLUS
    IProgressMonitor.phase_start IProgressMonitor.phase_finish IProgressMonitor.step_complete
    INetworkDefinition.num_layers INetworkDefinition.get_layer ILayer.type ILayer.get_input ILayer.num_inputs
    ILayer.name ITensor.dtype
    Runtime.engine_host_code_allowed Runtime.deserialize_cuda_engine ICudaEngine.create_engine_inspector
    EngineInspector.get_engine_information LayerInformationFormat.JSON
    ICudaEngine.create_execution_context ICudaEngine.get_tensor_name ICudaEngine.num_io_tensors
    ICudaEngine.get_tensor_mode ICudaEngine.get_tensor_shape ICudaEngine.get_tensor_dtype
    TensorIOMode.INPUT TensorIOMode.OUTPUT nptype
    IExecutionContext.set_tensor_address IExecutionContext.set_input_shape IExecutionContext.execute_async_v3
    IExecutionContext.profiler IProfiler.report_layer_time
    ILogger.INTERNAL_ERROR ILogger.ERROR ILogger.log
    get_plugin_registry IPluginRegistry.load_library IPluginRegistry.get_creator
    LayerType.CONVOLUTION LayerType.MATRIX_MULTIPLY LayerType.PLUGIN_V3 LayerType.QUANTIZE LayerType.NORMALIZATION
    DataType.FLOAT DataType.HALF DataType.BF16 DataType.INT8 __version__
""".split()  # noqa: SIM905
# Names that the code asks for before it uses them, and the versions that have them.
SOME = {
    "HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": {"10.13.0.35", "10.16.1.11", "11.0.0.114", "11.4.0.106"},
}
# Of TensorRT for RTX alone, behind Backend.compiles.
RTX = {"ComputeCapability", "CudaGraphStrategy", "EngineValidity", "EngineInvalidityDiagnostics"}
# Where the module is used.
SOURCES = (
    "export/vivim_export/engine.py",
    "runtime/vivim_runtime/sessions/engine.py",
    "runtime/vivim_runtime/sessions/plugin.py",
)

LOOK_UP = """
import json, sys
import tensorrt_bindings as trt
found = {}
for name in sys.argv[1:]:
    value = trt
    for part in name.split("."):
        value = getattr(value, part, None)
    found[name] = value is not None
class Logger(trt.ILogger):
    def __init__(self):
        super().__init__()
    def log(self, severity, msg):
        pass
class Monitor(trt.IProgressMonitor):
    def __init__(self):
        trt.IProgressMonitor.__init__(self)
class Profiler(trt.IProfiler):
    def __init__(self):
        super().__init__()
    def report_layer_time(self, layer_name, ms):
        pass
Logger(), Monitor(), Profiler()
found["severities"] = trt.ILogger.ERROR in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR)
found["nptype"] = trt.nptype(trt.DataType.UINT8).__name__ == "uint8"
def without(kind):
    try:
        return getattr(trt, kind)(Logger()) is not None
    except (TypeError, RuntimeError) as error:
        return type(error).__name__
print(json.dumps({"version": trt.__version__, "found": found, "builder": without("Builder")}))
"""
# What the bindings link to. They give nothing, as TensorRT does where there is no GPU.
STUB = "\n".join(
    f"void* {name}(void) {{ return 0; }}"
    for name in (
        *(f"createInfer{kind}_INTERNAL" for kind in ("Builder", "Runtime", "Refitter")),
        *(f"createNvOnnxParser{kind}_INTERNAL" for kind in ("", "Refitter")),
        *("getBuilderPluginRegistry", "getPluginRegistry", "getNvOnnxParserVersion", "initLibNvInferPlugins"),
    )
)


def look_up(version: str, folder: Path) -> dict[str, object]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("cc not found: install a C compiler to stand in for the libraries of TensorRT")
    (folder / "stub.c").write_text(STUB)
    for name in ("libnvinfer", "libnvonnxparser", "libnvinfer_plugin"):
        library = folder / f"{name}.so.{version.partition('.')[0]}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "stub.c"], check=True)
    environment = {
        **os.environ,
        "PYTHONPATH": str(wheel(VERSIONS[version], version)),
        "LD_LIBRARY_PATH": str(folder),
    }
    command = [sys.executable, "-W", "ignore", "-c", LOOK_UP, *NAMES, *SOME]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize("version", VERSIONS)
def test_bindings_have_every_name_that_the_code_uses(version: str, tmp_path: Path) -> None:
    answer = look_up(version, tmp_path)
    assert answer["version"] == version
    found = answer["found"]
    assert isinstance(found, dict)
    assert {name for name, there in found.items() if not there} == {
        name for name, versions in SOME.items() if version not in versions
    }
    # pybind11's "factory function returned nullptr", which sessions.engine.start makes one line of.
    assert answer["builder"] == "TypeError"


def test_table_has_every_name_that_the_sources_take_from_the_module() -> None:
    used = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse((ROOT / source).read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            owner = ast.unparse(node.value)
            if owner in ("trt", "self.trt", "module", "self._module"):
                used.add(node.attr)
    known = {name.partition(".")[0] for name in [*NAMES, *SOME]} | RTX
    assert {"Builder", "OnnxParser"} & known and used - known - {"__name__"} == set()
