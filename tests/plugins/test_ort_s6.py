"""libvivim_ort.so in ONNX Runtime: the plain scan, and the fused one without its gate; every instruction set."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests.export.test_s6 import FROM_TORCH, relative, s6_model
from tests.plugins.native_library import ROOT, library
from tests.plugins.test_ort_operators import FLOAT, TOLERANCES, TYPES, feed, node_model, scan_of, session
from tests.vivim.scan.test_s6 import s6_arguments
from vivim.scan.reference import selective_scan_reference
from vivim.scan.s6 import s6_scan_reference
from vivim_export.functions import selective_scan_function
from vivim_export.s6 import S6_INPUTS


def s6_feed(arguments: list[torch.Tensor]) -> dict[str, np.ndarray]:
    return {name: arguments[FROM_TORCH[i]].float().numpy() for i, name in enumerate(S6_INPUTS[:4])}


def in_type(arguments: list[torch.Tensor], element: int) -> onnx.ModelProto:
    """The model with data of a type, which casts itself: NumPy has no bfloat16."""
    model = s6_model(arguments)
    node = model.graph.node[0]
    casts = [onnx.helper.make_node("Cast", [name], [f"{name}_"], to=element) for name in S6_INPUTS[:4]]
    node.input[:4] = [f"{name}_" for name in S6_INPUTS[:4]]
    node.output[0] = "y_"
    nodes = [*casts, node, onnx.helper.make_node("Cast", ["y_"], ["y"], to=FLOAT)]
    kept = [onnx.NodeProto.FromString(item.SerializeToString()) for item in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


@pytest.mark.parametrize("element", TYPES)
@pytest.mark.parametrize("shape", [(2, 4, 16, 1, 196), (1, 1, 37, 8, 65), (1, 2, 24, 16, 300)])
def test_the_plain_scan_wins_over_its_body(shape: tuple[int, ...], element: int, tmp_path: Path) -> None:
    arguments = s6_arguments(shape)  # type: ignore[arg-type]
    opened = session(in_type(arguments, element).SerializeToString(), profile=tmp_path / "p")
    value = opened.run(None, s6_feed(arguments))[0]
    assert relative(value, s6_scan_reference(*arguments, True)) <= TOLERANCES[element]
    assert '"op_name" : "S6Scan"' in Path(opened.end_profiling()).read_text()  # a body would be other nodes


def test_results_are_the_same_bits_for_any_number_of_threads() -> None:
    arguments = s6_arguments((2, 2, 40, 16, 130))
    model = s6_model(arguments).SerializeToString()
    values = [session(model, threads).run(None, s6_feed(arguments))[0] for threads in (1, 2, 5)]
    assert all(np.array_equal(values[0], value) for value in values[1:])


def test_shapes_that_do_not_fit_are_refused_by_name() -> None:
    arguments = s6_arguments((1, 2, 8, 4, 20))
    model = s6_model(arguments)
    model.graph.input[1].type.tensor_type.shape.dim[2].dim_param = "other"
    values = s6_feed(arguments)
    values["delta"] = values["delta"][..., :-1]
    with pytest.raises(Exception, match=r"input delta has shape \(1, 16, 19\); expected \(1, 16, 20\)"):
        session(model.SerializeToString()).run(None, values)


@pytest.mark.parametrize("native", [True, False])
def test_the_fused_scan_may_leave_its_gate_out(native: bool, tmp_path: Path) -> None:
    directions = [0, 2, 1, 3]
    arguments = scan_of(directions, 2, 35, 24)
    model = onnx.load_from_string(
        node_model("SelectiveScan", arguments, FLOAT, {}, rows=5, directions=directions, mean=0)
    )
    next(node for node in model.graph.node if node.op_type == "SelectiveScan").input[2] = ""
    model.functions[0].CopyFrom(selective_scan_function((0, 2, 1, 3), False, 20, gate=False))
    if native:
        opened = session(model.SerializeToString(), profile=tmp_path / "p")
    else:
        import onnxruntime

        opened = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    value = opened.run(None, feed(arguments))[0]
    exact = [None if name == "xz" else tensor for name, tensor in arguments.items()]
    expected = selective_scan_reference(*exact, 5, directions, False)  # type: ignore[arg-type]
    assert relative(value, expected) <= TOLERANCES[FLOAT]
    if native:
        assert '"op_name" : "SelectiveScan"' in Path(opened.end_profiling()).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["avx512", "avx2", "baseline"])
def test_every_instruction_set_equals_the_reference(isa: str) -> None:
    """In processes of their own: which kernels run is decided once."""
    flag = {"avx512": "avx512bw", "avx2": "avx2"}.get(isa)
    if platform.machine() not in ("x86_64", "AMD64") or (flag and flag not in Path("/proc/cpuinfo").read_text()):
        pytest.skip(f"this CPU has no {isa.upper()}")
    code = (
        "import torch\n"
        "from tests.vivim.scan.test_s6 import SHAPES, s6_arguments\n"
        "from vivim.scan.kernels import CpuLibrary\n"
        "from vivim.scan.s6 import s6_scan_reference\n"
        "from vivim_runtime.sessions.native import native_library\n"
        "native = native_library()\n"
        "for shape in SHAPES:\n"
        "    arguments = s6_arguments(shape)\n"
        "    value = CpuLibrary(native).s6_scan(*(a.float() for a in arguments), True)\n"
        "    expected = s6_scan_reference(*arguments, True)\n"
        "    assert (value - expected).norm() <= 5e-7 * expected.norm(), shape\n"
        "print(native.instruction_set)\n"
    )
    folders = [ROOT, *(ROOT / name for name in ("export", "runtime", "calibration"))]
    environment = {
        **os.environ,
        "VIVIM_CPU_ISA": isa,
        "VIVIM_ORT": str(library()),
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
    }
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa
