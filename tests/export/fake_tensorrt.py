"""A stand-in of the `tensorrt` module that builds: what TensorRT for RTX never reaches, since it builds without a GPU.

The network that it parses has the layers that a test gives; its engine is that of tests/runtime/fake_gpu.py, on which
the build's own proofs (inspector, comparison with the ONNX file) run.
"""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any

from tests.runtime.fake_gpu import FakeCuda, FakeTensorRT

__all__ = ["FakeBuilderTensorRT"]


class _Levels(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class _LevelsOf103(enum.Enum):
    """TensorRT 10.3 and 10.8, those of JetPack 6."""

    NONE = 0
    AMPERE_PLUS = 1


class _Monitor:
    def __init__(self) -> None:
        pass


class FakeBuilderTensorRT(FakeTensorRT):
    """`tensorrt` with a builder.

    Attributes:
        network: kind, name, and types of the inputs of its layers.
        config: of the last build.
        content: the engine file.
        builder: what Builder(logger) does instead of giving one.
    """

    BuilderFlag = SimpleNamespace(TF32="tf32", VERSION_COMPATIBLE="version compatible")
    ProfilingVerbosity = SimpleNamespace(DETAILED="detailed", NONE="none", LAYER_NAMES_ONLY="names")
    MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
    NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    IProgressMonitor = _Monitor

    def __init__(self, cuda: FakeCuda, version: str) -> None:
        super().__init__(cuda, version)
        self.HardwareCompatibilityLevel: Any = _LevelsOf103 if version in ("10.3.0", "10.8.0.43") else _Levels
        self.network: list[tuple[str, str, list[str]]] = [("ELEMENTWISE", "grey", ["FLOAT"])]
        self.config: Any = None
        self.content = b"an engine" * 10
        self.builder: Any = None
        self.timings = b""

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return SimpleNamespace(parse=lambda content: True, num_errors=0)

    def Builder(self, logger: Any) -> Any:
        self.log.append("builder")
        if self.builder is not None:
            return self.builder(logger)
        layers = [
            SimpleNamespace(
                type=SimpleNamespace(name=kind),
                name=name,
                num_inputs=len(types),
                get_input=lambda i, types=types: SimpleNamespace(dtype=SimpleNamespace(name=types[i])),
            )
            for kind, name, types in self.network
        ]
        return SimpleNamespace(
            create_network=lambda flags: SimpleNamespace(num_layers=len(layers), get_layer=lambda i: layers[i]),
            create_builder_config=lambda: self._configuration(logger),
            build_serialized_network=lambda network, config: self.content,
        )

    def _configuration(self, logger: Any) -> Any:
        set_flags: list[str] = []

        def create_timing_cache(content: bytes) -> Any:
            return None if self.refuse == "timing cache" else SimpleNamespace(content=content)

        def set_timing_cache(cache: Any, ignore_mismatch: bool) -> bool:
            self.timings = cache.content + b"+measured"
            return True

        self.config = SimpleNamespace(
            clear_flag=lambda flag: None,
            set_flag=set_flags.append,
            flags=set_flags,
            builder_optimization_level=3,
            hardware_compatibility_level=None,
            create_timing_cache=create_timing_cache,
            set_timing_cache=set_timing_cache,
            get_timing_cache=lambda: SimpleNamespace(serialize=lambda: self.timings),
            set_memory_pool_limit=lambda kind, size: self.log.append(f"{kind} {size}"),
        )
        return self.config
