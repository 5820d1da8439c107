"""Mamba networks of others, from the checkouts that you have, to ONNX: the table of docs/any-mamba.md.

    make zoo FORKS=~/forks              every network below whose repository is a folder there
    python benchmarks/zoo.py --path ~/forks --only vim,vm-unet --engine

A network runs in a process of its own, with weights as they are initialised. Columns: calls of scans in one run,
modules fused, nodes of the graph, processor seconds and seconds of the export with its proof; processor seconds of one
run, one thread each, of the network's own reference path in PyTorch (a scan a step at a time) and of ONNX Runtime with
the bodies and with the compiled operators, the best of `--rounds` rounds in turn, and how much faster than PyTorch the
compiled operators are, the median of the rounds; relative L2 from float64: of the file, of float32 PyTorch, and the
budget. Processor seconds, because a busy machine doubles the others.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measuring import machine

from vivim_export.foreign import ForeignOptions, export_network, load_network, stand_ins
from vivim_export.foreign.exporting import run_file
from vivim_export.foreign.stand_ins import plain_loops, recorded_scans
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
        absent: packages that its code imports and it does not compute with.
    """

    name: str
    repository: str
    folders: tuple[str, ...]
    model: str
    shape: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)
    absent: tuple[str, ...] = ()


_UMAMBA: dict[str, Any] = {
    "input_channels": 1,
    "num_classes": 4,
    "n_stages": 4,
    "features_per_stage": [16, 32, 64, 128],
    "n_conv_per_stage": [1, 1, 1, 1],
    "n_conv_per_stage_decoder": [1, 1, 1],
    "conv_bias": True,
    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": torch.nn.LeakyReLU,
    "nonlin_kwargs": {"inplace": True},
}
# Readers of pictures, which nnU-Net imports with its networks.
_NNUNET = ("skimage", "SimpleITK", "acvl_utils", "tifffile", "nibabel")
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
        _NNUNET,
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
        _NNUNET,
    ),
)
_COLUMNS = (
    ("network", "name"),
    ("input", "input"),
    ("scans", "scans"),
    ("fused", "fused"),
    ("nodes", "nodes"),
    ("export CPU s", "cpu"),
    ("export s", "seconds"),
    ("PyTorch CPU s", "pytorch"),
    ("bodies CPU s", "bodies"),
    ("compiled CPU s", "compiled"),
    ("faster", "faster"),
    ("from float64", "error"),
    ("PyTorch's", "own"),
    ("budget", "budget"),
    ("RTX engine", "engine"),
)


def measure(network: Network, forks: Path, engine: bool, rounds: int) -> dict[str, Any]:
    """One row; what blocks a network is `failure`."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    folders = tuple((forks / network.repository / folder).resolve() for folder in network.folders)
    row: dict[str, Any] = {"name": network.name, "input": "x".join(map(str, network.shape))}
    x = torch.randn(network.shape, generator=torch.Generator().manual_seed(9))
    with tempfile.TemporaryDirectory() as folder, stand_ins(folders, network.absent):
        file = Path(folder) / f"{network.name}.onnx"
        try:
            built = load_network(network.model, folders, network.arguments, on_cpu=True)
            with recorded_scans() as calls, torch.no_grad():
                built(x)
            options = ForeignOptions(network.shape, title=network.name, folders=folders)
            cpu, seconds, report = _timed(lambda: export_network(built, file, options))
        except VivimError as error:
            return {**row, "failure": str(error)}
        row |= {
            "scans": len(calls),
            "fused": f"{report.fused} of {len(report.sites)}",
            "nodes": sum(report.nodes.values()),
            "cpu": f"{cpu:.0f}",
            "seconds": f"{seconds:.0f}",
            "error": f"{report.agreement.against_double:.1e}",
            "own": f"{report.agreement.single_against_double:.1e}",
            "budget": f"{report.agreement.budget:.1e}",
            "no_double": report.no_double,
            "kept": sorted({site.reason for site in report.sites if site.reason}),
        }
        row |= _compared(built, file, x, rounds)
        if engine:
            row["engine"] = _engine(file)
    return row


def _compared(built: torch.nn.Module, file: Path, x: torch.Tensor, rounds: int) -> dict[str, Any]:
    """What one run takes, in turn, so that a busy minute falls on all of them."""

    def reference() -> None:
        with plain_loops(), torch.no_grad():
            built(x)

    bodies, compiled = run_file(file, True), run_file(file, False)
    runs = {"pytorch": reference, "bodies": lambda: bodies(x.numpy()), "compiled": lambda: compiled(x.numpy())}
    for run in runs.values():
        run()
    taken = [{column: _timed(run)[:2] for column, run in runs.items()} for _ in range(rounds)]
    row: dict[str, Any] = {column: f"{min(times[column][0] for times in taken):.2f}" for column in runs}
    row["faster"] = f"{statistics.median(times['pytorch'][0] / times['compiled'][0] for times in taken):.1f}x"
    row["rounds"] = taken
    return row


def _timed(run: Callable[[], Any]) -> tuple[float, float, Any]:
    """Processor seconds, seconds, and the result."""
    cpu, start = time.process_time(), time.perf_counter()
    result = run()
    return time.process_time() - cpu, time.perf_counter() - start, result


def _engine(file: Path) -> str:
    """Built for one kind of GPU, on this CPU."""
    from vivim_export.engine import EngineOptions, build_engine

    options = EngineOptions(precision="fp32", backend="rtx", compute_capabilities=("8.9",))
    try:
        cpu, _, built = _timed(lambda: build_engine(file, file.with_suffix(".engine"), options))
    except VivimError as error:
        return f"none: {error}"
    record = built[0]
    return f"{cpu:.0f} CPU s, {record.build_flags['layers']} layers, {record.engine_bytes / 1e6:.0f} MB"


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
    parser.add_argument("--rounds", type=int, default=3, help="runs that are timed")
    parser.add_argument("--limit", type=int, default=600, help="processor seconds of one network")
    parser.add_argument("--json", type=Path, help="rows, one a line, as they come")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        network = next(item for item in ZOO if item.name == arguments.one)
        resource.setrlimit(resource.RLIMIT_CPU, (arguments.limit, arguments.limit + 5))
        print(json.dumps(measure(network, arguments.path, arguments.engine, arguments.rounds)))
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
        command += ["--rounds", str(arguments.rounds), "--limit", str(arguments.limit)]
        command += ["--engine"] if arguments.engine else []
        done = subprocess.run(command, capture_output=True, text=True)
        lines = done.stdout.strip().splitlines()
        if done.returncode == 0 and lines:
            rows.append(json.loads(lines[-1]))
        elif done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            rows.append({"name": item.name, "failure": f"not done within {arguments.limit} processor seconds"})
        else:
            rows.append({"name": item.name, "failure": (done.stderr.strip().splitlines() or ["no word"])[-1]})
        print(f"{item.name}: {rows[-1].get('failure', 'done')}", file=sys.stderr, flush=True)
        if arguments.json:
            with arguments.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    print_table(rows)
    print("\n" + ", ".join(f"{key} {value}" for key, value in machine().items()) + ", one thread")
    return 0 if rows else 2


if __name__ == "__main__":
    sys.exit(main())
