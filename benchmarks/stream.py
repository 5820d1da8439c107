"""A streaming network against the clip network of its size: work and latency a frame, memory, and drift.

    python benchmarks/stream.py [--presets tiny,b0,b3] [--threads 1] [--rounds 9] [--parity 300]
                                [--live SECONDS [--sync auto|on|off]]

    step     one frame through a streaming file (forward and frame_backward), its states handed on
    clip     five frames through a clip file: the work of a frame at hop 1, and of five at hop 5

Both run in ONNX Runtime through vivim_runtime, in one process, by turns, so that other load on the machine meets both.
Time is the processor's (`cpu`) and the clock's (`wall`); on a busy machine the first tells more. Weights are random but
for `tiny` (speed does not depend on them). `--parity` compares a streaming file with PyTorch over so many frames of a
phantom, states kept on both sides, and prints how the error goes on. `--live` plays a phantom at 25 frames a second to
both for so many seconds, as `vivim-run` does by default, and prints how old masks are, in ms and in inferences, and
which share of the pictures came with their own. Linux only.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from measuring import machine, relative_l2

from vivim.checkpoint import load_checkpoint
from vivim.config import STREAMING_DIRECTIONS, VivimConfig
from vivim.conversion import streaming_from
from vivim.model import Vivim
from vivim.preprocessing import normalised
from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx
from vivim_runtime.live.run import LiveOptions, Outputs, run_live
from vivim_runtime.live.status import Controls
from vivim_runtime.live.sync import Sync
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sessions import Session, open_session
from vivim_runtime.sessions.base import Stream
from vivim_runtime.sources import Frame, Paced
from vivim_runtime.sources.phantom import PhantomSource

FRAMES = 5


def networks(preset: str) -> tuple[Vivim, Vivim]:
    """The clip network and a streaming one of its weights."""
    torch.manual_seed(0)
    clip = load_checkpoint("tiny") if preset == "tiny" else Vivim(VivimConfig.preset(preset))
    return clip.eval(), streaming_from(clip.eval())


def opened(model: Vivim, path: Path, size: tuple[int, int], threads: int) -> Session:
    save_onnx(onnx_from_model(model, OnnxOptions(size=size)), path)
    return open_session(path, "cpu", threads)


def compare(preset: str, folder: Path, size: tuple[int, int], threads: int, rounds: int) -> None:
    clip_network, network = networks(preset)
    clips = opened(clip_network, folder / f"{preset}.clip.onnx", size, threads)
    steps = opened(network, folder / f"{preset}.stream.onnx", size, threads)
    film = np.random.default_rng(0).integers(0, 256, (1, FRAMES, *size, 3), np.uint8)
    stream = Stream(steps)
    calls = {"step": lambda: stream(film[:, :1]), "clip": lambda: clips(film)}
    for call in calls.values():
        call()
    cpu: dict[str, list[float]] = {name: [] for name in calls}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began, used = time.perf_counter(), time.process_time()
            call()
            cpu[name].append((time.process_time() - used) * 1e3)
            wall[name].append((time.perf_counter() - began) * 1e3)
    c, w = ({name: statistics.median(values) for name, values in times.items()} for times in (cpu, wall))
    megabytes = sum(4 * math.prod(state.shape) for state in steps.info.states) / 2**20
    print(
        f"{preset:5s} step {c['step']:8.1f} ms cpu {w['step']:8.1f} wall | clip of {FRAMES} {c['clip']:8.1f} cpu "
        f"{w['clip']:8.1f} wall | frames a second at hop 1: {c['clip'] / c['step']:.1f} times the clip's, "
        f"at hop {FRAMES}: {c['clip'] / FRAMES / c['step']:.2f} | states {megabytes:.2f} MiB, {len(steps.info.states)}"
    )


def parity(folder: Path, size: tuple[int, int], frames: int) -> None:
    """tiny, frame after frame, against PyTorch: as exported, and in fp16."""
    network = networks("tiny")[1]
    for precision in ("fp32", "fp16"):
        path = folder / f"parity.{precision}.onnx"
        save_onnx(onnx_from_model(network, OnnxOptions(size=size, precision=precision)), path)
        with open_session(path, "cpu", 1) as session, torch.no_grad():
            stream, states = Stream(session), None
            errors, both, either = [], 0, 0
            for image, _ in phantom_frames(PhantomSpec(seed=3_000_001, frames=frames, size=size)):
                pixels = image[None, None]
                found = stream(pixels)[0, 0]
                frame = normalised(pixels, session.info.mean, session.info.std)[:, 0]
                (logits, _), states = network.step(frame, states)
                expected = logits[0].numpy()
                errors.append(relative_l2(found, expected))
                both += 2 * int(((found > 0) & (expected > 0)).sum())
                either += int((found > 0).sum()) + int((expected > 0).sum())
        marks = [at for at in (1, 2, 5, 10, 30, 100, 200, 300, 1000, 2000, 10000) if at <= frames]
        curve = ", ".join(f"{at}: {errors[at - 1]:.1e}" for at in marks)
        dice = both / either if either else float("nan")
        print(f"tiny {precision}, rel-L2 of the logits by frame: {curve}; largest {max(errors):.1e}; Dice {dice:.6f}")


class Made(PhantomSource):
    """A phantom that was made beforehand: a camera would not take the processor from the model."""

    def __init__(self, uri: str) -> None:
        super().__init__(uri)
        self._frames = list(super().__iter__())

    def __iter__(self) -> Iterator[Frame]:
        return iter(self._frames)


def live(folder: Path, size: tuple[int, int], threads: int, seconds: float, sync: Sync) -> None:
    """How old the masks on the picture are, tiny, at 25 frames a second of 480 x 640."""
    source = Paced(Made("phantom:seed=1,frames=100,size=480x640"), loop=True)
    for name, model in zip(("clip", "stream"), networks("tiny"), strict=True):
        with opened(model, folder / f"live.{name}.onnx", size, threads) as session:
            controls = Controls(("overlay", "contour"), 0.5, 0.45)
            ledger = folder / f"live.{name}.jsonl"
            timer = threading.Timer(seconds, controls.quit.set)
            timer.start()
            report = run_live(source, session, controls, LiveOptions(sync=sync), Outputs(ledger=(ledger, {})))
            timer.cancel()
            lines = [json.loads(line) for line in ledger.read_text().splitlines()]
            shown = [line for line in lines if line.get("fate") == "shown"]
            own = sum(line["mask_of"] == line["index"] for line in shown)
            ages, took = report.stages_ms["mask age"], report.stages_ms["infer"]
            if "p50" not in ages or "p50" not in took:
                print(f"live tiny {name}: no mask was shown in {seconds:g} s; the machine is too busy")
                continue
            print(
                f"live tiny {name}, sync {sync}: mask age p50 {ages['p50']:.0f} ms, "
                f"{ages['p50'] / took['p50']:.2f} inferences, p95 {ages['p95']:.0f} ms; an inference p50 "
                f"{took['p50']:.1f} ms; {report.clips} inferences of {report.counts['captured']} frames; "
                f"{len(shown)} shown, {own} with their own masks"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", default="tiny,b0,b3", help="default tiny,b0,b3")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side; default 256")
    parser.add_argument("--threads", type=int, default=1, help="of ONNX Runtime; default 1")
    parser.add_argument("--rounds", type=int, default=9, help="calls of each side; default 9")
    parser.add_argument("--parity", type=int, default=0, metavar="FRAMES", help="compare with PyTorch over a film")
    parser.add_argument("--live", type=float, default=0.0, metavar="SECONDS", help="measure the age of masks live")
    parser.add_argument("--sync", choices=get_args(Sync), default=LiveOptions.sync, help="as of vivim-run")
    arguments = parser.parse_args()
    size = (arguments.size, arguments.size)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    print(f"{size[0]}x{size[1]}, threads {arguments.threads}, directions {', '.join(STREAMING_DIRECTIONS)}")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for preset in filter(None, arguments.presets.split(",")):
            compare(preset, folder, size, arguments.threads, arguments.rounds)
        if arguments.parity:
            parity(folder, size, arguments.parity)
        if arguments.live:
            live(folder, size, arguments.threads, arguments.live, arguments.sync)


if __name__ == "__main__":
    main()
