"""Words of other tools: what somebody who writes `model=x source=y` means, as one of our commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["meant"]

_PAIR = re.compile(r"([a-z][a-z_0-9]*)=(.*)")
_KEYS = {"model", "source", "data", "format", "mode", "task", "imgsz", "conf", "device", "half", "int8"}
_KEYS |= {"epochs", "batch", "save", "show", "project", "name", "stream"}
_COMMAND_OF_MODE = {
    "predict": "vivim-run",
    "track": "vivim-run",
    "export": "vivim-export",
    "val": "vivim-eval",
    "train": "vivim-train",
    "benchmark": "vivim-bench",
}
_MODE_OF_COMMAND = {command: mode for mode, command in reversed(_COMMAND_OF_MODE.items())}
_NOT = ("", "0", "false", "none")


def meant(command: str, words: Sequence[str]) -> str | None:
    """The command line of ours that `key=value` words stand for; None where there are none.

    Args:
        command: which of our commands was given them.
        words: its arguments. A file of such a name is a file.
    """
    matches = [match for word in words if (match := _PAIR.fullmatch(word)) and not Path(word).exists()]
    pairs = {match[1]: match[2] for match in matches if match[1] in _KEYS}
    if not pairs:
        return None
    verbs = [word for word in words if word in _COMMAND_OF_MODE]
    mode = pairs.get("mode") or next(iter(verbs), "") or _MODE_OF_COMMAND.get(command, "predict")
    write = _WRITTEN.get(_COMMAND_OF_MODE.get(mode, "vivim-run"), _run)
    return shlex.join(write(pairs))


def _on(pairs: Mapping[str, str], key: str) -> bool:
    return pairs.get(key, "").lower() not in _NOT


def _options(pairs: Mapping[str, str], names: Mapping[str, str]) -> list[str]:
    return [word for key, option in names.items() if key in pairs for word in (option, pairs[key])]


def _run(pairs: Mapping[str, str]) -> list[str]:
    screen = ["screen"] if _on(pairs, "show") else []
    options = _options(pairs, {"model": "--model", "conf": "--threshold", "device": "--device"})
    return ["vivim-run", pairs.get("source", "SRC"), *screen, *options, *(["--save"] if _on(pairs, "save") else [])]


def _export(pairs: Mapping[str, str]) -> list[str]:
    kind = "trt" if pairs.get("format", "") in ("engine", "tensorrt", "trt") else "onnx"
    options = _options(pairs, {"imgsz": "--imgsz", "batch": "--batch"}) if kind == "onnx" else []
    precision = "int8" if _on(pairs, "int8") else "fp16" if _on(pairs, "half") else ""
    return [
        "vivim-export",
        kind,
        pairs.get("model", "tiny"),
        *options,
        *([f"--{precision}"] if precision and (kind, precision) != ("onnx", "int8") else []),
    ]


def _evaluate(pairs: Mapping[str, str]) -> list[str]:
    return ["vivim-eval", pairs.get("model", "MODEL"), *_options(pairs, {"data": "--data", "device": "--device"})]


def _train(pairs: Mapping[str, str]) -> list[str]:
    names = {"data": "--data", "epochs": "--epochs", "batch": "--batch", "imgsz": "--imgsz", "device": "--device"}
    return ["vivim-train", "fit", *_options(pairs, names)]


def _bench(pairs: Mapping[str, str]) -> list[str]:
    return ["vivim-bench", pairs.get("model", "MODEL"), *_options(pairs, {"imgsz": "--imgsz", "device": "--device"})]


_WRITTEN: Mapping[str, Callable[[Mapping[str, str]], list[str]]] = {
    "vivim-run": _run,
    "vivim-export": _export,
    "vivim-eval": _evaluate,
    "vivim-train": _train,
    "vivim-bench": _bench,
}
