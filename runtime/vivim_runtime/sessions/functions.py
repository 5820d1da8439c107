"""How large an ONNX file becomes when its function bodies are written out, found without loading it.

ONNX Runtime inlines local functions when it loads a file. Forty bodies that call each other twice are 40 lines and
2^40 nodes, and loading never ends. So the calls are counted first. The runtime has no onnx package; what is needed of
the format (onnx.proto3: ModelProto, GraphProto, NodeProto, FunctionProto, AttributeProto) are five messages, whose
other fields, the weights among them, are skipped by their lengths.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from vivim_runtime.errors import ModelError

__all__ = ["check_expansion"]

_MOST_NODES = 1_000_000  # written out; vivim-export's largest have some ten thousand
_MOST_DEPTH = 64  # of graphs in attributes, and of calls
# Fields that are followed.
_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE = 1
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS = 6, 11

_Span = tuple[int, int]
_Called = tuple[str, str]


def check_expansion(path: Path) -> None:
    """ModelError for a file whose functions call each other without end, or become more nodes than can be loaded.

    A file that is damaged is left to ONNX Runtime, which says so.
    """
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                calls = _Calls(data)
            except (ValueError, IndexError):
                return
    if calls.nodes() > _MOST_NODES:
        raise ModelError(
            f"{path} has functions that become more than {_MOST_NODES} nodes, or never end; export it again"
        )


class _Calls:
    """Who calls whom: for the graph and for every function, the operators that it has."""

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
        return found

    def _node(self, span: _Span, depth: int) -> list[_Called]:
        """A node, and those of the graphs in its attributes."""
        if depth > _MOST_DEPTH:
            raise ValueError("graphs are nested too deeply")
        operator = domain = ""
        found: list[_Called] = []
        for field, part in self._fields(span):
            if field == _NODE_OPERATOR:
                operator = self._text(part)
            elif field == _NODE_DOMAIN:
                domain = self._text(part)
            elif field == _NODE_ATTRIBUTE:
                for inner, graph in self._fields(part):
                    if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS):
                        found += self._graph(graph, depth + 1)
        return [(domain, operator), *found]

    def _fields(self, span: _Span) -> Iterator[tuple[int, _Span]]:
        """Number and extent of the fields of a message that have a length; ValueError or IndexError where damaged."""
        at, end = span
        while at < end:
            key, at = self._varint(at)
            kind = key & 7
            if kind == 0:
                _, at = self._varint(at)
            elif kind in (1, 5):
                at += 8 if kind == 1 else 4
            elif kind == 2:
                length, at = self._varint(at)
                if at + length > end:
                    raise ValueError("a field is cut off")
                yield key >> 3, (at, at + length)
                at += length
            else:
                raise ValueError(f"a field of kind {kind}")

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
