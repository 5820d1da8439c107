"""From weights to masks on video, with the commands that a user would type: export, prove, run, look.

    python examples/demo.py --out demo

Leaves in the folder: vivim-tiny.onnx, phantom.mp4 and cine.mp4, the masks of both, cine-seg.dcm (the masks of the cine
as a DICOM Segmentation), contact_sheet.png, and the parity report (parity.html, parity.json).
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.data import get_testdata_file
from rich.console import Console
from rich.table import Table

from vivim_runtime.judging import metrics
from vivim_runtime.sources import Frame, open_source

# A seed that training never saw (vivim.training.batches.SPLITS), at a size that is not the network's own.
PHANTOM = "phantom:seed=34,frames=75,size=360x480"
COLUMNS = 5
GREEN, WHITE = (0, 230, 118), (255, 255, 255)

Image = npt.NDArray[np.uint8]
Masks = npt.NDArray[np.bool_]


def call(command: str, *args: str | Path) -> float:
    """Show and run one of our commands as a user would; returns its seconds."""
    words = [command, *map(str, args)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    started = time.perf_counter()
    outcome = subprocess.run([Path(sys.executable).with_name(command), *words[1:]], check=False)
    if outcome.returncode:
        sys.exit(f"{command} failed with exit code {outcome.returncode}")
    return time.perf_counter() - started


def frames_of(uri: str) -> list[Frame]:
    with open_source(uri) as source:
        return list(source)


def masks_in(folder: Path) -> Masks:
    files = sorted(folder.glob("*.png"))
    return np.stack([cv2.imread(str(file), cv2.IMREAD_GRAYSCALE) > 0 for file in files])


def tile(image: Image, mask: Masks, truth: Masks | None, caption: str) -> Image:
    """One frame of the contact sheet, 360 x 270: our contour green, the truth thin and white, a caption below."""
    scale = 360 / image.shape[1]
    size = (360, round(image.shape[0] * scale))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    for outline, color, width in ((mask, GREEN, 2), (truth, WHITE, 1)):
        if outline is not None:
            small = cv2.resize(outline.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
            contours, _ = cv2.findContours(small, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(canvas, contours, -1, color, width, cv2.LINE_AA)
    framed = np.full((270 + 28, 360 + 8, 3), 24, np.uint8)
    height = min(270, size[1])
    framed[:height, 4:364] = canvas[:height]
    cv2.putText(framed, caption, (8, 290), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (210, 210, 210), 1, cv2.LINE_AA)
    return framed


def contact_sheet(rows: list[tuple[str, list[Image], Masks, Masks | None]]) -> Image:
    """COLUMNS frames of every row, spread over its length."""
    lines = []
    for name, images, masks, truths in rows:
        tiles = []
        for index in np.linspace(0, len(images) - 1, COLUMNS).round().astype(int):
            truth = None if truths is None else truths[index]
            score = (
                ": mask has no meaning" if truth is None else f", Dice {float(metrics.dice(masks[index], truth)):.3f}"
            )
            tiles.append(tile(images[index], masks[index], truth, f"{name}, frame {index}{score}"))
        lines.append(np.concatenate(tiles, axis=1))
    return np.concatenate(lines, axis=0)


def summary(
    parity: dict[str, Any], phantom: dict[str, Any], cine: dict[str, Any], dice: float, seconds: float
) -> Table:
    table = Table(title="Vivim Edge demo", title_justify="left", show_header=False)
    table.add_row("ONNX against PyTorch, logits", f"relative L2 {parity['tensor']['relative_l2']:.1e}")
    masks = parity["masks"]
    table.add_row("ONNX against PyTorch, masks", f"Dice {masks['dice']:.6f}, {masks['changed_pixels']} pixels differ")
    table.add_row("phantom against its truth", f"Dice {dice:.3f} over {phantom['frames']} frames")
    for name, run in (("phantom", phantom), ("ultrasound cine", cine)):
        latency = run["latency_ms"]
        table.add_row(
            f"{name} on this CPU",
            f"{run['fps']:.1f} fps, a clip p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms",
        )
    table.add_row("all of it", f"{seconds:.0f} s")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    model, records = out / "vivim-tiny.onnx", {}
    cine = str(get_testdata_file("examples_ybr_color.dcm", download=False))

    seconds = call("vivim-export", "onnx", "tiny", "-o", model)
    reports = ("--json", out / "parity.json", "--html", out / "parity.html")
    seconds += call("vivim-export", "check", "tiny", model, "--clips", PHANTOM, cine, *reports)
    for name, source in (("phantom", PHANTOM), ("cine", cine)):
        outputs = [out / f"{name}.mp4", out / f"{name}_masks", out / f"{name}.jsonl"]
        if name == "cine":  # a segmentation refers to frames of a DICOM file
            outputs.append(out / "cine-seg.dcm")
        record = out / f"{name}.json"
        # A scanner's screen is more than its picture: the model sees what the scanner draws there, found in the pixels.
        region = ("--region", "auto") if name == "cine" else ()
        seconds += call("vivim-run", source, *outputs, "--model", model, "--json", record, *region, "--overwrite")
        records[name] = json.loads(record.read_text())

    phantom = frames_of(PHANTOM)
    truths = np.stack([frame.truth for frame in phantom if frame.truth is not None])
    masks = masks_in(out / "phantom_masks")
    rows: list[tuple[str, list[Image], Masks, Masks | None]] = [
        ("phantom", [frame.image for frame in phantom], masks, truths),
        ("cine", [frame.image for frame in frames_of(cine)], masks_in(out / "cine_masks"), None),
    ]
    sheet = cv2.cvtColor(contact_sheet(rows), cv2.COLOR_RGB2BGR)
    cv2.imwrite(str(out / "contact_sheet.png"), sheet)

    parity = json.loads((out / "parity.json").read_text())
    dice = float(metrics.dice(masks, truths).mean())
    print()
    Console().print(summary(parity, records["phantom"], records["cine"], dice, seconds))
    print(f"\nLook at {out}/contact_sheet.png, {out}/phantom.mp4, {out}/cine-seg.dcm and {out}/parity.html.")
    print("On the sheet, green is what the weights mark, and white is the truth, which is known only for the phantom.")
    print(
        "The weights were trained on synthetic ultrasound only: their masks on the real cine have no clinical meaning."
    )
    command = Path(sys.executable).with_name("vivim-run")
    print("\nNext, try it live (in a window, or on a page whose address is printed; q or Ctrl-C ends it):")
    print(f"  {shlex.quote(str(command))} 'phantom:size=480x640' screen --model {shlex.quote(str(model))}")


if __name__ == "__main__":
    main()
