"""`vivim-export`: ONNX files from checkpoints, engines, and comparisons. A thin layer over the package's modules.

Each command imports what it needs when it is called: `trt` builds engines where there is no torch.
"""

from __future__ import annotations

import json
import math
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from vivim_export.precision_check import PRODUCTS
from vivim_runtime.commands.application import Application
from vivim_runtime.commands.check import ClipsCommand, check_command, publish
from vivim_runtime.commands.options import HtmlFile, JsonFile, check_outputs, size_or_none
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import ModelError, ParityError, UsageError
from vivim_runtime.files import atomic_path
from vivim_runtime.sessions import is_model_file, model_file
from vivim_runtime.sessions.base import Session
from vivim_runtime.sessions.sidecar import EngineRecord, sidecar_path
from vivim_runtime.text import parse_json

if TYPE_CHECKING:
    from vivim_export.engine import EnginePlan
    from vivim_export.foreign.exporting import ForeignOptions, ForeignReport
    from vivim_export.foreign.fusing import FusedSite

__all__ = ["app"]

app = Application(
    no_args_is_help=True,
    extra="export",
    help="Export Vivim to ONNX, TensorRT and Triton, and check the result against its source.",
)
# File names are printed as they are: no markup.
_console = terminal()
_progress = terminal(stderr=True)


ComparedOn = Annotated[
    list[str] | None,
    typer.Option("--clips", metavar="SRC", help="Clips to compare the result on; default: two phantoms."),
]


ModelOption = Annotated[
    str | None, typer.Option(metavar="PKG.MODULE:BUILDER", help="Another Mamba network, built by its own code.")
]
PathOption = Annotated[
    list[str] | None, typer.Option("--path", metavar="FOLDER", help="Folder of its code; may be repeated.")
]
BuildArguments = Annotated[
    str | None, typer.Option("--build-args", metavar="JSON", help="Arguments of the builder, by name.")
]
OnCpu = Annotated[bool, typer.Option("--on-cpu", help="Keep on the CPU what its code sends to a GPU on import.")]
Absent = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="Packages that its code imports but the network does not use."),
]
InputOption = Annotated[str | None, typer.Option("--input", metavar="1x3xHxW", help="Shape of its input, batch first.")]


@app.command("onnx", cls=ClipsCommand)
def onnx_command(
    weights: Annotated[
        str | None, typer.Argument(metavar="WEIGHTS", help="Checkpoint, or tiny for the shipped weights.")
    ] = None,
    weights_option: Annotated[
        str | None, typer.Option("--weights", metavar="WEIGHTS", help="The same as WEIGHTS.", hidden=True)
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .onnx file to write.")] = Path("model.onnx"),
    model: ModelOption = None,
    path: PathOption = None,
    build_args: BuildArguments = None,
    on_cpu: OnCpu = False,
    absent: Absent = None,
    input_size: InputOption = None,
    input_name: Annotated[str | None, typer.Option(help="With --model: name of the input; default: input.")] = None,
    output_names: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="With --model: names of the outputs; default: output, output_1, ..."),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="With --model: names of the classes of a segmentation, for vivim-run."),
    ] = None,
    outputs: Annotated[
        str | None, typer.Option(help="With --classes: what the network outputs: logits, softmax or probabilities.")
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(metavar="R,G,B", help="With --classes: mean of the normalisation, in 0..1; default: ImageNet's."),
    ] = None,
    std: Annotated[
        str | None, typer.Option(metavar="R,G,B", help="With --classes: its standard deviation; default: ImageNet's.")
    ] = None,
    no_fuse: Annotated[
        bool, typer.Option("--no-fuse", help="With --model: leave every module on the plain scan.")
    ] = False,
    imgsz: Annotated[
        str | None, typer.Option(metavar="N | H W", help="Size of the frames, pixels; default: that of the training.")
    ] = None,
    frames: Annotated[int | None, typer.Option(help="Frames of a clip, T; default: that of the training.")] = None,
    batch: Annotated[int | None, typer.Option(help="Clips per call; default: 1.")] = None,
    dynamic_batch: Annotated[
        bool, typer.Option("--dynamic-batch", help="Accept any number of clips per call.")
    ] = False,
    raw_input: Annotated[
        bool, typer.Option("--raw-input", help="Take float32 (B, T, 3, H, W) that the caller has normalised.")
    ] = False,
    fp16: Annotated[bool, typer.Option("--fp16", "--half", help="Products and activations in float16.")] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="The same in bfloat16 (for TensorRT).")] = False,
    opset: Annotated[
        int | None, typer.Option(help="Opset of the standard operators, 20 to 23; default: 20, with bf16 22.")
    ] = None,
    no_fold: Annotated[bool, typer.Option("--no-fold", help="Do not fold the decoder.")] = False,
    cpu: Annotated[
        bool, typer.Option("--cpu", help="Fuse nodes for the compiled CPU operators (make native); fp32 only.")
    ] = False,
    form: Annotated[
        str, typer.Option(help="bodies: our operators with function bodies; lowered: standard operators only.")
    ] = "bodies",
    segment_codes: Annotated[
        Path | None, typer.Option(help="JSON file with DICOM codes of the classes; docs/dicom-seg.md.")
    ] = None,
    clips: ComparedOn = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Export to one ONNX file and compare it with PyTorch; over budget, nothing is written (exit code 3).

    With --model, export another Mamba network from its own code: docs/any-mamba.md.
    """
    if weights is not None or weights_option is not None:
        weights = _one_of(weights, weights_option)
    if model is not None:
        ours = {
            "--imgsz": imgsz,
            "--frames": frames,
            "--batch": batch,
            "--raw-input": raw_input,
            "--bf16": bf16,
            "--no-fold": no_fold,
            "--cpu": cpu,
            "--segment-codes": segment_codes,
            "--clips": clips,
            "--html": html_file,
        }
        _refuse(ours, "is of Vivim's own network, not of --model")
        check_outputs((output, json_file), () if weights is None else (weights,))
        foreign = _foreign_options(model, path, input_size, opset)
        foreign = replace(
            foreign,
            dynamic_batch=dynamic_batch,
            fuse=not no_fuse,
            precision="fp16" if fp16 else "fp32",
            input_name=input_name or "",
            output_names=tuple(_words(output_names)),
            classes=tuple(_words(classes)),
            outputs=outputs or "",
            mean=_three("--mean", mean) if mean else foreign.mean,
            std=_three("--std", std) if std else foreign.std,
        )
        _export_foreign(model, foreign, weights, build_args, on_cpu, _words(absent), output, json_file)
        return
    theirs = {
        "--path": path,
        "--build-args": build_args,
        "--on-cpu": on_cpu,
        "--absent": absent,
        "--input": input_size,
        "--input-name": input_name,
        "--output-names": output_names,
        "--classes": classes,
        "--outputs": outputs,
        "--mean": mean,
        "--std": std,
        "--no-fuse": no_fuse,
    }
    _refuse(theirs, "is of networks of others: name one with --model package.module:builder")
    weights = _one_of(weights, None)
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
        form=form,
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


def _one_of(argument: str | None, option: str | None) -> str:
    if (argument is None) is (option is None):
        given = "no weights" if argument is None else f"the weights {argument} and {option}"
        raise UsageError(
            f"there are {given}; expected one name, such as vivim-export onnx tiny (or --model package.module:builder)"
        )
    return str(argument or option)


def _refuse(given: Mapping[str, object], why: str) -> None:
    """UsageError for the first option that is given and has nothing to say."""
    for name, value in given.items():
        if value not in (None, False, []):
            raise UsageError(f"{name} {why}")


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _three(name: str, text: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{name} is {text}; expected three numbers, such as 0.485,0.456,0.406") from None
    if name == "--std" and min(red, green, blue) <= 0:
        raise UsageError(f"{name} is {text}; expected three numbers above 0")
    return red, green, blue


def _foreign_options(model: str, path: list[str] | None, size: str | None, opset: int | None) -> ForeignOptions:
    from vivim_export.foreign.exporting import ForeignOptions
    from vivim_export.foreign.loading import input_shape

    if size is None:
        raise UsageError("--model needs --input, the sizes of the network's input, such as --input 1x3x224x224")
    folders = tuple(Path(folder).resolve() for folder in path or ())
    options = ForeignOptions(input_shape(size), title=model.partition(":")[2] or model, folders=folders)
    return options if opset is None else replace(options, opset=opset)


def _export_foreign(
    model: str,
    options: ForeignOptions,
    weights: str | None,
    build_args: str | None,
    on_cpu: bool,
    absent: Sequence[str],
    output: Path,
    json_file: Path | None,
) -> None:
    from vivim_export.foreign.exporting import export_network
    from vivim_export.foreign.loading import build_arguments, load_network
    from vivim_export.foreign.stand_ins import stand_ins

    arguments = build_arguments(build_args)
    with _progress.status("importing the network") as status, stand_ins(options.folders, absent), _their_words():
        network = load_network(model, options.folders, arguments, weights, on_cpu)
        try:
            report = export_network(network, output, options, lambda text: status.update(text))
        except ParityError as error:
            if error.comparison is not None:
                _publish_foreign(error.comparison, json_file)
            raise
    if weights is None:
        _progress.print("note: without --weights the numbers in the file are those of a network that never learned")
    _publish_foreign(report, json_file)
    _console.print(f"{output}: {output.stat().st_size / 1e6:.1f} MB")


@contextmanager
def _their_words() -> Iterator[None]:
    """What somebody else's code prints and warns of goes to stderr, once, and not into what a command puts out."""
    with redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _publish_foreign(report: ForeignReport, json_file: Path | None) -> None:
    agreement = report.agreement
    table = Table(show_header=False, box=None, pad_edge=False)
    _add_sites(table, report.sites)
    table.add_row("graph", f"{sum(report.nodes.values())} nodes; {_scan_nodes(report.nodes)}")
    table.add_row("against float32 PyTorch", f"{agreement.against_single:.1e} (relative L2)")
    if report.no_double:
        table.add_row("against float64", f"not compared: {report.no_double}")
    else:
        table.add_row("against float64", f"{agreement.against_double:.1e}, budget {agreement.budget:.1e}")
        table.add_row("float32 PyTorch itself", f"{agreement.single_against_double:.1e} from float64")
    _console.print(table)
    if json_file is not None:
        record = {
            "sites": [asdict(site) for site in report.sites],
            "nodes": report.nodes,
            "parity": agreement.record(),
            "no_double": report.no_double,
            "reference_seconds": report.reference_seconds,
        }
        with atomic_path(json_file) as temporary:
            temporary.write_text(json.dumps(_finite(record), indent=2), encoding="utf-8")


def _finite(value: object) -> object:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _scan_nodes(nodes: Mapping[str, int]) -> str:
    ours = {name: nodes[name] for name in ("CausalConv1d", "SelectiveScan", "S6Scan") if name in nodes}
    return _counted(ours) if ours else "no scan"


def _add_sites(table: Table, sites: Sequence[FusedSite]) -> None:
    fused = Counter(site.kind for site in sites if site.variant)
    if fused:
        worst = max(site.error for site in sites if site.variant)
        table.add_row("fused", f"{_counted(fused)}; each within {worst:.1e} of itself")
    for site in sites:
        if site.variant is None:
            table.add_row("not fused", f"{site.name} ({site.kind}): {site.reason}")


@app.command("inspect")
def inspect_command(
    model: Annotated[str, typer.Option(metavar="PKG.MODULE:BUILDER", help="A Mamba network, built by its own code.")],
    input_size: Annotated[str, typer.Option("--input", metavar="1x3xHxW", help="Shape of its input, batch first.")],
    path: PathOption = None,
    weights: Annotated[str | None, typer.Option(help="Its weights; default: none, as the builder makes it.")] = None,
    build_args: BuildArguments = None,
    on_cpu: OnCpu = False,
    absent: Absent = None,
) -> None:
    """Show which scans a network has, what is fused, and which line of its code blocks its export."""
    from vivim_export.foreign.exporting import inspect_network
    from vivim_export.foreign.loading import build_arguments, line_of, load_network
    from vivim_export.foreign.stand_ins import stand_ins

    options = _foreign_options(model, path, input_size, None)
    arguments = build_arguments(build_args)
    places = (options.folders, _words(absent))
    with _progress.status("importing and tracing the network"), stand_ins(*places), _their_words():
        network = load_network(model, options.folders, arguments, weights, on_cpu)
        found = inspect_network(network, options)
    table = Table(show_header=False, box=None, pad_edge=False)
    for call, count in Counter(found.calls).items():
        sizes = f"L {call.length}, {call.width} channels in {call.groups} groups, N {call.states}"
        table.add_row("scan", f"{count} x {sizes}, at {line_of(call.file, call.line, options.folders)}")
    if not found.calls:
        table.add_row("scan", "none")
    _add_sites(table, found.sites)
    table.add_row("outputs", ", ".join("x".join(map(str, shape)) for shape in found.outputs))
    table.add_row("export", found.blocked or "possible")
    if not found.blocked:
        table.add_row("--dynamic-batch", found.batch_blocked or "possible")
    _console.print(table)
    if found.blocked:
        raise ModelError(found.blocked)


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
    given: Annotated[
        str, typer.Argument(metavar="MODEL", help="File of vivim-export onnx; or a checkpoint, or tiny.")
    ] = "model.onnx",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: MODEL.engine.")] = None,
    fp32: Annotated[bool, typer.Option("--fp32", help="Products and activations in float32.")] = False,
    fp16: Annotated[
        bool, typer.Option("--fp16", "--half", help="In float16 (default, except for quantised files).")
    ] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help="In bfloat16; takes a file exported with --bf16.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="As quantised by vivim-calibrate, the rest in float16.")] = False,
    backend: Annotated[str, typer.Option(help="tensorrt, rtx (for any RTX PC, needs no GPU) or auto.")] = "auto",
    min_batch: Annotated[
        int | None, typer.Option(help="Fewest clips per call, for a file with --dynamic-batch.")
    ] = None,
    opt_batch: Annotated[int | None, typer.Option(help="Clips per call to optimise for.")] = None,
    max_batch: Annotated[int | None, typer.Option(help="Most clips per call.")] = None,
    workspace: Annotated[float | None, typer.Option(help="GiB of scratch memory that layers may use.")] = None,
    timing_cache_file: Annotated[Path | None, typer.Option(help="File of measured tactics, read and written.")] = None,
    builder_optimization_level: Annotated[int | None, typer.Option(help="0 (fast to build) to 5.")] = None,
    hardware_compatibility: Annotated[str, typer.Option(help="none, ampere_plus or same_compute_capability.")] = "none",
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible", help="Let the engine run in later TensorRT releases of the same major version."
        ),
    ] = False,
    compute_capability: Annotated[
        str | None, typer.Option(help="For --backend rtx: 8.6,8.9,12.0 (default: these, RTX 30, 40 and 50).")
    ] = None,
    plugin: Annotated[
        Path | None,
        typer.Option(
            help="libvivim_trt.so; default: $VIVIM_PLUGIN, or the one that vivim-plugins or make plugins built."
        ),
    ] = None,
    profiling_verbosity: Annotated[str, typer.Option(help="none, layer_names_only or detailed.")] = "detailed",
    emit_onnx: Annotated[
        Path | None, typer.Option(help="Write the graph that TensorRT parses; without -o, nothing else.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be built, and build nothing.")] = False,
    clips: ComparedOn = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
) -> None:
    """Build an engine and its sidecar MODEL.engine.json, which records what it was built from and for."""
    from vivim_export.engine import EngineOptions, build_engine, emit_graph, plan_engine
    from vivim_export.engine_graph import default_precision

    stem = Path(given).with_suffix("") if is_model_file(given) else Path(Path(given).stem)
    engine = output or stem.with_name(f"{stem.name}.engine")
    built = (engine, sidecar_path(engine)) if output or not (emit_onnx or dry_run) else ()
    check_outputs((*built, emit_onnx, json_file, html_file, timing_cache_file), (given,))
    model = _onnx_of(given)
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


def _onnx_of(given: str) -> Path:
    """The ONNX file that an engine is built from, which is made where a checkpoint is given."""
    if is_model_file(given):
        return Path(given)
    with _progress.status(f"exporting {given}, once") as status:
        model = model_file(given, lambda text: status.update(f"exporting {given}, once: {text}"))
    if model.suffix == ".onnx":
        _progress.print(f"note: the ONNX file of {given} is {model}", soft_wrap=True)
    return model


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
        is_foreign = "vivim.network" in record.description and "vivim.format" not in record.description
        told = "no session takes this network's input" if is_foreign else "there is no GPU here"
        where = "compare it in a program of your own" if is_foreign else "run vivim-check where there is one"
        table.add_row("parity", f"not checked: {told}; {where}")
    table.add_row("sidecar", f"{sidecar_path(output)}")
    return table


def _counted(counts: Mapping[str, str | int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in counts.items())


@app.command("triton")
def triton_command(
    given: Annotated[str, typer.Argument(metavar="MODEL", help="A .onnx or .engine file; or a checkpoint, or tiny.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="REPOSITORY", help="Triton's model folder to write into.")
    ] = Path("repository"),
    name: Annotated[str, typer.Option(help="Name of the model in Triton; default: the name of the file.")] = "",
    placement: Annotated[str, typer.Option(help="Where Triton runs it: auto, cpu or gpu.")] = "auto",
    instances: Annotated[int, typer.Option(help="Copies of it on each device.")] = 1,
    max_batch: Annotated[
        int | None, typer.Option(help="Most clips per call, for a file with --dynamic-batch (8).", show_default=False)
    ] = None,
    operators: Annotated[
        bool, typer.Option("--operators", help="Also add the compiled operators of this machine (make native).")
    ] = False,
    mount: Annotated[str, typer.Option(help="Path under which the server sees REPOSITORY.")] = "/models",
) -> None:
    """Write a model repository for NVIDIA Triton Inference Server: the model and its config.pbtxt."""
    from vivim_export.triton import TritonOptions, write_repository

    options = TritonOptions(name or Path(given).stem, placement, instances, max_batch, operators, mount)
    config = write_repository(_onnx_of(given), output, options)
    _console.print(f"{config}: tritonserver --model-repository {mount}", soft_wrap=True)


def _opened(name: str, size: tuple[int, int] | None, frames: int | None, device: str, threads: int) -> Session:
    from vivim_export.runners import open_runner

    return open_runner(name, size, frames, device, threads)


# The bf16 files of `vivim-export onnx --bf16` are for TensorRT; here they are emulated, in vivim-check refused.
app.command("check", cls=ClipsCommand, help="The same as vivim-check, with bf16 ONNX files emulated.")(
    check_command(_opened)
)
