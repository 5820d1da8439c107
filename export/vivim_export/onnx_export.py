"""PyTorch to ONNX: one file that holds the network, its operators' bodies, the preprocessing and its own description.

torch.export traces the network; the two custom operators become bare nodes of the domain `vivim`; their bodies are
appended as functions of the model (a function given to the exporter itself would be inlined and lost).
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import onnxscript.values
import torch
from onnx import helper
from torch import Tensor, nn

import vivim.scan.operators  # noqa: F401  (registers torch.ops.vivim)
from vivim.checkpoint import Training, load_checkpoint, read_training, resolve_weights
from vivim.model import Vivim, stage_sizes
from vivim.session import TorchSession, describe, weights_digest
from vivim_export.cpu_graph import for_cpu
from vivim_export.emulation import open_artefact
from vivim_export.folding import fold_for_export
from vivim_export.functions import DOMAIN, DOMAIN_VERSION, causal_conv1d_function, selective_scan_function
from vivim_export.lowering import lower_operators
from vivim_export.precision import HALVES, half_from_float
from vivim_export.streaming import Deployed, streaming_functions, streaming_translations, trace_step
from vivim_runtime.contract import InputContract
from vivim_runtime.errors import ParityError, UsageError
from vivim_runtime.files import atomic_path, sha256_file
from vivim_runtime.judging.parity import Comparison, compare
from vivim_runtime.sessions.base import StateInfo

_log = logging.getLogger(__name__)

__all__ = [
    "FORMS",
    "OPSETS",
    "OnnxOptions",
    "contract_of",
    "drop_debug_information",
    "export_onnx",
    "onnx_from_model",
    "quiet",
    "save_onnx",
    "translations",
]

# GELU became an operator in 20, and convolution takes bfloat16 from 22 on; nothing else that the network uses changes.
OPSETS = range(20, 24)
_BF16_OPSET = 22
# What stands for our operators in a file.
FORMS = ("bodies", "lowered")
# Where a file says how the comparison with PyTorch went.
_PARITY_KEY = "vivim.parity"


@dataclass(frozen=True)
class OnnxOptions:
    """How to export.

    Attributes:
        size: (H, W) of the network's input, pixels; None is that of its training.
        batch: clips at once; None leaves it open (dynamic).
        raw_input: take normalised float32 (B, T, 3, H, W), as the authors' code does, instead of uint8 RGB
            (B, T, H, W, 3) with the normalisation inside.
        opset: of the standard operators; None is the lowest that has what is needed.
        fold: fold the decoder (exact; see vivim_export.folding).
        precision: fp32, fp16 or bf16, written into the graph's types (vivim_export.precision).
        cpu: operators of more than one node that ONNX Runtime on a CPU has compiled (vivim_export.cpu_graph); fp32
            only.
        form: "bodies", our operators with their bodies, or "lowered", standard operators alone
            (vivim_export.lowering), for runtimes that take no functions.
        codes: what classes are in DICOM's words (vivim.session.describe).
    """

    size: tuple[int, int] | None = None
    batch: int | None = 1
    raw_input: bool = False
    opset: int | None = None
    fold: bool = True
    precision: str = "fp32"
    cpu: bool = False
    form: str = "bodies"
    codes: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    @property
    def opset_version(self) -> int:
        """The opset of the file."""
        return self.opset or self._lowest_opset

    @property
    def _lowest_opset(self) -> int:
        return _BF16_OPSET if self.precision == "bf16" else OPSETS.start

    def __post_init__(self) -> None:
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch is {self.batch}; expected at least 1")
        if self.precision not in ("fp32", *HALVES):
            raise UsageError(f"the precision is {self.precision}; expected fp32, {', '.join(HALVES)}")
        if self.form not in FORMS:
            raise UsageError(f"--form is {self.form}; expected {' or '.join(FORMS)}")
        if self.cpu and self.form != "bodies":
            raise UsageError(f"--cpu and --form {self.form} contradict each other; its operators need their bodies")
        if self.cpu and self.precision != "fp32":
            raise UsageError(f"--cpu and --{self.precision} contradict each other; CPUs take float32")
        if self.opset is not None and not self._lowest_opset <= self.opset < OPSETS.stop:
            raise UsageError(
                f"--opset is {self.opset}; expected {self._lowest_opset} to {OPSETS.stop - 1} for {self.precision}"
            )


def contract_of(weights: str | Path) -> InputContract:
    """What pictures and clips a checkpoint was trained on; see vivim.checkpoint.read_training for what is raised."""
    return read_training(weights).contract


def export_onnx(
    weights: str | Path,
    output: str | Path,
    options: OnnxOptions,
    frames: int | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    clips: Sequence[str] | None = None,
) -> Comparison:
    """Export a checkpoint to `output` and compare the file with PyTorch; it appears whole and proven, or not at all.

    The outcome of the comparison goes into the file's description.

    Args:
        weights: anything `vivim.load_checkpoint` takes.
        output: the .onnx file.
        frames: T of the clip; default what the checkpoint says.
        on_stage: told what is being done.
        clips: what the two are compared on; see vivim_runtime.judging.parity.compare.

    Raises:
        CheckpointError, InputError, UsageError: exit code 2.
        ParityError: the file is not the network; its `comparison` says how far off. Exit code 3.
    """
    output = Path(output)
    if output.suffix != ".onnx":
        raise UsageError(f"the output is {output}; expected a name ending in .onnx")
    path = resolve_weights(weights)
    training = read_training(path)
    model = load_checkpoint(path, frames)
    options = replace(options, size=options.size or training.contract.size)
    assert options.size is not None
    stage_sizes(model.config, *options.size)  # raises for a size that the network cannot take
    with atomic_path(output) as temporary:
        on_stage(f"tracing {model.config.preset_name}, T = {model.config.frames}, {options.size[0]}x{options.size[1]}")
        digest = sha256_file(path)
        proto = onnx_from_model(model, options, digest, training)
        save_onnx(proto, temporary)
        on_stage("loading it in ONNX Runtime")
        reference = TorchSession(model, options.size, path, digest, training)
        # All of the file is proven, the bodies that other runtimes take too; the reference may take compiled operators.
        with open_artefact(temporary, "cpu", bodies=True) as session:
            comparison = compare(reference, session, clips, lambda n: on_stage(f"comparing with PyTorch, clip {n}"))
        comparison = replace(comparison, b=replace(comparison.b, name=output.name))
        if not comparison.passed:
            raise ParityError(
                f"{output} does not stand for {weights}: {'; '.join(comparison.failures)}; nothing was written",
                comparison,
            )
        entry = proto.metadata_props.add()
        entry.key, entry.value = _PARITY_KEY, json.dumps(comparison.record())
        save_onnx(proto, temporary)
    return comparison


def save_onnx(model: onnx.ModelProto, output: str | Path) -> None:
    """Write `model` and check the file fully; it appears whole or not at all."""
    with atomic_path(output) as temporary:
        onnx.save(model, temporary)
        onnx.checker.check_model(temporary, full_check=True)


def onnx_from_model(
    model: Vivim, options: OnnxOptions, weights_sha256: str | None = None, training: Training | None = None
) -> onnx.ModelProto:
    """The ONNX model of a network; its T is `model.config.frames`.

    Args:
        training: what its weights say of their training; default that of weights without a record.
    """
    config = model.config
    training = training or Training(InputContract.assumed(config.frames))
    size = options.size or training.contract.size
    stage_sizes(config, *size)  # raises for a size that the network cannot take
    deployed = Deployed(fold_for_export(model, options.fold), options.raw_input, training.contract).eval()
    if config.streaming and options.batch is None:
        raise UsageError(
            "--batch is dynamic; a streaming file remembers a number of films that is fixed: give --batch 1"
        )
    states: list[StateInfo] = []
    if config.streaming:
        with quiet(), torch.no_grad():
            proto, states = trace_step(deployed, _example(1, size, options), options.opset_version, translations())
    else:
        proto = _trace(deployed, _example(config.frames, size, options), options)
    if options.precision != "fp32":
        proto = half_from_float(proto, options.precision)
    if any(node.domain == DOMAIN for node in proto.graph.node):  # SegFormer alone has no node of ours, nor have rivals
        if config.carries:
            proto.functions.extend(streaming_functions(config, options.opset_version))
        else:
            proto.functions.append(causal_conv1d_function(config.direction_codes, config.conv, options.opset_version))
            proto.functions.append(selective_scan_function(config.direction_codes, True, options.opset_version))
        if DOMAIN not in {entry.domain for entry in proto.opset_import}:
            proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))
    if options.form == "lowered":
        proto = lower_operators(proto)
    if options.cpu:
        for declined in for_cpu(proto):
            _log.warning("%s", declined)
    drop_debug_information(proto)
    description = describe(
        model,
        size,
        weights_sha256 or weights_digest(model),
        training,
        batch=options.batch,
        raw_input=options.raw_input,
        precision=options.precision,
        tools={"onnx": onnx.__version__, "onnxscript": onnxscript.__version__},
        codes=options.codes,
        states=states,
    )
    helper.set_model_props(proto, description)
    proto.producer_name, proto.producer_version = "vivim-edge", importlib.metadata.version("vivim-edge")
    proto.doc_string = "Vivim video segmentation (arXiv 2401.14168), exported by vivim-edge."
    return proto


def _example(frames: int, size: tuple[int, int], options: OnnxOptions) -> Tensor:
    # A dynamic batch is traced with 2 clips: torch.export takes a size of 1 for a constant.
    batch, (height, width) = options.batch or 2, size
    if options.raw_input:
        return torch.zeros(batch, frames, 3, height, width)
    return torch.zeros(batch, frames, height, width, 3, dtype=torch.uint8)


def _schema(name: str, data: list[str], parameters: list[str], attributes: dict[str, Any]) -> onnx.defs.OpSchema:
    types = [("T", ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"], "data")]
    parameter = onnx.defs.OpSchema.FormalParameter
    return onnx.defs.OpSchema(
        name,
        DOMAIN,
        DOMAIN_VERSION,
        inputs=[*(parameter(i, "T") for i in data), *(parameter(i, "tensor(float)") for i in parameters)],
        outputs=[onnx.defs.OpSchema.FormalParameter("y", "T")],
        type_constraints=types,
        attributes=[onnx.defs.OpSchema.Attribute(n, t) for n, t in attributes.items()],
    )


def translations() -> dict[Any, Any]:
    """torch.ops.vivim -> bare ONNX nodes of the same names."""
    kinds = onnx.defs.OpSchema.AttrType
    opset = onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION)
    attributes = {"rows": kinds.INT, "directions": kinds.INTS}
    conv = onnxscript.values.Op(opset, "CausalConv1d", _schema("CausalConv1d", ["xz"], ["weight", "bias"], attributes))
    data, parameters = ["xc", "dbc", "xz"], ["A_log2e", "dt_weight", "dt_bias", "d_skip"]
    scan = onnxscript.values.Op(
        opset, "SelectiveScan", _schema("SelectiveScan", data, parameters, {**attributes, "mean": kinds.INT})
    )

    def causal_conv1d(x, weight, bias, rows, directions):  # type: ignore[no-untyped-def]
        return conv(x, weight, bias, rows=rows, directions=directions)

    def selective_scan(  # type: ignore[no-untyped-def]
        xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip, rows, directions, mean
    ):
        tensors = (xc, dbc, xz, A_log2e, dt_weight, dt_bias, d_skip)
        return scan(*tensors, rows=rows, directions=directions, mean=int(mean))

    return {
        torch.ops.vivim.causal_conv1d.default: causal_conv1d,
        torch.ops.vivim.selective_scan.default: selective_scan,
        **streaming_translations(),
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what torch.onnx says about itself: packages we do not use, and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _trace(deployed: nn.Module, example: Tensor, options: OnnxOptions) -> onnx.ModelProto:
    name = "clip" if options.raw_input else "frames"
    shapes = None
    if options.batch is None:
        shapes = {"x": {0: torch.export.Dim("batch", min=1)}}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            deployed,
            (example,),
            dynamo=True,
            opset_version=options.opset_version,
            input_names=[name],
            output_names=["logits"],
            dynamic_shapes=shapes,
            custom_translation_table=translations(),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def drop_debug_information(proto: onnx.ModelProto) -> None:
    """Remove the stack traces that torch.onnx leaves on every node: they name files of the exporting machine."""
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.metadata_props[:]
