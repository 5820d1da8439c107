"""Mutated DICOM files, videos and images through the sources: frames or one of our errors, and nothing else.

    python -m tests.runtime.fuzz_sources --cases 20000

Case n is the same on every run. Each worker process reads case after case under a limit of memory; the parent restarts
it behind a case that crashes it or takes too long. A finding is: another exception than ours, a crash, more than
SECONDS, or memory beyond the limit. Prints the findings and how many cases gave frames; exit code 1 with findings.
"""

from __future__ import annotations

import argparse
import itertools
import json
import queue
import resource
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["fuzz", "mutated", "say", "seeds", "write_case"]

SECONDS = 20.0  # on a busy machine; a case takes some milliseconds
# Beyond what the libraries take themselves. The largest frame (8K) is 113 MB as RGB; decoding it holds a few of them.
MEMORY = 2 << 30
FRAMES = 3  # read of each case
# Where headers are: the mutations fall into the first so many bytes (or the last ones: MP4 may have its header there).
HEADER = 4096


def seeds(folder: Path) -> list[Path]:
    """Small valid files of every kind that the sources read."""
    import av
    import cv2
    import pydicom
    from pydicom.data import get_testdata_file

    names = [
        "MR_small.dcm",
        "MR_small_RLE.dcm",
        "SC_rgb_rle.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
        "examples_palette.dcm",
        "JPEG2000.dcm",
        "SC_rgb_jls_lossy_line.dcm",
        "image_dfl.dcm",
        "MR_small_bigendian.dcm",
    ]
    found = [Path(str(get_testdata_file(name, download=False))) for name in names]
    cine = pydicom.dcmread(get_testdata_file("examples_ybr_color.dcm", download=False))
    cine.NumberOfFrames = 3
    if not cine.file_meta.TransferSyntaxUID.is_compressed:
        cine.PixelData = cine.PixelData[: len(cine.PixelData) // 10]
    cine.FrameTimeVector = ["0", "33", "33"]
    cine.save_as(folder / "cine.dcm")
    found.append(folder / "cine.dcm")
    for name, codec, pixels in (
        ("h264.mp4", "libx264", "yuv420p"),
        ("h264.ts", "libx264", "yuv420p"),
        ("mpeg4.avi", "mpeg4", "yuv420p"),
        ("ffv1.mkv", "ffv1", "yuv420p"),
        ("mjpeg.avi", "mjpeg", "yuvj420p"),
        ("vp9.webm", "libvpx-vp9", "yuv420p"),
        ("hevc.mp4", "libx265", "yuv420p"),
        ("raw.y4m", "wrapped_avframe", "yuv420p"),
    ):
        try:
            with av.open(str(folder / name), "w") as container:
                stream = container.add_stream(codec, rate=25)
                stream.height, stream.width, stream.pix_fmt = 48, 64, pixels
                for index in range(5):
                    picture = np.full((48, 64, 3), 40 * index, np.uint8)
                    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                    container.mux(stream.encode(frame.reformat(format=pixels)))
                container.mux(stream.encode(None))
            found.append(folder / name)
        except (av.error.FFmpegError, ValueError):
            (folder / name).unlink(missing_ok=True)  # this FFmpeg has no such encoder
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"):
        cv2.imwrite(str(folder / f"image{suffix}"), np.full((24, 32, 3), 90, np.uint8))
        found.append(folder / f"image{suffix}")
    return found + _many_pictures(folder) + _special_dicom(folder)


def _many_pictures(folder: Path) -> list[Path]:
    """Animations and stacks, 16 bits, and orientation."""
    from PIL import Image

    first, *others = [Image.fromarray(np.full((24, 32, 3), 40 * index, np.uint8)) for index in range(4)]
    names = ["many.tif", "many.webp", "many.png"]
    for name in names:
        first.save(folder / name, save_all=True, append_images=others)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.full((24, 32), 3000, np.uint16)).save(folder / "deep.png", exif=exif)
    first.save(folder / "turned.jpg", exif=exif)
    return [folder / name for name in (*names, "deep.png", "turned.jpg")]


def _special_dicom(folder: Path) -> list[Path]:
    """Films, palettes, coded loops and odd display attributes in DICOM."""
    from pydicom.uid import MPEG4HP41

    from tests.runtime.sources.made import coded_loop, grey, jpeg, loop, picture, rgb_frames, write_film

    greys = np.stack([grey(index, (24, 32)) for index in range(3)])
    film = write_film(folder / "in.mp4", rgb_frames([picture(0)] * 3, "yuv420p"), "libx264", "yuv420p")
    palette = {
        f"{colour}PaletteColorLookupTable{what}": [256, 0, 8] if what == "Descriptor" else bytes(range(256)) * 2
        for colour in ("Red", "Green", "Blue")
        for what in ("Descriptor", "Data")
    }
    return [
        coded_loop(folder / "film.dcm", [film.read_bytes()], (48, 64), MPEG4HP41, "YBR_PARTIAL_420"),
        coded_loop(folder / "coded.dcm", [jpeg(picture(0))] * 3, (48, 64), fragments=2),
        loop(folder / "palette.dcm", greys, photometric="PALETTE COLOR", **palette),
        loop(folder / "window.dcm", greys.astype(np.uint16) * 16, WindowCenter="100", WindowWidth="200"),
        loop(folder / "aspect.dcm", greys, PixelAspectRatio=["4", "3"], FrameTimeVector=["0", "40", "40"]),
    ]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight changes: bits, bytes, extreme numbers, and pieces cut out, repeated or swapped."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not changed:
            break
        span = min(HEADER, len(changed))
        place = int(rng.integers(0, span))
        if rng.random() < 0.1:
            place = len(changed) - 1 - place
        kind = int(rng.integers(0, 7))
        if kind == 0:
            changed[place] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            changed[place] = int(rng.integers(0, 256))
        elif kind == 2:
            extreme = rng.choice(
                [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0", b"\xff\xff"]
            )
            changed[place : place + len(extreme)] = extreme
        elif kind == 3:
            text = rng.choice([b"999999999", b"-1", b"1e308", b"nan", b"0", b"65535\\65535"])
            changed[place : place + len(text)] = text
        elif kind == 4:
            del changed[place : place + int(rng.integers(1, 64))]
        elif kind == 5:
            changed[place:place] = changed[place : place + int(rng.integers(1, 64))]
        elif rng.random() < 0.2:
            del changed[int(rng.integers(0, len(changed))) :]
    return bytes(changed)


def _numeric_dicom(path: Path, target: Path, rng: np.random.Generator) -> None:
    """A DICOM file that is well formed, with numbers that lie."""
    import pydicom

    dataset = pydicom.dcmread(path)
    values: dict[str, list[Any]] = {
        "Rows": [0, 1, 65535],
        "Columns": [0, 1, 65535],
        "NumberOfFrames": ["0", "-5", "2147483647", "1000000000"],
        "BitsAllocated": [0, 1, 7, 12, 16, 32, 64],
        "BitsStored": [0, 1, 12, 16, 65535],
        "SamplesPerPixel": [0, 2, 3, 4, 65535],
        "FrameTime": ["0", "-1", "1e-300", "1e300"],
        "CineRate": ["0", "-3", "2147483647"],
        "FrameTimeVector": [["0"] * 3, ["-1", "1e300", "0"], []],
        "WindowWidth": ["0", "-5", "1e300", "1e-300"],
        "RescaleSlope": ["0", "1e300", "-1"],
        "PhotometricInterpretation": ["RGB", "MONOCHROME1", "PALETTE COLOR", "YBR_FULL_422", "X"],
        "PlanarConfiguration": [0, 1, 7],
        "PixelRepresentation": [0, 1, 9],
    }
    for name in rng.choice(list(values), int(rng.integers(1, 4)), replace=False):
        setattr(dataset, str(name), values[name][int(rng.integers(0, len(values[name])))])
    dataset.save_as(target)


def write_case(number: int, found: list[Path], folder: Path) -> Path:
    """The file of case `number`."""
    import warnings

    rng = np.random.default_rng([20_000, number])
    seed = found[number % len(found)]
    target = folder / f"case{seed.suffix}"
    if seed.suffix == ".dcm" and rng.random() < 0.3:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _numeric_dicom(seed, target, rng)
            return target
        except (ValueError, TypeError, AttributeError, OSError, OverflowError):
            pass  # pydicom does not write everything
    target.write_bytes(mutated(seed.read_bytes(), rng))
    return target


def say(line: str) -> None:
    """To standard output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _read(path: Path) -> str:
    from vivim_runtime.errors import VivimError
    from vivim_runtime.sources import open_source

    try:
        with open_source(str(path)) as source:
            count = sum(1 for _ in itertools.islice(source, FRAMES))
        return f"{count} frames"
    except VivimError:
        return "refused"


def _worker(first: int, last: int) -> None:
    """Read the cases first..last-1; a line before and behind each."""
    import logging
    import warnings

    logging.disable()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        warnings.simplefilter("ignore")  # of making the seeds
        found = seeds(folder)
        _read(found[0])  # loads what there is to load
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        warnings.simplefilter("default")
        sys.stderr = open("/dev/null", "w")  # noqa: PTH123, SIM115
        for number in range(first, last):
            path = write_case(number, found, folder)
            say(json.dumps([number, "begun", path.name]))
            try:
                outcome = _read(path)
            except BaseException as error:
                outcome = f"{type(error).__name__}: {str(error)[:200]}"
            say(json.dumps([number, "done", outcome]))


def fuzz(first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Read the cases first..first+count-1; how many gave what, and the findings."""
    outcomes: Counter[str] = Counter()
    findings: list[str] = []
    last, current = first + count, first
    while current < last:
        command = [sys.executable, "-m", "tests.runtime.fuzz_sources", "--worker", str(current), str(last)]
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        lines: queue.Queue[str | None] = queue.Queue()

        def pump(pipe: Any = worker.stdout, into: queue.Queue[str | None] = lines) -> None:
            for line in pipe:
                into.put(line)
            into.put(None)

        reader = threading.Thread(target=pump, daemon=True)
        reader.start()
        running = ""
        while True:
            try:
                line = lines.get(timeout=SECONDS if running else 60.0)
            except queue.Empty:
                worker.kill()
                findings.append(f"case {current} ({running}) takes more than {SECONDS:g} s")
                break
            if line is None:
                worker.wait()
                if current < last:
                    findings.append(f"case {current} ({running}) ended the process with {worker.returncode}")
                break
            number, what, text = json.loads(line)
            if what == "begun":
                current, running = number, text
                continue
            current, running = number + 1, ""
            known = text.endswith("frames") or text == "refused"
            outcomes[text if known else "finding"] += 1
            if not known:
                findings.append(f"case {number}: {text}")
        worker.kill()
        worker.wait()
        reader.join()
        if worker.stdout:
            worker.stdout.close()
        if running:  # go on behind the case that ended it
            current += 1
            outcomes["finding"] += 1
    return outcomes, findings


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--worker", type=int, nargs=2, help="used by this program itself")
    args = parser.parse_args()
    if args.worker:
        _worker(*args.worker)
        return
    outcomes, findings = fuzz(args.first, args.cases)
    for finding in findings:
        say(finding)
    say(str(dict(outcomes)))
    sys.exit(bool(findings))


if __name__ == "__main__":
    main()
