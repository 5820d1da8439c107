"""What an ONNX file of unknown origin could do to those who load it, found without loading it.

- Loaders inline local functions. Forty bodies that call each other twice are 40 lines and 2^40 nodes, and loading never
  ends. So the calls are counted first.
- A tensor says how large it is, and memory is taken for it before the values are looked for.
- Values may lie in other files, anywhere. A model is one file, which its SHA-256 names: others are refused.
- Names go into tables, pages and messages: those with control characters are refused.

The runtime has no onnx package. What is needed of the format (onnx.proto3: ModelProto, GraphProto, NodeProto,
FunctionProto, AttributeProto, TensorProto, SparseTensorProto, ValueInfoProto) are eight messages, whose other fields,
the weights among them, are skipped by their lengths.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from math import prod
from pathlib import Path

from vivim_runtime.errors import ModelError
from vivim_runtime.text import printable

__all__ = ["check_onnx_file"]

_MOST_NODES = 1_000_000  # written out; vivim-export's largest have some ten thousand
_MOST_DEPTH = 64  # of graphs in attributes, and of calls
_MOST_AXES = 64
_VALUES_A_BYTE = 4  # of the narrowest type, of 2 bits
# Fields that are followed.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE, _GRAPH_NAME, _GRAPH_TENSOR, _GRAPH_SPARSE = 1, 2, 5, 15
_GRAPH_VALUES = (11, 12, 13)
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_NODE_NAMES = (1, 2, 3, 4, 7)  # inputs, outputs, its own, operator, domain
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_FUNCTION_NAMES = (1, 4, 5, 6, 10)  # its own, inputs, outputs, attributes, domain
_ATTRIBUTE_NAME, _ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 1, 6, 11
_ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE = (5, 10), (22, 23)
_TENSOR_DIMS, _TENSOR_NAME, _TENSOR_ELSEWHERE, _TENSOR_PLACE = 1, 8, 13, 14
_SPARSE_VALUES, _SPARSE_INDICES, _SPARSE_DIMS = 1, 2, 3
_VALUE_NAME = 1

_Span = tuple[int, int]
_Called = tuple[str, str]


def check_onnx_file(path: Path) -> None:
    """ModelError for a file that is not safe to load; one that is damaged is left to its loader, which says so.

    Refused are functions that call each other without end or become more nodes than can be loaded, tensors that are
    larger than what is there of them, values in other files, and names with control characters.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                content = _Content(data)
            except _UnsafeError as error:
                raise ModelError(f"{path} {error}") from None
            except (ValueError, IndexError):
                return
    if content.nodes() > _MOST_NODES:
        raise ModelError(
            f"{path} has functions that become more than {_MOST_NODES} nodes, or never end; export it again"
        )


class _UnsafeError(Exception):
    """What a file has that it should not have."""


class _Content:
    """Who calls whom: for the graph and for every function, the operators that it has.

    Raises:
        _UnsafeError: tensors or names that are refused.
        ValueError, IndexError: the file is damaged.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._bodies: dict[_Called, list[_Called]] = {}
        self._main: list[_Called] = []
        for field, span in self._fields((0, len(data))):
            if field == _MODEL_GRAPH:
                self._main += self._graph(span, 0)
            elif field == _MODEL_FUNCTIONS:
                name = domain = ""
                operators: list[_Called] = []
                for inner, part in self._fields(span):
                    if inner in _FUNCTION_NAMES:
                        self._name(part)
                    if inner == _FUNCTION_NAME:
                        name = self._text(part)
                    elif inner == _FUNCTION_DOMAIN:
                        domain = self._text(part)
                    elif inner == _FUNCTION_NODE:
                        operators += self._node(part, 0)
                self._bodies[domain, name] = operators

    def nodes(self) -> int:
        """Nodes of the graph with all functions written out; more than any bound where they call themselves."""
        sizes: dict[_Called, int] = {}

        def size(operators: list[_Called], depth: int) -> int:
            total = 0
            for operator in operators:
                total += 1
                if operator in self._bodies:
                    if operator not in sizes:
                        if depth >= _MOST_DEPTH:
                            return _MOST_NODES + 1
                        sizes[operator] = _MOST_NODES + 1  # while it is counted: a call of itself has no end
                        sizes[operator] = size(self._bodies[operator], depth + 1)
                    total += sizes[operator]
                if total > _MOST_NODES:
                    break
            return total

        return size(self._main, 0)

    def _graph(self, span: _Span, depth: int) -> list[_Called]:
        found: list[_Called] = []
        for field, part in self._fields(span):
            if field == _GRAPH_NODE:
                found += self._node(part, depth)
            elif field == _GRAPH_NAME:
                self._name(part)
            elif field == _GRAPH_TENSOR:
                self._check_tensor(part)
            elif field == _GRAPH_SPARSE:
                self._check_sparse(part)
            elif field in _GRAPH_VALUES:
                for inner, text in self._fields(part):
                    if inner == _VALUE_NAME:
                        self._name(text)
        return found

    def _node(self, span: _Span, depth: int) -> list[_Called]:
        """A node, and those of the graphs in its attributes."""
        if depth > _MOST_DEPTH:
            raise ValueError("graphs are nested too deeply")
        operator = domain = ""
        found: list[_Called] = []
        for field, part in self._fields(span):
            if field in _NODE_NAMES:
                self._name(part)
            if field == _NODE_OPERATOR:
                operator = self._text(part)
            elif field == _NODE_DOMAIN:
                domain = self._text(part)
            elif field == _NODE_ATTRIBUTE:
                for inner, value in self._fields(part):
                    if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                        found += self._graph(value, depth + 1)
                    elif inner == _ATTRIBUTE_NAME:
                        self._name(value)
                    elif inner in _ATTRIBUTE_TENSORS:
                        self._check_tensor(value)
                    elif inner in _ATTRIBUTE_SPARSE:
                        self._check_sparse(value)
        return [(domain, operator), *found]

    def _check_tensor(self, span: _Span) -> None:
        name = ""
        for field, part in self._fields(span):
            if field == _TENSOR_NAME:
                name = self._name(part)
        numbers = list(self._numbers(span, _TENSOR_DIMS, _TENSOR_PLACE))
        elsewhere = any(field == _TENSOR_ELSEWHERE for field, _ in self._fields(span))
        if elsewhere or any(value for field, value in numbers if field == _TENSOR_PLACE):
            raise _UnsafeError(
                f"keeps {self._shown(name)} in another file; expected one file that holds everything; "
                "save it so: onnx.save(onnx.load(FILE), FILE)"
            )
        self._check_size(name, [value for field, value in numbers if field == _TENSOR_DIMS], span)

    def _check_sparse(self, span: _Span) -> None:
        for field, part in self._fields(span):
            if field in (_SPARSE_VALUES, _SPARSE_INDICES):
                self._check_tensor(part)
        self._check_size("", [value for _, value in self._numbers(span, _SPARSE_DIMS)], span)

    def _check_size(self, name: str, dims: list[int], span: _Span) -> None:
        if len(dims) > _MOST_AXES:
            raise _UnsafeError(f"says that {self._shown(name)} has {len(dims)} axes; export it again")
        if prod(dims) > (span[1] - span[0]) * _VALUES_A_BYTE:
            shape = " x ".join(map(str, dims[:8]))
            raise _UnsafeError(f"says that {self._shown(name)} is {shape} values, and holds fewer; export it again")

    def _shown(self, name: str) -> str:
        return f"the tensor {name[:80]}" if name else "a tensor"

    def _name(self, span: _Span) -> str:
        name = self._text(span)
        if not name.isprintable():
            raise _UnsafeError(
                f"has names with control characters ({printable(name, 40)}), which would reach terminals and pages; "
                "export it again"
            )
        return name

    def _numbers(self, span: _Span, *wanted: int) -> Iterator[tuple[int, int]]:
        """The numbers of some fields, each by itself or many packed into one field."""
        for field, kind, part in self._entries(span):
            if field not in wanted:
                continue
            if kind == 0:
                yield field, self._varint(part[0])[0]
            elif kind == 2:
                at = part[0]
                while at < part[1]:
                    value, at = self._varint(at)
                    yield field, value

    def _fields(self, span: _Span) -> Iterator[tuple[int, _Span]]:
        """Number and extent of the fields of a message that have a length."""
        return ((field, part) for field, kind, part in self._entries(span) if kind == 2)

    def _entries(self, span: _Span) -> Iterator[tuple[int, int, _Span]]:
        """Number, kind and extent of the fields of a message; ValueError or IndexError where damaged."""
        at, end = span
        while at < end:
            key, at = self._varint(at)
            kind, start = key & 7, at
            if kind == 0:
                _, at = self._varint(at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            elif kind == 2:
                length, start = self._varint(at)
                at = start + length
                if at > end:
                    raise ValueError("a field is cut off")
            else:
                raise ValueError(f"a field of kind {kind}")
            yield key >> 3, kind, (start, at)

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value, at
        raise ValueError("a number is too long")

    def _text(self, span: _Span) -> str:
        return self._data[span[0] : span[1]].decode("utf-8", "replace")
