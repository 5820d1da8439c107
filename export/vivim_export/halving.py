"""A float32 ONNX file of vivim-export as a typed float16 one, without the checkpoint.

The same rules as vivim_export.precision, on the graph: what it keeps in float32 (pixels up to the first convolution,
LayerNorm, softmax, the operators' parameters, logits from the classifier on) stays, everything else becomes float16,
and a cast stands wherever the two meet.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from vivim_export.functions import DOMAIN
from vivim_runtime.errors import ModelError

__all__ = ["half_from_float"]

_FLOAT_NODES = {"LayerNormalization", "Softmax"}
# Inputs of the operators that are data; the others are parameters.
_DATA_INPUTS = {"CausalConv1d": 1, "SelectiveScan": 3}
# Inputs that are float32 by the operator's definition, or no numbers that are computed with.
_UNTYPED_INPUTS = {"Resize": range(1, 4)}


def half_from_float(model: onnx.ModelProto) -> onnx.ModelProto:
    """The typed copy; float32 logits out, and its description says fp16.

    A quantised file stays one, and is called int8: what is float32 between its Q/DQ nodes becomes float16, scales too.

    Raises:
        ModelError: a weight that float16 cannot hold.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    _Halving(result.graph).run()
    for entry in result.metadata_props:
        if entry.key == "vivim.precision" and entry.value == "fp32":
            entry.value = "fp16"
    kept = [entry for entry in result.metadata_props if entry.key != "vivim.parity"]  # that of the float32 file
    del result.metadata_props[:]
    result.metadata_props.extend(kept)
    return result


class _Halving:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._types = {v.name: v.type.tensor_type.elem_type for v in (*graph.value_info, *graph.input, *graph.output)}
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self._types |= {name: tensor.data_type for name, tensor in self._weights.items()}
        self._values = {value.name: value for value in (*graph.value_info, *graph.output)}
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[onnx.NodeProto] = []
        self._halved: dict[str, str] = {}

    def run(self) -> None:
        convolutions = [node for node in self._graph.node if node.op_type == "Conv"]
        first, classifier = convolutions[0], convolutions[-1]
        before = self._upstream(first)
        passed = False
        for node in self._graph.node:
            stays = node.name in before or passed or node.op_type in _FLOAT_NODES
            self._type(node, TensorProto.FLOAT if stays else TensorProto.FLOAT16)
            passed = passed or node is classifier or node.name == classifier.name
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        used = Counter(name for node in self._nodes for name in node.input)
        kept = [tensor for tensor in self._graph.initializer if used[tensor.name]]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)

    def _upstream(self, node: onnx.NodeProto) -> set[str]:
        """Names of the nodes that a node follows from, and its own."""
        makers = {output: maker for maker in self._graph.node for output in maker.output}
        found, todo = set(), [node]
        while todo:
            current = todo.pop()
            if current.name not in found:
                found.add(current.name)
                todo += [makers[name] for name in current.input if name in makers]
        return found

    def _type(self, node: onnx.NodeProto, wanted: int) -> None:
        """Give a node inputs of the type that it is to compute in, and say so of its outputs."""
        data = _DATA_INPUTS[node.op_type] if node.domain == DOMAIN else len(node.input)
        for index, name in enumerate(node.input):
            if index < data and index not in _UNTYPED_INPUTS.get(node.op_type, ()):
                node.input[index] = self._as(name, wanted)
        if node.op_type == "Constant":
            self._type_constant(node, wanted)
        self._nodes.append(node)
        for name in node.output:
            if self._types.get(name) == TensorProto.FLOAT and wanted == TensorProto.FLOAT16:
                self._types[name] = wanted
                self._values[name].type.tensor_type.elem_type = wanted

    def _type_constant(self, node: onnx.NodeProto, wanted: int) -> None:
        for attribute in node.attribute:
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                value = numpy_helper.to_array(attribute.t)
                attribute.t.CopyFrom(numpy_helper.from_array(value.astype(helper.tensor_dtype_to_np_dtype(wanted))))

    def _as(self, name: str, wanted: int) -> str:
        """A tensor in the type wanted; integers and the like stay what they are."""
        have = self._types.get(name)
        if have not in (TensorProto.FLOAT, TensorProto.FLOAT16) or have == wanted:
            return name
        if name in self._weights:
            return self._half_weight(name)
        if (name, wanted) not in self._casts:
            suffix = "half" if wanted == TensorProto.FLOAT16 else "float"
            cast = self._casts[name, wanted] = f"{name}_{suffix}"
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=f"cast_{cast}", to=wanted))
            self._types[cast] = wanted
            if name in self._values:
                value = self._graph.value_info.add()
                value.CopyFrom(self._values[name])
                value.name, value.type.tensor_type.elem_type = cast, wanted
        return self._casts[name, wanted]

    def _half_weight(self, name: str) -> str:
        if name not in self._halved:
            value = numpy_helper.to_array(self._weights[name])
            with np.errstate(over="ignore"):
                half = value.astype(np.float16)
            if not np.isfinite(half).all():
                raise ModelError(
                    f"the weight {name} reaches {float(np.abs(value).max()):.3g}, and float16 ends at 6.55e+04; "
                    "use --fp32, or export again with --bf16"
                )
            self._halved[name] = f"{name}_half"
            self._graph.initializer.append(numpy_helper.from_array(half, self._halved[name]))
            self._types[self._halved[name]] = TensorProto.FLOAT16
        return self._halved[name]
