#!/usr/bin/env python3
"""Engines on this machine's GPU: build, read the precision back, compare with ONNX Runtime, measure.

    python plugins/tools/engine_check.py --json engines.json [--plugin plugins/build/gpu/libvivim_trt.so]

For each library (TensorRT with the plugin, TensorRT for RTX) and each of fp32, fp16 and bf16, the shipped weights are
exported, built by vivim_export.engine (which fails over budget, or where a layer has another precision than asked) and
measured beside their ONNX file by vivim_runtime.bench. The JSON file holds what is known so far at any time.
Exit code 0: every engine that could be built passed. 1: one failed. 77: none could be built; the file says why.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NOTHING_TO_DO = 77
PRECISIONS = ("fp32", "fp16", "bf16")


def reason_to_skip(backend: Any, machine: Any, plugin: Path | None) -> str:
    """Why a library builds nothing here; empty where it does."""
    from vivim_runtime.errors import VivimError
    from vivim_runtime.sessions.plugin import Plugin

    if machine.gpu is None:
        return str(machine)
    try:
        module = backend.load()
        if backend.plugins:
            Plugin.find(plugin)
        elif not hasattr(module.ComputeCapability, f"SM{machine.compute_capability.replace('.', '')}"):
            return f"{backend.title} builds no engines for {machine}"
    except VivimError as error:
        return str(error)
    return ""


def check_engine(onnx_file: Path, backend: Any, precision: str, machine: Any, plugin: Path | None) -> dict[str, Any]:
    """Build one engine, and measure it beside its ONNX file."""
    from vivim_export.engine import EngineOptions, build_engine
    from vivim_runtime.bench import BenchOptions, bench
    from vivim_runtime.bench import record as figures

    engine = onnx_file.with_name(f"{backend.name}.{precision}.engine")
    options = EngineOptions(
        precision=precision,
        backend=backend.name,
        compute_capabilities=() if backend.plugins else (machine.compute_capability,),
        plugin=plugin if backend.plugins else None,
    )
    record, _ = build_engine(onnx_file, engine, options)
    kept = asdict(record)
    del kept["layers"]
    return {"record": kept, "bench": figures(bench([str(engine)], BenchOptions(duration=2.0)))}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="build, check and measure engines on this GPU")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--plugin", type=Path, default=ROOT / "plugins" / "build" / "gpu" / "libvivim_trt.so")
    given = parser.parse_args(arguments)
    content: dict[str, Any] = {"machine": "", "engines": {}}

    def keep(name: str, outcome: dict[str, Any]) -> None:
        content["engines"][name] = outcome
        made = given.json.with_name(given.json.name + ".part")
        made.write_text(json.dumps(content, indent=2) + "\n")
        made.replace(given.json)
        print(name, outcome["status"], outcome.get("reason", ""), flush=True)

    try:
        from vivim_export.onnx_export import OnnxOptions, export_onnx
        from vivim_runtime.sessions.backends import BACKENDS
        from vivim_runtime.sessions.machine import Machine
    except ImportError as error:
        keep("all", {"status": "skipped", "reason": f"{error}: pip install '.[export,cpu]'"})
        return NOTHING_TO_DO
    machine = Machine.here()
    content["machine"] = str(machine)
    with tempfile.TemporaryDirectory() as folder:
        exported: dict[str, Path] = {}

        def onnx_of(precision: str) -> Path:
            """bf16 has a file of its own; fp16 is made from the float32 one, as a new user does it."""
            kind = "bf16" if precision == "bf16" else "fp32"
            if kind not in exported:
                exported[kind] = Path(folder) / f"tiny.{kind}.onnx"
                export_onnx("tiny", exported[kind], OnnxOptions(precision=kind))
            return exported[kind]

        for backend in BACKENDS.values():
            skipped = reason_to_skip(backend, machine, given.plugin)
            if skipped:
                keep(backend.name, {"status": "skipped", "reason": skipped})
                continue
            for precision in PRECISIONS:
                try:
                    done = check_engine(onnx_of(precision), backend, precision, machine, given.plugin)
                    outcome = {"status": "passed", **done}
                except Exception as error:  # a broken one must not stop the others
                    outcome = {"status": "failed", "reason": f"{type(error).__name__}: {error}"}
                keep(f"{backend.name} {precision}", outcome)
    statuses = {outcome["status"] for outcome in content["engines"].values()}
    return 1 if "failed" in statuses else 0 if "passed" in statuses else NOTHING_TO_DO


if __name__ == "__main__":
    sys.exit(main())
