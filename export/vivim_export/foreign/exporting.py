"""Other people's Mamba networks to one ONNX file that is proven before it appears, in a few lines:

with stand_ins(["./VMamba"]):
    network = load_network("vmamba:vmamba_tiny_s1l8", ["./VMamba"])
    report = export_network(network, "vmamba.onnx", ForeignOptions((1, 3, 224, 224)))
"""

from __future__ import annotations

import importlib.metadata
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from vivim_export.foreign.fusing import FusedSite, fused_modules
from vivim_export.foreign.loading import blamed
from vivim_export.foreign.parity import Agreement, Truth, agreement, flat_outputs, half_weights, relative, truth_of
from vivim_export.foreign.stand_ins import ScanCall, recorded_scans
from vivim_export.foreign.tracing import onnx_from_network
from vivim_export.onnx_export import OPSETS, save_onnx
from vivim_export.precision import half_from_float
from vivim_runtime.errors import ModelError, ParityError, UsageError
from vivim_runtime.files import atomic_path
from vivim_runtime.sessions.onnx import inference_session, onnx_runtime

__all__ = ["ForeignOptions", "ForeignReport", "Inspection", "export_network", "inspect_network", "run_file"]

_COLORS = ((255, 64, 64), (64, 160, 255), (64, 220, 96), (255, 200, 0), (200, 96, 255), (0, 220, 220), (255, 128, 0))
# Probabilities are kept this far from 0 and 1, where a logit is infinite.
_EDGE = 1e-6
_OUTPUTS = ("logits", "softmax", "probabilities")


@dataclass(frozen=True)
class ForeignOptions:
    """How to export somebody else's network.

    Attributes:
        shape: of the input, batch first.
        dynamic_batch: any number of pictures a call.
        fuse: modules that are recognised onto the fused operators.
        precision: fp32 or fp16.
        input_name, output_names: in the file; without names, input and output, output_1, ...
        classes: names of the K classes of a segmentation network (B, 3, H, W) -> (B, K, H, W): the file then takes
            uint8 pictures, normalises them itself, and runs in vivim-run as clips of one frame.
        outputs: what such a network gives: "logits" of independent sigmoids, "softmax" for logits of one softmax over
            the classes, or "probabilities". Must be said where there are several classes.
        mean, std: of that normalisation, RGB in 0..1.
        title: of the network, for people.
        opset: of the standard operators.
    """

    shape: tuple[int, ...]
    dynamic_batch: bool = False
    fuse: bool = True
    precision: str = "fp32"
    input_name: str = ""
    output_names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    outputs: str = ""
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    title: str = "network"
    opset: int = OPSETS.start
    folders: tuple[Path, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "fp16"):
            raise UsageError(f"the precision is {self.precision}; expected fp32 or fp16")
        if self.opset not in OPSETS:
            raise UsageError(f"--opset is {self.opset}; expected {OPSETS.start} to {OPSETS.stop - 1}")
        if self.classes and (len(self.shape) != 4 or self.shape[1] != 3):
            raise UsageError(
                f"--classes and an input of {'x'.join(map(str, self.shape))}; expected pictures, such as 1x3x256x256"
            )
        if self.outputs and (self.outputs not in _OUTPUTS or not self.classes):
            raise UsageError(f"--outputs is {self.outputs}; expected {', '.join(_OUTPUTS)}, with --classes")
        if len(self.classes) > 1 and not self.outputs:
            raise UsageError(
                f"--classes names {len(self.classes)}: say what the network gives for them, --outputs logits (of "
                "a sigmoid each), softmax (logits of one softmax) or probabilities"
            )
        if self.classes and (self.input_name or self.output_names):
            raise UsageError("--classes and names of inputs or outputs contradict each other: vivim-run has its own")


@dataclass(frozen=True)
class Inspection:
    """What is known before an export.

    Attributes:
        calls: of scans, in one run of the network as it is.
        sites: modules that were recognised.
        outputs: shapes.
        blocked: why it cannot be exported, with a line of its code; empty where it can.
        batch_blocked: why its batch cannot be left open.
    """

    calls: tuple[ScanCall, ...]
    sites: tuple[FusedSite, ...]
    outputs: tuple[tuple[int, ...], ...]
    blocked: str
    batch_blocked: str

    @property
    def fused(self) -> int:
        return sum(site.variant is not None for site in self.sites)


@dataclass(frozen=True)
class ForeignReport:
    """How an export went.

    Attributes:
        sites: modules that were recognised.
        nodes: of the graph, by operator.
        agreement: with PyTorch.
        reference_seconds: of the network's own reference path in PyTorch, the first input.
        export_seconds: of tracing.
        no_double: why there is no float64 to compare with; empty where there is.
    """

    sites: tuple[FusedSite, ...]
    nodes: dict[str, int]
    agreement: Agreement
    reference_seconds: float
    export_seconds: float
    no_double: str = ""

    @property
    def fused(self) -> int:
        return sum(site.variant is not None for site in self.sites)


class _Pictures(nn.Module):
    """A segmentation network as vivim-run takes it: uint8 (B, 1, H, W, 3) -> logits (B, 1, K, H, W)."""

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, options: ForeignOptions) -> None:
        super().__init__()
        self.network, self.outputs, self.classes = network, options.outputs or "logits", len(options.classes)
        self.register_buffer("mean", 255.0 * torch.tensor(options.mean))
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(options.std)))

    def forward(self, x: Tensor) -> Tensor:
        pictures = ((x.to(torch.float32) - self.mean) * self.scale)[:, 0].permute(0, 3, 1, 2)
        found = flat_outputs(self.network(pictures))[0]
        if self.outputs == "probabilities":
            found = found.clamp(_EDGE, 1.0 - _EDGE)
            found = torch.log(found) - torch.log(1.0 - found)
        elif self.outputs == "softmax":  # the log-odds of each class: above 0 where its probability is above 0.5
            others = [torch.cat([found[:, :k], found[:, k + 1 :]], dim=1) for k in range(self.classes)]
            found = found - torch.stack([torch.logsumexp(other, dim=1) for other in others], dim=1)
        return found.unsqueeze(1)


def inspect_network(network: nn.Module, options: ForeignOptions) -> Inspection:
    """Run, fuse and trace a network, and write nothing; call it within `stand_ins`."""
    example = _sample(options, 1, 0)
    with blamed("running the network", options.folders), recorded_scans() as calls, torch.no_grad():
        outputs = flat_outputs(network(example))
    shapes = tuple(tuple(out.shape) for out in outputs)
    with fused_modules(network, example) as sites:
        blocked = _reason(network, sites, options, False)
        batch_blocked = "" if blocked else _reason(network, sites, options, True)
    return Inspection(tuple(calls), tuple(sites), shapes, blocked, batch_blocked)


def _reason(network: nn.Module, sites: Sequence[FusedSite], options: ForeignOptions, dynamic: bool) -> str:
    variant = next((site.variant for site in sites if site.variant), None)
    try:
        onnx_from_network(
            network, _sample(options, 2 if dynamic else options.shape[0], 0), variant, dynamic, folders=options.folders
        )
    except ModelError as error:
        return str(error)
    return ""


def export_network(
    network: nn.Module,
    output: str | Path,
    options: ForeignOptions,
    on_stage: Callable[[str], None] = lambda _: None,
) -> ForeignReport:
    """Export to `output` and compare the file with the network; call it within `stand_ins`.

    The file appears proven, or not at all; the network is as it was afterwards.

    Raises:
        ModelError: the network does not run, or cannot be exported; the message has a line of its code. Exit code 2.
        ParityError: the file is not the network. Exit code 3.
    """
    output = Path(output)
    if output.suffix != ".onnx":
        raise UsageError(f"the output is {output}; expected a name ending in .onnx")
    deployed = network
    if options.classes:
        _check_classes(network, options)
        deployed = _Pictures(network, options).eval()
    on_stage("running its own reference path")
    truths = list(_truths(deployed, options, on_stage))
    on_stage("recognising modules")
    start = time.perf_counter()
    variant = None
    with fused_modules(network, _sample(_raw(options), 1, 0)) if options.fuse else nullcontext(()) as sites:
        variant = next((site.variant for site in sites if site.variant), None)
        on_stage("tracing")
        batch = max(2, options.shape[0]) if options.dynamic_batch else options.shape[0]
        count = len(truths[0].single)
        names = (
            ("frames" if options.classes else options.input_name or "input"),
            ("logits",) if options.classes else options.output_names or _output_names(count),
        )
        if len(names[1]) != count:
            raise UsageError(f"there are {len(names[1])} names for {count} outputs; name each of them")
        proto = onnx_from_network(
            deployed,
            _sample(options, batch, 0),
            variant,
            options.dynamic_batch,
            names,
            options.opset,
            options.folders,
        )
    seconds = time.perf_counter() - start
    rounding = 0.0
    if options.precision == "fp16":
        on_stage("what half precision costs it")
        rounding = _half_rounding(deployed, truths)
        proto = half_from_float(proto)
    _describe(proto, deployed, options)
    with atomic_path(output) as temporary:
        save_onnx(proto, temporary)
        on_stage("comparing with PyTorch")
        with blamed("loading the file in ONNX Runtime"):
            found = agreement(truths, run_file(temporary, bodies=True), rounding)
        report = ForeignReport(
            tuple(sites),
            dict(Counter(node.op_type for node in proto.graph.node)),
            found,
            truths[0].seconds,
            seconds,
            truths[0].reason,
        )
        if not found.passed:
            raise ParityError(
                f"{output} does not stand for {options.title}: {'; '.join(found.failures)}; nothing was written", report
            )
        entry = proto.metadata_props.add()
        entry.key, entry.value = "vivim.parity", json.dumps(found.record())
        save_onnx(proto, temporary)
    return report


def _output_names(count: int) -> tuple[str, ...]:
    return tuple("output" if index == 0 else f"output_{index}" for index in range(count))


def _raw(options: ForeignOptions) -> ForeignOptions:
    """Of the network itself, not of the pictures around it."""
    return replace(options, classes=(), outputs="")


def _truths(deployed: nn.Module, options: ForeignOptions, on_stage: Callable[[str], None]) -> Iterator[Truth]:
    with blamed("running the network", options.folders):
        yield truth_of(deployed, _sample(options, options.shape[0], 0), loops=True)
        on_stage("running it on another input")
        # Another batch than that of the trace shows one that was fixed on the way.
        yield truth_of(deployed, _sample(options, 3 if options.dynamic_batch else options.shape[0], 1), loops=False)


def _half_rounding(deployed: nn.Module, truths: Sequence[Truth]) -> float:
    with half_weights(deployed):
        rounded = truth_of(deployed, truths[0].x, loops=False)
    pairs = zip(rounded.single, truths[0].single, strict=True)
    return max(relative(a, b) for a, b in pairs)


def _sample(options: ForeignOptions, batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = options.shape
    if options.classes:
        return torch.randint(0, 256, (batch, 1, *shape[2:], 3), generator=generator, dtype=torch.uint8)
    return torch.randn(batch, *shape[1:], generator=generator)


def _check_classes(network: nn.Module, options: ForeignOptions) -> None:
    with blamed("running the network", options.folders), torch.no_grad():
        outputs = flat_outputs(network(_sample(_raw(options), options.shape[0], 0)))
    found = tuple(outputs[0].shape)
    expected = (options.shape[0], len(options.classes), *options.shape[2:])
    if found != expected:
        raise UsageError(
            f"the network gives {'x'.join(map(str, found))} for {len(options.classes)} classes; expected "
            f"{'x'.join(map(str, expected))}: name each of its classes in --classes, for logits of the input's size"
        )
    lies_within = float(outputs[0].min()) >= 0.0 and float(outputs[0].max()) <= 1.0
    if lies_within != (options.outputs == "probabilities"):
        has = "lies within 0 and 1, as probabilities do" if lies_within else "does not lie within 0 and 1"
        raise UsageError(f"what the network gives {has}, and --outputs is {options.outputs or 'logits'}")
    if options.outputs == "softmax" and len(options.classes) < 2:
        raise UsageError("--outputs softmax needs two classes or more; name the background too")


def _describe(proto: onnx.ModelProto, deployed: nn.Module, options: ForeignOptions) -> None:
    digest = sha256()
    for key, value in sorted(deployed.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().contiguous().numpy().tobytes())
    version = importlib.metadata.version("vivim-edge")
    description = {
        "vivim.network": options.title,
        "vivim.precision": options.precision,
        "vivim.weights_sha256": digest.hexdigest(),
        "vivim.versions": json.dumps({"vivim-edge": version, "torch": torch.__version__, "onnx": onnx.__version__}),
    }
    if options.classes:
        classes = [{"name": n, "color": list(_COLORS[i % len(_COLORS)])} for i, n in enumerate(options.classes)]
        description |= {
            "vivim.format": "1",
            "vivim.preset": options.title,
            "vivim.frames": "1",
            "vivim.height": str(options.shape[2]),
            "vivim.width": str(options.shape[3]),
            "vivim.batch": "dynamic" if options.dynamic_batch else str(options.shape[0]),
            "vivim.input": "uint8",
            "vivim.mean": json.dumps(options.mean),
            "vivim.std": json.dumps(options.std),
            "vivim.classes": json.dumps(classes),
        }
    helper.set_model_props(proto, description)
    proto.producer_name, proto.producer_version = "vivim-edge", version
    proto.doc_string = f"{options.title}, exported by vivim-edge."


def run_file(path: Path, bodies: bool = False, threads: int = 1) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """A file with one input in ONNX Runtime on the CPU, as a function."""
    runtime = onnx_runtime("comparing an ONNX file")

    def options() -> Any:
        made = runtime.SessionOptions()
        made.intra_op_num_threads, made.log_severity_level = threads, 4
        return made

    session, _ = inference_session(str(path), options, ["CPUExecutionProvider"], bodies)
    name = session.get_inputs()[0].name
    return lambda x: list(session.run(None, {name: x}))
