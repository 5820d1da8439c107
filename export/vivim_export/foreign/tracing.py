"""Networks of others to ONNX: traced by torch.export, with our operators as nodes that carry their bodies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import onnxscript
import onnxscript.rewriter
import onnxscript.values
import torch
from onnx import helper
from torch import Tensor, nn

import vivim.scan.s6  # noqa: F401  (registers torch.ops.vivim.s6_scan)
from vivim_export.foreign.fusing import Variant
from vivim_export.foreign.loading import line_of, place_of
from vivim_export.foreign.stand_ins import without_triton
from vivim_export.functions import DOMAIN, DOMAIN_VERSION, causal_conv1d_function, selective_scan_function
from vivim_export.onnx_export import drop_debug_information, quiet, translations
from vivim_export.s6 import S6_INPUTS, s6_scan_function
from vivim_runtime.errors import ModelError

__all__ = ["onnx_from_network"]


def onnx_from_network(
    network: nn.Module,
    example: Tensor,
    variant: Variant | None,
    dynamic_batch: bool = False,
    names: tuple[str, Sequence[str]] = ("input", ("output",)),
    opset: int = 20,
    folders: Iterable[str | Path] = (),
) -> onnx.ModelProto:
    """The ONNX model of a network with one input.

    Args:
        example: an input; with `dynamic_batch` its batch is 2 or more.
        variant: of the fused modules, where there are some.
        names: of the input and of the outputs.
        folders: of the network's code, for messages.

    Raises:
        ModelError: it cannot be traced, or fixes its batch; the message says where.
    """
    shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic_batch else None
    roots = [Path(folder).resolve() for folder in folders]
    with quiet(), torch.no_grad(), without_triton(), _linear_rules(), _numbers_made(roots) as places:
        try:
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[names[0]],
                output_names=list(names[1]),
                dynamic_shapes=shapes,
                custom_translation_table={**translations(), **_translations()},
                external_data=False,
                verbose=False,
            )
        except Exception as error:  # torch.onnx's exceptions share no base class with those of torch.export
            raise _explained(error, places, dynamic_batch, roots) from None
    assert program is not None
    proto = program.model_proto
    if dynamic_batch and not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise _fixed_batch(places)
    _append_bodies(proto, variant, opset)
    drop_debug_information(proto)
    return proto


@contextmanager
def _linear_rules() -> Iterator[None]:
    """Leave out the one rule of onnxscript's optimiser that goes over the whole graph for each of its nodes (two slices
    that split a tensor become a Split): of LocalVim, 80 scans of 50 nodes each, it took most of the export.
    """
    rules = getattr(onnxscript.rewriter, "_DEFAULT_REWRITE_RULES", None)
    if rules is None:  # of an onnxscript that keeps them elsewhere
        yield
        return
    kept = tuple(rule for rule in rules if rule.name != "SlicesSplit")
    onnxscript.rewriter._DEFAULT_REWRITE_RULES = kept
    try:
        yield
    finally:
        onnxscript.rewriter._DEFAULT_REWRITE_RULES = rules


def _append_bodies(proto: onnx.ModelProto, variant: Variant | None, opset: int) -> None:
    used: dict[str, list[onnx.NodeProto]] = {}
    for node in proto.graph.node:
        if node.domain == DOMAIN:
            used.setdefault(node.op_type, []).append(node)
    if "S6Scan" in used:
        kinds = {next(a.i for a in node.attribute if a.name == "softplus") for node in used["S6Scan"]}
        if len(kinds) > 1:
            raise ModelError(
                "the network has scans with a softplus and scans without one, and a file holds one body; "
                "take the softplus out of the scan in the network's code"
            )
        proto.functions.append(s6_scan_function(bool(kinds.pop()), opset))
    if "SelectiveScan" in used:
        assert variant is not None
        proto.functions.append(selective_scan_function(variant.directions, variant.mean, opset, variant.gate))
    if "CausalConv1d" in used:
        assert variant is not None
        proto.functions.append(causal_conv1d_function(variant.directions, variant.taps, opset))
    if used and DOMAIN not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(helper.make_opsetid(DOMAIN, DOMAIN_VERSION))


def _translations() -> dict[Any, Any]:
    """vivim::s6_scan -> a bare S6Scan; absent vectors become zeros, since a body cannot ask for them."""
    schema = onnx.defs.OpSchema
    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    inputs = [schema.FormalParameter(name, "T" if i < 4 else "tensor(float)") for i, name in enumerate(S6_INPUTS)]
    op = onnxscript.values.Op(
        onnxscript.values.Opset(DOMAIN, DOMAIN_VERSION),
        "S6Scan",
        schema(
            "S6Scan",
            DOMAIN,
            DOMAIN_VERSION,
            inputs=inputs,
            outputs=[schema.FormalParameter("y", "T")],
            type_constraints=[("T", floats, "data")],
            attributes=[schema.Attribute("softplus", schema.AttrType.INT)],
        ),
    )
    standard = onnxscript.opset20

    def s6_scan(u, delta, A, B, C, skip, bias, softplus):  # type: ignore[no-untyped-def]
        zeros = None
        if skip is None or bias is None:
            zeros = standard.Expand(standard.Constant(value_float=0.0), standard.Shape(A, start=0, end=1))
        vectors = (zeros if skip is None else skip, zeros if bias is None else bias)
        return op(u, delta, B, C, A, *vectors, softplus=int(softplus))

    return {torch.ops.vivim.s6_scan.default: s6_scan}


# --- what blocks an export ----------------------------------------------------------------------------------------


@contextmanager
def _numbers_made(roots: Sequence[Path]) -> Iterator[list[str]]:
    """Lines of theirs that make a number of an open size, which fixes it: int(x.shape[0] / 4)."""
    import inspect

    places: list[str] = []

    def note() -> None:
        frame = inspect.currentframe()
        while frame is not None:
            file = frame.f_code.co_filename
            if any(Path(file).is_relative_to(root) for root in roots):
                place = line_of(file, frame.f_lineno, roots)
                if place not in places:
                    places.append(place)
                return
            frame = frame.f_back

    before = {name: getattr(torch.SymInt, name) for name in ("__int__", "__index__")}
    before_float = {name: getattr(torch.SymFloat, name) for name in ("__int__",)}

    def watched(call: Any) -> Any:
        def run(self: Any) -> Any:
            note()
            return call(self)

        return run

    for name, call in before.items():
        setattr(torch.SymInt, name, watched(call))
    for name, call in before_float.items():
        setattr(torch.SymFloat, name, watched(call))
    try:
        yield places
    finally:
        for name, call in before.items():
            setattr(torch.SymInt, name, call)
        for name, call in before_float.items():
            setattr(torch.SymFloat, name, call)


def _fixed_batch(places: Sequence[str]) -> ModelError:
    where = f": {places[0]}" if places else ""
    return ModelError(
        f"the network fixes its batch{where}; export it without --dynamic-batch, or let that line keep sizes as they "
        "are (// instead of int(/))"
    )


def _explained(error: Exception, places: Sequence[str], dynamic_batch: bool, roots: Sequence[Path]) -> ModelError:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(item) for item in causes)
    if dynamic_batch and ("batch" in text and ("specialized" in text or "Constraints violated" in text)):
        return _fixed_batch(places)
    deepest = next((item for item in causes if _is_theirs(item, roots)), causes[-1])
    first = next((line.strip() for line in str(deepest).splitlines() if line.strip()), type(deepest).__name__)
    return ModelError(f"the network cannot be traced at {place_of(deepest, roots)}: {first[:300]}")


def _is_theirs(error: BaseException, roots: Sequence[Path]) -> bool:
    trace = error.__traceback__
    while trace is not None:
        if any(Path(trace.tb_frame.f_code.co_filename).is_relative_to(root) for root in roots):
            return True
        trace = trace.tb_next
    return False
