"""`vivim-export`: ONNX files from checkpoints, engines, and comparisons. A thin layer over the package's modules.

Each command imports what it needs when it is called: `trt` builds engines where there is no torch.
"""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vivim_export.precision_check import PRODUCTS
from vivim_runtime.commands.check import ClipsCommand, check_command, publish
from vivim_runtime.commands.options import HtmlFile, JsonFile, check_outputs, size_or_none
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ParityError, UsageError
from vivim_runtime.sessions.base import Session
from vivim_runtime.sessions.sidecar import EngineRecord, sidecar_path
from vivim_runtime.text import parse_json

if TYPE_CHECKING:
    from vivim_export.engine import EnginePlan

__all__ = ["app"]

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Export Vivim, and prove what was exported.")
# File names are printed as they are: no markup.
_console = terminal()
_progress = terminal(stderr=True)


ComparedOn = Annotated[
    list[str] | None,
    typer.Option("--clips", metavar="SRC", help="Clips that the result is compared on; default two phantoms."),
]


@app.command("onnx", cls=ClipsCommand)
def onnx_command(
    weights: Annotated[str, typer.Option(help="Checkpoint, or tiny for the shipped weights.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")] = Path("model.onnx"),
    imgsz: Annotated[
        str | None, typer.Option(metavar="N | H W", help="Size of the frames, pixels; default that of the training.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, T; default that of the training.")] = None,
    batch: Annotated[int | None, typer.Option(help="Clips at once; default 1.")] = None,
    dynamic_batch: Annotated[bool, typer.Option("--dynamic-batch", help="Any number of clips at once.")] = False,
    raw_input: Annotated[
        bool, typer.Option("--raw-input", help="Take float32 (B, T, 3, H, W), normalised outside.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="Products and activations in float16.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="The same in bfloat16 (for TensorRT).")] = False,
    opset: Annotated[
        int | None, typer.Option(help="Opset of the standard operators, 20 to 23; default 20, for bf16 22.")
    ] = None,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Leave the decoder as it was trained.")] = False,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Fuse what ONNX Runtime on a CPU has compiled (make native); fp32.")
    ] = False,
    segment_codes: Annotated[
        Path | None, typer.Option(help="JSON: what the classes are in DICOM's words; docs/dicom-seg.md.")
    ] = None,
    clips: ComparedOn = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Export to one ONNX file, and compare it with PyTorch: over budget nothing is written (exit code 3)."""
    from vivim_export.onnx_export import OnnxOptions, contract_of, export_onnx

    check_outputs((output, json_file, html_file), (weights,))
    if dynamic_batch and batch is not None:
        raise UsageError(f"--batch {batch} and --dynamic-batch contradict each other; give one of them")
    if fp16 and bf16:
        raise UsageError("--fp16 and --bf16 contradict each other; give one of them")
    contract = contract_of(weights)
    size = size_or_none(imgsz) or contract.size
    departures = list(contract.departures(size, frames or contract.frames, "exported"))
    options = OnnxOptions(
        size,
        None if dynamic_batch else 1 if batch is None else batch,
        raw_input,
        opset,
        fold=not no_fold,
        precision="fp16" if fp16 else "bf16" if bf16 else "fp32",
        cpu=cpu,
        codes={} if segment_codes is None else _codes(segment_codes),
    )
    try:
        with _progress.status("reading the checkpoint") as status:

            def on_stage(text: str) -> None:
                while departures:  # told once what is asked for has been found to be possible
                    _progress.print(f"note: {departures.pop(0)}", soft_wrap=True)
                status.update(text)

            comparison = export_onnx(weights, output, options, frames, on_stage, clips)
    except ParityError as error:
        publish(error.comparison, json_file, html_file)
        raise
    publish(comparison, json_file, html_file)
    _console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def _codes(path: Path) -> dict[str, dict[str, list[str]]]:
    """What `--segment-codes` names: an object of objects."""
    try:
        codes = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"--segment-codes {path} cannot be read ({error}); expected JSON, see docs/dicom-seg.md"
        ) from None
    if not isinstance(codes, dict) or not all(isinstance(entry, dict) for entry in codes.values()):
        raise UsageError(f"--segment-codes {path} is no object of classes; see docs/dicom-seg.md")
    return codes


@app.command("trt")
def trt_command(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="File of vivim-export onnx.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: MODEL.engine.")] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Products and activations in float32.")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", "--half", help="In float16 (default, but for quantised files).")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="In bfloat16; takes a file exported with --bf16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="As quantised by vivim-calibrate, and float16.")] = False,
    backend: Annotated[str, typer.Option(help="tensorrt, rtx (for any RTX PC, needs no GPU) or auto.")] = "auto",
    min_batch: Annotated[int | None, typer.Option(help="Fewest clips a call, for an open batch.")] = None,
    opt_batch: Annotated[int | None, typer.Option(help="The number to be fastest at.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most clips a call.")] = None,
    workspace: Annotated[float | None, typer.Option(help="GiB of scratch memory that layers may use.")] = None,
    timing_cache_file: Annotated[Path | None, typer.Option(help="Measured tactics, read and written.")] = None,
    builder_optimization_level: Annotated[int | None, typer.Option(help="0 (fast to build) to 5.")] = None,
    hardware_compatibility: Annotated[str, typer.Option(help="none, ampere_plus or same_compute_capability.")] = "none",
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="Runs in later TensorRT of the same major version.")
    ] = False,
    compute_capability: Annotated[
        str | None, typer.Option(help="For --backend rtx: 8.6,8.9,12.0 (default: these, RTX 30, 40 and 50).")
    ] = None,
    plugin: Annotated[
        Path | None,
        typer.Option(help="libvivim_trt.so; default $VIVIM_PLUGIN, or what vivim-plugins or make plugins built."),
    ] = None,
    profiling_verbosity: Annotated[str, typer.Option(help="none, layer_names_only or detailed.")] = "detailed",
    emit_onnx: Annotated[
        Path | None, typer.Option(help="Write the graph that TensorRT parses; without -o, only that.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be built, and build nothing.")] = False,
    clips: ComparedOn = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Build an engine, and its sidecar MODEL.engine.json that says what it is for."""
    from vivim_export.engine import EngineOptions, build_engine, emit_graph, plan_engine
    from vivim_export.engine_graph import default_precision

    engine = output or model.with_suffix(".engine")
    built = (engine, sidecar_path(engine)) if output or not (emit_onnx or dry_run) else ()
    check_outputs((*built, emit_onnx, json_file, html_file, timing_cache_file), (model,))
    asked = [name for name, given in (("fp32", fp32), ("fp16", fp16), ("bf16", bf16), ("int8", int8)) if given]
    if len(asked) > 1:
        raise UsageError(f"--{' and --'.join(asked)} contradict each other; give one of them")
    options = EngineOptions(
        precision=asked[0] if asked else default_precision(model),
        backend=backend,
        min_batch=min_batch,
        opt_batch=opt_batch,
        max_batch=max_batch,
        workspace=workspace,
        timing_cache=timing_cache_file,
        optimization_level=builder_optimization_level,
        hardware_compatibility=hardware_compatibility,
        version_compatible=version_compatible,
        compute_capabilities=tuple(part.strip() for part in (compute_capability or "").split(",") if part.strip()),
        verbosity=profiling_verbosity,
        plugin=plugin,
        clips=tuple(clips or ()),
        command=shlex.join(["vivim-export", *sys.argv[1:]]),
    )
    if emit_onnx:
        emit_graph(model, emit_onnx, options)
        _console.print(f"{emit_onnx}: {emit_onnx.stat().st_size / 1e6:.1f} MB")
        if output is None and not dry_run:
            return
    if dry_run:
        _console.print(_plan_table(plan_engine(model, options)))
        return
    output = engine
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_progress, transient=True, disable=not _progress.is_terminal) as progress:
        task = progress.add_task("reading the model", total=None)

        def show(phase: str, done: int, steps: int) -> None:
            progress.update(task, description=phase, completed=done, total=steps or None)

        try:
            record, comparison = build_engine(model, output, options, show)
        except ParityError as error:
            if error.comparison:
                publish(error.comparison, json_file, html_file)
            raise
    if comparison:
        publish(comparison, json_file, html_file)
    _console.print(_engine_table(record, output, comparison is not None))


def _plan_table(plan: EnginePlan) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("backend", f"{plan.backend} {plan.library_version}")
    table.add_row("GPU here", plan.gpu)
    table.add_row("built for", f"compute capability {', '.join(plan.compute_capabilities)}")
    table.add_row("plugin", plan.plugin)
    converted = (
        "what is fp32 beside it becomes fp16" if plan.precision == "int8" else "the file is fp32 and would be converted"
    )
    table.add_row("precision", plan.precision + (f" ({converted})" if plan.converted else ""))
    table.add_row("layers", f"{plan.layers}, computing: {_counted(plan.compute_layers)}")
    table.add_row("their precision", _counted(plan.precision_found))
    low, usual, high = plan.profile.min_batch, plan.profile.opt_batch, plan.profile.max_batch
    table.add_row("clips a call", f"{low} to {high}, fastest at {usual}" if high > low else str(low))
    table.add_row("weights", f"{plan.weights_bytes / 1e6:.1f} MB")
    table.add_row("builder", _counted(plan.flags))
    return table


def _engine_table(record: EngineRecord, output: Path, compared: bool) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    size, seconds = f"{record.engine_bytes / 1e6:.1f} MB", record.build_flags["build_seconds"]
    table.add_row("engine", f"{output}: {size}, built in {seconds} s by {record.backend} {record.library_version}")
    table.add_row("for", record.gpu or f"GPUs of compute capability {', '.join(record.compute_capabilities)}")
    where = record.build_flags["precision_read_from"]
    products = Counter(layer.precision for layer in record.layers if layer.type in PRODUCTS)
    table.add_row(
        "precision", f"{record.precision}; convolutions and products, read from the {where}: {_counted(products)}"
    )
    if (record.backend, record.precision) == ("rtx", "int8"):
        table.add_row(
            "note", "TensorRT for RTX has int8 kernels for the weights of products only: time it against fp16"
        )
    if not compared:
        table.add_row("parity", "not checked: there is no GPU here; run vivim-check where there is one")
    table.add_row("sidecar", f"{sidecar_path(output)}")
    return table


def _counted(counts: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items())


def _opened(name: str, size: tuple[int, int] | None, frames: int | None, device: str, threads: int) -> Session:
    from vivim_export.runners import open_runner

    return open_runner(name, size, frames, device, threads)


# The bf16 files of `vivim-export onnx --bf16` are for TensorRT; here they are emulated, in vivim-check refused.
app.command("check", cls=ClipsCommand, help="The same as vivim-check, with bf16 ONNX files emulated.")(
    check_command(_opened)
)
