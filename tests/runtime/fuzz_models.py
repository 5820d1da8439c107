"""Model files of chance: `python -m tests.runtime.fuzz_models [CASES] [SEED]`.

Descriptions with values of other kinds and sizes, graphs with other inputs, outputs, nodes and functions, and bytes
that are flipped, cut or doubled. Opening one and running it once ends in a session or in one line of ours: no other
exception, no crash of the interpreter, and no more than `_LIMIT_S` seconds.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.runtime.models import brightness_model
from vivim_runtime.errors import VivimError
from vivim_runtime.sessions import open_session

_LIMIT_S = 20
_BATCH = 50  # cases a process, so that a crash ends a few of them
_WORDS = [
    "", "0", "-1", "1", "2", "5", "²", "٣", "1e9", "1" * 5000, "99999999999", "nan", "NaN", "[]", "{}", "[1]", "null",
    "[NaN, 1, 1]", "[1, 2, 3]", "[1e400, 0, 0]", "[[[[]]]]", "[" * 5000, '{"a":' * 5000, '"', "\x00", "\x1b[2J",
    "a" * 9999,
    "dynamic", "float32", "uint8", "int8", "fp16", '[{"name": "a", "color": [0, 0, 0]}]', '[{"name": 1, "color": 2}]',
    '[{"name": "a", "color": [1, 2]}, 3]', '[{"color": [1, 2, 3]}]',
    json.dumps([{"name": "a" * 500, "color": [1, 2, 3]}]),
]  # fmt: skip


def mutated(seed: int, base: onnx.ModelProto) -> bytes:
    """A file of chance; the same for the same seed."""
    chance = random.Random(seed)
    model = onnx.ModelProto()
    model.CopyFrom(base)
    for _ in range(chance.randint(1, 3)):
        chance.choice((_describe, _describe, _reshape, _rewire, _call))(chance, model)
    data = bytearray(model.SerializeToString())
    if chance.random() < 0.3:
        _damage(chance, data)
    return bytes(data)


def _describe(chance: random.Random, model: onnx.ModelProto) -> None:
    entry = chance.choice(model.metadata_props)
    if chance.random() < 0.15:
        model.metadata_props.remove(entry)
    else:
        entry.value = chance.choice(_WORDS)


def _reshape(chance: random.Random, model: onnx.ModelProto) -> None:
    value = chance.choice([*model.graph.input, *model.graph.output])
    kind = value.type.tensor_type
    what = chance.randrange(4)
    if what == 0:
        kind.elem_type = chance.choice((TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT64, TensorProto.STRING))
    elif what == 1 and kind.shape.dim:
        chance.choice(kind.shape.dim).dim_value = chance.choice((0, 1, 2, 7, 48, 1 << 20))
    elif what == 2:
        kind.ClearField("shape")
    else:
        value.name = chance.choice(("logits", "frames", "other", ""))


def _rewire(chance: random.Random, model: onnx.ModelProto) -> None:
    node = chance.choice(model.graph.node)
    what = chance.randrange(4)
    if what == 0:
        node.op_type = chance.choice(("Cast", "Relu", "Sqrt", "Log", "Gather", "Reshape", "NoSuch", "Div", "Transpose"))
    elif what == 1 and node.input:
        node.input[0] = chance.choice(("frames", "pixels", "logits", "nowhere", ""))
    elif what == 2:
        model.graph.node.remove(node)
    else:
        model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _call(chance: random.Random, model: onnx.ModelProto) -> None:
    """Functions that call each other: a few, a tower that never ends, or in a circle."""
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("local", 1)]
    levels, circle = chance.choice((1, 3, 12, 40)), chance.random() < 0.3
    for level in range(levels):
        below = f"F{level - 1}" if level else f"F{levels - 1}" if circle else ""
        nodes = [
            helper.make_node(below or "Identity", [a], [b], domain="local" if below else "") for a, b in ("xy", "yz")
        ]
        model.functions.append(helper.make_function("local", f"F{level}", ["x"], ["z"], nodes, opset))
    if model.graph.node:
        model.graph.node[-1].output[0] = "right"
        model.graph.node.append(helper.make_node(f"F{levels - 1}", ["right"], ["logits"], domain="local"))
    model.opset_import.append(opset[1])


def _damage(chance: random.Random, data: bytearray) -> None:
    at = chance.randrange(len(data))
    what = chance.randrange(3)
    if what == 0:
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif what == 1:
        del data[at:]
    else:
        data[at:at] = data[at : at + 64]


def tried(seed: int, base: onnx.ModelProto, path: Path) -> str:
    """What became of a case: "runs", or the name of our error; anything else is raised."""
    path.write_bytes(mutated(seed, base))
    try:
        with open_session(path, "cpu", 1) as session:
            session.warm_up()
    except VivimError as error:
        text = str(error)
        if error.exit_code not in (2, 4) or not text.isprintable() or len(text) > 2000:
            raise AssertionError(f"no line for people: {text!r}") from error
        return type(error).__name__
    return "runs"


def main(cases: int = 5000, seed: int = 0) -> int:
    """Try cases in processes of their own; the number that failed."""
    counts: Counter[str] = Counter()
    failed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        base = onnx.load(brightness_model(Path(folder) / "base.onnx"))
        done = 0
        while done < cases:
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                os.close(reader)
                status = 0
                for number in range(done, min(done + _BATCH, cases)):
                    signal.alarm(_LIMIT_S)  # ends the process: a hang is a failure
                    try:
                        outcome = tried(seed + number, base, Path(folder) / "m.onnx")
                    except BaseException as error:
                        outcome, status = f"! {type(error).__name__}: {error}".replace("\n", " ")[:300], 1
                    os.write(writer, f"{number} {outcome}\n".encode())
                os._exit(status)
            os.close(writer)
            with os.fdopen(reader) as lines:
                told = [line.rstrip("\n").split(" ", 1) for line in lines]
            _, status = os.waitpid(child, 0)
            for number, outcome in told:
                counts[outcome if outcome[0] != "!" else "failed"] += 1
                if outcome[0] == "!":
                    failed.append(f"seed {seed + int(number)}: {outcome}")
            done += len(told)
            if os.WIFSIGNALED(status):
                failed.append(f"seed {seed + done}: ended by {signal.Signals(os.WTERMSIG(status)).name}")
                counts["crashed"] += 1
                done += 1
    sys.stdout.write(f"{sum(counts.values())} cases: {dict(counts)}\n" + "".join(f"{line}\n" for line in failed[:20]))
    return len(failed)


if __name__ == "__main__":
    sys.exit(min(1, main(*(int(arg) for arg in sys.argv[1:3]))))
