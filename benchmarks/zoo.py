"""Mamba networks of others, from the checkouts that you have, to ONNX: the table of docs/any-mamba.md.

    make zoo FORKS=~/forks              every network below whose repository is a folder there
    python benchmarks/zoo.py --path ~/forks --only vim,vm-unet --engine

A network runs in a process of its own, with weights as they are initialised. Columns: calls of scans in one run,
modules fused, nodes of the graph, seconds of the export, of its own reference path in PyTorch (a scan a step at a time)
and of ONNX Runtime with the bodies and with the compiled operators, one thread each, and relative L2 from float64: of
the file, of float32 PyTorch, and the budget.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine

from vivim_export.foreign import ForeignOptions, export_network, load_network, stand_ins
from vivim_export.foreign.exporting import run_file
from vivim_export.foreign.stand_ins import recorded_scans
from vivim_runtime.errors import VivimError


@dataclass(frozen=True)
class Network:
    """One network of the zoo.

    Attributes:
        repository: its folder's name.
        folders: within it, put on the import path.
        model: package.module:builder.
        shape: of the input, small enough for a CPU.
        arguments: of the builder.
    """

    name: str
    repository: str
    folders: tuple[str, ...]
    model: str
    shape: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)


_UMAMBA: dict[str, Any] = {
    "input_channels": 1,
    "num_classes": 4,
    "n_stages": 4,
    "features_per_stage": (16, 32, 64, 128),
    "n_conv_per_stage": (1, 1, 1, 1),
    "n_conv_per_stage_decoder": (1, 1, 1),
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": torch.nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
_VIM = "vim_tiny_patch16_224_bimambav2_final_pool_mean_abs_pos_embed_with_midclstok_div2"
ZOO = (
    Network("vim", "Vim", ("mamba-1p1p1", "vim"), f"models_mamba:{_VIM}", (1, 3, 224, 224)),
    Network("vm-unet", "VM-UNet", ("",), "models.vmunet.vmunet:VMUNet", (1, 3, 128, 128), {"num_classes": 9}),
    Network("vmamba", "VMamba", ("",), "vmamba:vmamba_tiny_s1l8", (1, 3, 128, 128)),
    Network(
        "medmamba",
        "MedMamba",
        ("",),
        "MedMamba:VSSM",
        (1, 3, 128, 128),
        {"depths": [2, 2, 4, 2], "dims": [96, 192, 384, 768], "num_classes": 6},
    ),
    Network(
        "videomamba",
        "VideoMamba",
        ("mamba", "causal-conv1d", "videomamba/video_sm"),
        "models.videomamba:videomamba_tiny",
        (1, 3, 4, 112, 112),
        {"img_size": 112, "num_frames": 4},
    ),
    Network("mambavision", "MambaVision", ("",), "mambavision.models.mamba_vision:mamba_vision_T", (1, 3, 224, 224)),
    Network(
        "segmamba",
        "SegMamba",
        ("mamba", "causal-conv1d", "model_segmamba"),
        "segmamba:SegMamba",
        (1, 4, 32, 32, 32),
        {"in_chans": 4, "out_chans": 4},
    ),
    Network(
        "local-vim",
        "LocalMamba",
        ("classification", "mamba-1p1p1", "causal-conv1d"),
        "lib.models.local_vim:local_vim_tiny",
        (1, 3, 224, 224),
    ),
    Network(
        "local-vmamba",
        "LocalMamba",
        ("classification", "mamba-1p1p1", "causal-conv1d"),
        "lib.models.local_vmamba:local_vssm_tiny",
        (1, 3, 224, 224),
    ),
    Network(
        "efficient-vmamba",
        "EfficientVMamba",
        ("classification",),
        "models.vmamba_efficient:EfficientVSSM",
        (1, 3, 128, 128),
        {
            "depths": [2, 2, 4, 2],
            "dims": [48, 96, 192, 384],
            "d_state": 16,
            "dt_rank": "auto",
            "ssm_ratio": 2.0,
            "mlp_ratio": 0.0,
            "downsample_version": "v1",
            "window_size": 2,
        },
    ),
    Network(
        "u-mamba-bot-3d",
        "U-Mamba",
        ("umamba",),
        "nnunetv2.nets.UMambaBot_3d:UMambaBot",
        (1, 1, 32, 32, 32),
        {
            **_UMAMBA,
            "conv_op": torch.nn.Conv3d,
            "norm_op": torch.nn.InstanceNorm3d,
            "kernel_sizes": [[3, 3, 3]] * 4,
            "strides": [[1, 1, 1]] + [[2, 2, 2]] * 3,
        },
    ),
    Network(
        "u-mamba-enc-2d",
        "U-Mamba",
        ("umamba",),
        "nnunetv2.nets.UMambaEnc_2d:UMambaEnc",
        (1, 1, 64, 64),
        {
            **_UMAMBA,
            "input_size": (64, 64),
            "conv_op": torch.nn.Conv2d,
            "norm_op": torch.nn.InstanceNorm2d,
            "kernel_sizes": [[3, 3]] * 4,
            "strides": [[1, 1]] + [[2, 2]] * 3,
        },
    ),
)
_COLUMNS = (
    ("network", "name"),
    ("input", "input"),
    ("scans", "scans"),
    ("fused", "fused"),
    ("nodes", "nodes"),
    ("export s", "export"),
    ("PyTorch s", "pytorch"),
    ("bodies s", "bodies"),
    ("compiled s", "compiled"),
    ("from float64", "error"),
    ("PyTorch's", "own"),
    ("budget", "budget"),
    ("RTX engine", "engine"),
)


def measure(network: Network, forks: Path, engine: bool) -> dict[str, Any]:
    """One row; what blocks a network is `failure`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folders = tuple((forks / network.repository / folder).resolve() for folder in network.folders)
    row: dict[str, Any] = {"name": network.name, "input": "x".join(map(str, network.shape))}
    x = torch.randn(network.shape, generator=torch.Generator().manual_seed(9))
    with tempfile.TemporaryDirectory() as folder, stand_ins(folders):
        file = Path(folder) / f"{network.name}.onnx"
        try:
            built = load_network(network.model, folders, network.arguments, on_cpu=True)
            with recorded_scans() as calls, torch.no_grad():
                built(x)
            start = time.perf_counter()
            options = ForeignOptions(network.shape, title=network.name, folders=folders)
            report = export_network(built, file, options)
        except VivimError as error:
            return {**row, "failure": str(error)}
        row["all_seconds"] = round(time.perf_counter() - start, 1)
        row |= {
            "scans": len(calls),
            "fused": f"{report.fused} of {len(report.sites)}",
            "nodes": sum(report.nodes.values()),
            "export": f"{report.export_seconds:.0f}",
            "pytorch": f"{report.reference_seconds:.2f}",
            "error": f"{report.agreement.against_double:.1e}",
            "own": f"{report.agreement.single_against_double:.1e}",
            "budget": f"{report.agreement.budget:.1e}",
            "no_double": report.no_double,
            "kept": sorted({site.reason for site in report.sites if site.reason}),
        }
        for column, bodies in (("bodies", True), ("compiled", False)):
            run = run_file(file, bodies)
            run(x.numpy())
            row[column] = f"{min(_timed(run, x.numpy()) for _ in range(3)):.2f}"
        if engine:
            row["engine"] = _engine(file)
    return row


def _timed(run: Any, x: np.ndarray) -> float:
    start = time.perf_counter()
    run(x)
    return time.perf_counter() - start


def _engine(file: Path) -> str:
    """Built for one kind of GPU, on this CPU."""
    from vivim_export.engine import EngineOptions, build_engine, plan_engine

    options = EngineOptions(precision="fp32", backend="rtx", compute_capabilities=("8.9",))
    try:
        layers = plan_engine(file, options).layers
        record, _ = build_engine(file, file.with_suffix(".engine"), options)
    except VivimError as error:
        return f"none: {error}"
    return f"{record.build_flags['build_seconds']} s, {layers} layers, {record.engine_bytes / 1e6:.0f} MB"


def print_table(rows: list[dict[str, Any]]) -> None:
    """In Markdown; what failed below it."""
    columns = [(title, key) for title, key in _COLUMNS if any(key in row for row in rows)]
    print("| " + " | ".join(title for title, _ in columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        if "failure" not in row:
            print("| " + " | ".join(str(row.get(key, "")) for _, key in columns) + " |")
    for row in rows:
        if "failure" in row:
            print(f"\n{row['name']}: {row['failure']}")
        if row.get("no_double"):
            print(f"\n{row['name']} has no float64: {row['no_double']}")
        for reason in row.get("kept", []):
            print(f"\n{row['name']}, not fused: {reason}")


def main() -> int:
    parser = argparse.ArgumentParser(description="export the networks of others that are found")
    parser.add_argument("--path", type=Path, required=True, help="folder of the checkouts, named as their repositories")
    parser.add_argument("--only", default="", help="names, with commas between them")
    parser.add_argument("--engine", action="store_true", help="build engines of TensorRT for RTX too")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds of one network")
    parser.add_argument("--json", type=Path, help="rows, one a line, as they come")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        network = next(item for item in ZOO if item.name == arguments.one)
        print(json.dumps(measure(network, arguments.path, arguments.engine)))
        return 0
    wanted = [name for name in arguments.only.split(",") if name]
    chosen = [item for item in ZOO if not wanted or item.name in wanted]
    found = [item for item in chosen if (arguments.path / item.repository).is_dir()]
    for item in chosen:
        if item not in found:
            print(f"{item.name}: there is no {arguments.path / item.repository}", file=sys.stderr)
    rows = []
    for item in found:
        command = [sys.executable, "-W", "ignore", __file__, "--path", str(arguments.path), "--one", item.name]
        command += ["--engine"] if arguments.engine else []
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=arguments.timeout)
            lines = done.stdout.strip().splitlines()
            if done.returncode == 0 and lines:
                rows.append(json.loads(lines[-1]))
            else:
                rows.append({"name": item.name, "failure": (done.stderr.strip().splitlines() or ["no word"])[-1]})
        except subprocess.TimeoutExpired:
            rows.append({"name": item.name, "failure": f"not done within {arguments.timeout:.0f} s"})
        print(f"{item.name}: {rows[-1].get('failure', 'done')}", file=sys.stderr, flush=True)
        if arguments.json:
            with arguments.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print_table(rows)
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()) + ", one thread")
    return 0 if rows else 2


if __name__ == "__main__":
    sys.exit(main())
