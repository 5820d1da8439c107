"""`vivim-run`: a source through a model to outputs. A thin layer over vivim_runtime.offline and .live.run."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from vivim_runtime.commands.application import Application
from vivim_runtime.commands.archive import archive_command, executor
from vivim_runtime.commands.destinations import destinations, refuse_taken
from vivim_runtime.commands.live import live_command
from vivim_runtime.commands.options import (
    Device,
    JsonFile,
    MmPerPixel,
    Overwrite,
    Quiet,
    RegionOption,
    Show,
    ShownFrame,
    Smooth,
    Threads,
    Threshold,
    region_or_none,
)
from vivim_runtime.commands.outputs import OutputOptions
from vivim_runtime.commands.terminal import terminal
from vivim_runtime.errors import UsageError
from vivim_runtime.files import check_names, writable_file
from vivim_runtime.gating import GATES, MEANING, parse_gates
from vivim_runtime.live.run import LiveOptions
from vivim_runtime.live.screens import ScreenOptions, is_screen
from vivim_runtime.live.status import HudLevel
from vivim_runtime.live.sync import Sync
from vivim_runtime.locating import regions_of, scales_of
from vivim_runtime.measuring import Scales, parse_mm_per_pixel
from vivim_runtime.offline import RunOptions, RunReport, run
from vivim_runtime.overlay import parse_layers
from vivim_runtime.regions import AUTO, WHOLE
from vivim_runtime.sessions import is_model_file, model_file, open_session
from vivim_runtime.sessions.base import ModelInfo, Session
from vivim_runtime.sessions.sidecar import sidecar_path
from vivim_runtime.sinks.video import ENCODERS
from vivim_runtime.smoothing import Smoother
from vivim_runtime.sources import DEFAULT_FPS, LiveSource, Paced, Source, list_cameras, open_source, parse_capture
from vivim_runtime.sources.base import counted_frames
from vivim_runtime.text import parse_number

__all__ = ["app"]

_SHOWN_LESIONS = 6  # in the summary, those that were seen first

app = Application(no_args_is_help=True)
# File names are printed as they are: no markup.
_console = terminal(stderr=True)


def _hop(text: str, model: ModelInfo) -> int | None:
    if text == "auto":
        return None
    number = parse_number(text)
    if number is None or not 1 <= number <= model.frames:
        raise UsageError(f"--hop is {text}; expected auto, or 1 to {model.frames}, the frames of a clip")
    return number


@app.command()
def run_command(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SRC",
            help="Video file, image folder, DICOM file, phantom:seed=1,frames=90,size=480x640, "
            "camera (0, /dev/video0), or stream (rtsp://, http://, udp://, tcp://, a FIFO, gst:)",
        ),
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="OUT",
            help="screen (a window if there is a display, otherwise a web page), display, http://127.0.0.1:8080, "
            "X.mp4 (or .mkv, .avi, .webm), X.dcm, X.sr.dcm, X.jsonl, a folder for PNG masks. "
            "Default: live pictures go to the screen, a recorded SRC to SRC-vivim.mp4.",
        ),
    ] = None,
    more_outputs: Annotated[
        list[str] | None, typer.Option("--output", "-o", metavar="OUT", help="The same as OUT; may be repeated.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Model file of vivim-export; or a checkpoint or tiny, exported once.")
    ] = "model.onnx",
    save: Annotated[
        bool | None,
        typer.Option("--save/--no-save", help="Also write SRC-vivim.mp4; or write no video.", show_default=False),
    ] = None,
    camera: Annotated[str | None, typer.Option(help="Camera as the source, instead of SRC: 0, /dev/video0.")] = None,
    list_cameras_: Annotated[
        bool, typer.Option("--list-cameras", help="List the cameras of this machine and exit.")
    ] = False,
    resolution: Annotated[
        str | None, typer.Option(help="Ask the camera for WIDTHxHEIGHT (width first, as cameras name their modes).")
    ] = None,
    rate: Annotated[float | None, typer.Option(help="Ask the camera for this many frames per second.")] = None,
    pixel_format: Annotated[str | None, typer.Option(help="Ask the camera for this format: MJPG, YUYV, ...")] = None,
    recursive: Annotated[
        bool,
        typer.Option("--recursive", help="SRC is a folder: process all videos, DICOM files and pictures below it."),
    ] = False,
    on: Annotated[str, typer.Option(help="With --recursive: run on ray, or on ray://HOST:PORT (extra cluster).")] = "",
    workers: Annotated[
        int, typer.Option(help="With --on ray: sources processed at the same time; 0 is one per core.")
    ] = 0,
    realtime: Annotated[bool, typer.Option("--realtime", help="Play a recorded source as if it were live.")] = False,
    loop: Annotated[bool, typer.Option("--loop", help="With a screen: repeat a recorded source endlessly.")] = False,
    timeout: Annotated[
        float | None, typer.Option(help="Live: give up after this many seconds without a frame.")
    ] = None,
    max_mask_age: Annotated[float, typer.Option(help="Live: hide masks older than this many seconds.")] = 1.0,
    sync: Annotated[
        Sync,
        typer.Option(
            help="Live: on delays each picture until its own mask is ready; off shows the newest of both; auto decides."
        ),
    ] = LiveOptions.sync,
    clip_rate: Annotated[
        float | None, typer.Option(help="Live: frames per second of a clip; default: the rate of the source.")
    ] = None,
    fullscreen: Annotated[bool, typer.Option("--fullscreen", help="Open the window full screen.")] = False,
    hud: Annotated[HudLevel, typer.Option(help="How much text to draw on the picture.")] = HudLevel.full,
    notice: Annotated[bool, typer.Option("--notice/--no-notice", help="Show RESEARCH USE ONLY on screens.")] = True,
    token: Annotated[
        str | None, typer.Option(help="Token that the web page requires; default: a new one where it needs one.")
    ] = None,
    device: Device = "auto",
    threads: Threads = 0,
    hop: Annotated[
        str, typer.Option(help="Frames from one clip to the next; auto: a whole clip, or live as few as possible.")
    ] = "auto",
    show: ShownFrame = Show.newest,
    threshold: Threshold = 0.5,
    region: RegionOption = None,
    smooth: Smooth = 1,
    mm_per_pixel: MmPerPixel = None,
    gates: Annotated[
        str, typer.Option(help="Conditions that hide masks: auto, none, or some of " + ",".join(GATES) + ".")
    ] = "auto",
    blank_outside: Annotated[
        bool,
        typer.Option("--blank-outside", help="Black out everything outside the region in what is written and shown."),
    ] = False,
    visualize: Annotated[
        str, typer.Option(help="What to draw, comma-separated: overlay, contour, mask.")
    ] = "overlay,contour",
    alpha: Annotated[float, typer.Option(help="Opacity of the overlay, 0 to 1.")] = 0.45,
    encoder: Annotated[
        str,
        typer.Option(
            "--video-encoder",
            help="Encoder for X.mp4, X.mkv and X.avi: auto uses hardware if it works; or " + ", ".join(ENCODERS[1:]),
        ),
    ] = "auto",
    old_encoder: Annotated[str, typer.Option("--encoder", hidden=True, help="The same as --video-encoder.")] = "auto",
    max_frames: Annotated[int | None, typer.Option(help="Stop after this many frames.")] = None,
    overwrite: Overwrite = False,
    json_file: JsonFile = None,
    quiet: Quiet = False,
) -> None:
    """Segment a video or live pictures, and show or write the result: screen, video, masks, DICOM, ledger."""
    if list_cameras_:
        _print_cameras()
        return
    uri, names = _source_and_outputs(source, camera, [*(outputs or []), *(more_outputs or [])])
    rule, given = region_or_none(region), parse_mm_per_pixel(mm_per_pixel) if mm_per_pixel else None
    if recursive:
        run_options = RunOptions(None, show.value, threshold, parse_layers(visualize), alpha, max_frames, rule)
        path = _exported(model, quiet)
        with open_session(path, device, threads) as session:  # what is wrong with it is told before all else
            run_options = replace(run_options, hop=_hop(hop, session.info))
        code = archive_command(uri, names, path, run_options, executor(on, workers), quiet, device, threads)
        sys.exit(code)
    if on or workers:
        raise UsageError("--on and --workers are of whole archives; add --recursive")
    files = [name for name in names if not is_screen(name)]
    check_names([*files, json_file] if json_file else files, (uri, model, sidecar_path(Path(model))))
    if json_file:
        writable_file(json_file)
    refuse_taken([*files, json_file] if json_file else files, overwrite)
    with ExitStack() as stack:
        opened = stack.enter_context(open_source(uri, parse_capture(resolution, rate, pixel_format)))
        live = isinstance(opened, LiveSource) or realtime or len(files) < len(names)
        names, said = destinations(names, uri, live, save, overwrite)
        screen = any(map(is_screen, names))
        if not isinstance(opened, LiveSource) and (realtime or screen):
            opened = Paced(opened, loop=loop or (screen and uri.startswith("phantom:")))
        if isinstance(opened, LiveSource) and not threads:
            threads = max(1, (os.cpu_count() or 2) - 1)  # one core for the picture
        session = stack.enter_context(open_session(_exported(model, quiet), device, threads))
        if smooth > 1 and isinstance(opened, LiveSource) and show != Show.newest:
            raise UsageError(f"--smooth {smooth} with --show {show.value}: live, the newest frames' masks are smoothed")
        seen = rule or session.info.takes.rule
        if seen.kind != AUTO and min(opened.size) > 0:  # what is wrong with it shows before anything is written
            regions_of(seen, opened, opened.size, opened.name, tuple)
        if blank_outside and seen.kind == WHOLE:
            raise UsageError(
                "--blank-outside needs a region, and whole pictures are seen; give --region X,Y,W,H, dicom or auto"
            )
        options = RunOptions(
            hop=_hop(hop, session.info),
            show=show.value,
            threshold=threshold,
            layers=parse_layers(visualize),
            alpha=alpha,
            max_frames=max_frames,
            region=rule,
            smooth=smooth,
            scales=scales_of(opened, opened.name, given),
            gates=parse_gates(gates, sure.domain if (sure := session.info.confidence) else None),
            blank_outside=blank_outside,
        )
        if said and not quiet:
            _console.print(said, soft_wrap=True)
        if not quiet:
            for departure in (*_departures(opened, session.info, clip_rate), *session.info.departure_of(rule)):
                _console.print(f"note: {session.info.path.name}: {departure}", soft_wrap=True)
            if smooth > 1 and isinstance(opened, LiveSource):
                _console.print(_late(smooth, clip_rate or session.info.takes.clip_fps or opened.fps), soft_wrap=True)
        written = OutputOptions(
            names=tuple(names),
            settings=_settings(opened.name, session.info, session.device, options),
            overwrite=overwrite,
            encoder=encoder if encoder != "auto" else old_encoder,
            json_file=json_file,
            quiet=quiet,
            scales=options.scales,
        )
        if not isinstance(opened, LiveSource):
            if _run_offline(opened, session, options, written):
                sys.exit(130)
            return
        live_options = LiveOptions(
            run=options, clip_fps=clip_rate, max_mask_age_s=max_mask_age, timeout_s=timeout, sync=sync
        )
        screens = ScreenOptions(fullscreen=fullscreen, token=token, notice=notice)
        code = live_command(opened, session, live_options, screens, written, hud)
    if code:
        sys.exit(code)


def _late(smooth: int, rate: float) -> str:
    """What smoothing costs live."""
    delay = Smoother(smooth).delay
    seconds = f", {1000 * delay / rate:.0f} ms at {rate:g} frames a second" if rate > 0 else ""
    return f"note: masks are a mean over {smooth} frames: where something moves they are {delay:g} frames late{seconds}"


def _departures(source: Source, info: ModelInfo, clip_rate: float | None) -> tuple[str, ...]:
    """In what the clips of a run differ from those of the training."""
    if isinstance(source, LiveSource):
        return info.departures_at(clip_rate or info.takes.clip_fps or 0.0, timed=True)
    # That rate is also assumed of sources that tell none, so it says nothing.
    return info.departures_at(0.0 if source.fps == DEFAULT_FPS else source.fps, timed=False)


def _source_and_outputs(source: str | None, camera: str | None, outputs: list[str]) -> tuple[str, list[str]]:
    """With --camera, the first word is an output like the others."""
    if camera is not None:
        return camera, [source, *outputs] if source else outputs
    if source is None:
        raise UsageError(
            "there is no source; expected vivim-run SRC [OUT ...], such as vivim-run clip.mp4 --model tiny; "
            "see vivim-run --help"
        )
    return source, outputs


def _exported(model: str, quiet: bool) -> Path:
    """The model's file, which is made where a checkpoint is given."""
    if is_model_file(model):
        return Path(model)
    if quiet:
        return model_file(model)
    told = False
    with _console.status(f"looking for the file of {model}") as status:

        def say(stage: str) -> None:
            nonlocal told
            if not told and not _console.is_terminal:  # where a spinner is not seen
                _console.print(f"exporting {model}, once", soft_wrap=True)
            told = True
            status.update(f"exporting {model}, once: {stage}")

        return model_file(model, say)


def _print_cameras() -> None:
    found = list_cameras()
    for camera in found:
        _console.print(f"{camera.device}  {camera.name}  {' '.join(camera.formats)}", soft_wrap=True)
    if not found:
        _console.print("there is no camera; is it plugged in, and is this user in the group `video`?", soft_wrap=True)


def _run_offline(source: Source, session: Session, options: RunOptions, outputs: OutputOptions) -> bool:
    """Every frame, in order; whether the user interrupted it."""
    with ExitStack() as stack:
        sinks = [stack.enter_context(outputs.open_sink(name, source, session.info)) for name in outputs.names]
        outputs.join(sinks)
        if not outputs.quiet:
            _console.print(_heading(source.name, source.size, session.info, session.device))
        session.warm_up()
        expected = min((n for n in (source.frame_count, options.max_frames) if n is not None), default=None)
        columns = (TextColumn("segmenting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=_console, transient=True, disable=outputs.quiet or not _console.is_terminal
        ) as progress:
            task = progress.add_task("frames", total=expected)
            report = run(source, session, sinks, options, lambda _: progress.advance(task))
        written = [sink.path for sink in sinks]
    outputs.write_summary({**asdict(report), "outputs": written})
    if not outputs.quiet:
        _print_summary(report, written, options.scales or Scales())
    elif report.lost:  # never silently
        _console.print(f"warning: {source.name}: {_lost_line(report)}", soft_wrap=True)
    return report.interrupted


def _settings(source: str, model: ModelInfo, device: str, options: RunOptions) -> dict[str, Any]:
    """What ran, for the ledger and the summary file."""
    return {
        "source": source,
        "model": model.path.name,
        "preset": model.preset,
        "precision": model.precision,
        "weights_sha256": model.weights_sha256,
        "departures": model.departures,
        "device": device,
        **{name: value for name, value in asdict(options).items() if name != "scales"},
        "hop": options.hop or model.hop,
        "region": str(options.region or model.takes.rule),
        "contract": asdict(model.takes),
        **({} if options.scales is None else {"scale": options.scales.record()}),
    }


def _heading(source: str, size: tuple[int, int], model: ModelInfo, device: str) -> str:
    height, width = model.size
    return (
        f"{source} ({size[1]}x{size[0]}) through {model.path.name} "
        f"({model.preset}, {model.precision}, {model.frames} frames of {width}x{height}) on {device}"
    )


def _lost_line(report: RunReport) -> str:
    return f"{report.lost} of {report.frames + report.lost} frames could not be read, and have no mask"


def _lesion_line(lesion: Mapping[str, Any]) -> str:
    """The frames of a lesion's curve, and its largest diameter and area."""
    frames = counted_frames(len(lesion["time_s"]))
    millimetres = [pair for pair in lesion.get("longest_mm", ()) if pair]
    if millimetres:
        longest, error = max(millimetres)
        area, _ = max(pair for pair in lesion["area_mm2"] if pair)
        return f"{frames}, longest {longest:.1f} mm (+- {error:.1f}), up to {area:.1f} mm2"
    return f"{frames}, longest {max(lesion['longest_px']):.0f} px, up to {max(lesion['area_px'])} px"


def _print_summary(report: RunReport, written: list[str], scales: Scales) -> None:
    for note in (*report.notes, scales.describe()):
        _console.print(f"note: {note}", soft_wrap=True)
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("frames", f"{report.frames} in {report.seconds:.1f} s, {report.fps:.1f} fps")
    table.add_row("with a mask", f"{report.with_mask} of {report.frames}")
    for state, count in report.states.items():
        table.add_row(MEANING[state], counted_frames(count))
    if report.regions:
        table.add_row("region", ", ".join(report.regions))
    for lesion in report.lesions[:_SHOWN_LESIONS]:
        table.add_row(f"lesion {lesion['lesion']}", _lesion_line(lesion))
    if len(report.lesions) > _SHOWN_LESIONS:
        table.add_row("", f"and {len(report.lesions) - _SHOWN_LESIONS} more, see --json")
    if report.latency_ms:
        p50, p95, most = (report.latency_ms[key] for key in ("p50", "p95", "max"))
        table.add_row("a clip takes", f"p50 {p50:.1f} ms, p95 {p95:.1f} ms, max {most:.1f} ms ({report.clips} clips)")
    table.add_row("ms a frame", ", ".join(f"{part} {value:.1f}" for part, value in report.stages_ms.items()))
    if report.lost:
        table.add_row("lost", _lost_line(report))
    if report.resets:
        table.add_row("forgot", ", ".join(f"{count} x {reason}" for reason, count in report.resets.items()))
    if report.padded_clips:
        table.add_row("padded", "the source is shorter than a clip; its last frame was repeated")
    for path in written:
        table.add_row("wrote", path)
    if report.interrupted:
        table.add_row("interrupted", "the outputs hold the frames up to here")
    _console.print(table)
