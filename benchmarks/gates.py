"""How often each gate is wrong, and what it misses: on phantoms, on pictures of other kinds, and on cines of your own.

    python benchmarks/gates.py WEIGHTS [CINE ...] [--clips 60] [--size 256] [--region auto] [--other FOLDER ...]

WEIGHTS have been through `vivim-train calibrate-confidence`. A clip is five frames, as the model sees them. Cines are
real ultrasound: every gate that hides and closes for them is a false alarm. What is drawn here as noise, pages, bars
and scenes is of the kinds, not of the numbers, that the gate `domain` learnt from; slices of CT and MR it has never
seen. A FOLDER has pictures that are no ultrasound. Cines come again in other settings of a scanner, darker, coarser
and nearer than real ones are (vivim/training/strangers.py), which stand still. Beyond log odds of 0 the grain of a
picture is that of another kind.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from pydicom.data import get_testdata_file

from vivim.checkpoint import read_training
from vivim.training.strangers import varied
from vivim_runtime.clips import windows
from vivim_runtime.framing import Views, resized
from vivim_runtime.gating import GATES, HIDING, Gatekeeper
from vivim_runtime.locating import located
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.regions import RegionRule
from vivim_runtime.sizes import parse_size
from vivim_runtime.sources import open_source
from vivim_runtime.texture import texture_features

Image = npt.NDArray[np.uint8]
Clip = list[Image]
_T = 5
_SLICES = ("CT_small", "693_J2KI", "J2K_pixelrep_mismatch", "MR_small", "examples_overlay")


def phantoms(size: tuple[int, int], clips: int, **options: str | bool) -> Iterator[Clip]:
    for seed in range(clips):
        spec = PhantomSpec(7_000_000 + seed, _T, size, **options)  # type: ignore[arg-type]
        yield [image for image, _ in phantom_frames(spec)]


def frozen(size: tuple[int, int], clips: int) -> Iterator[Clip]:
    for clip in phantoms(size, clips, screen="mixed"):
        yield [clip[-1]] * _T


def black(size: tuple[int, int], clips: int) -> Iterator[Clip]:
    for seed in range(clips):
        rng = np.random.default_rng(seed)
        level = seed % 4
        yield [rng.integers(0, 2 * level + 1, (*size, 3), np.uint8) for _ in range(_T)]


def _page(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    image = np.full((*size, 3), 250 if rng.random() < 0.5 else 10, np.uint8)
    for row in range(12, size[0], 14):
        text = "".join(rng.choice(list("abcdefgh ijklmno pqrst"), 40))
        ink = 255 - int(image[0, 0, 0])
        cv2.putText(image, text, (4, row), cv2.FONT_HERSHEY_SIMPLEX, 0.35, (ink,) * 3, 1, cv2.LINE_AA)
    return image


def _scene(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    """Coloured blobs of all sizes, as photographs are made of."""
    image = np.zeros((*size, 3), np.float32)
    for cells in (2, 4, 8, 16, 32, 64):
        coarse = rng.standard_normal((cells, cells, 3)).astype(np.float32)
        image += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC) / cells**0.7
    return np.clip(128 + 70 * image / image.std(), 0, 255).astype(np.uint8)


def _bars(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    colours = rng.integers(0, 256, (int(rng.integers(3, 12)), 3), np.uint8)
    return np.broadcast_to(cv2.resize(colours[None], (size[1], 1), interpolation=cv2.INTER_NEAREST), (*size, 3)).copy()


def _noise(rng: np.random.Generator, size: tuple[int, int]) -> Image:
    return rng.integers(0, 256, (*size, 3), np.uint8)


def strangers(size: tuple[int, int], clips: int, kind: Callable[..., Image]) -> Iterator[Clip]:
    for seed in range(clips):
        yield [kind(np.random.default_rng(seed), size)] * _T


def stills(names: Sequence[str], size: tuple[int, int]) -> Iterator[Clip]:
    for name in names:
        with open_source(name) as source:
            yield [resized(next(iter(source)).image, size)] * _T


def _of_pydicom(*names: str) -> list[str]:
    return [str(get_testdata_file(name, download=False)) for name in names]


def cine(name: str, size: tuple[int, int], rule: RegionRule, contract: object) -> Iterator[Clip]:
    with open_source(name) as source:
        regions, frames = located(rule, source, islice(source, 200))
        views = Views.of(contract, regions)  # type: ignore[arg-type]
        for window in windows(frames, _T, _T, "newest"):
            yield [views.pictures(frame.image)[0] for frame in window.frames]


def _both_ways(name: str, *options: Any) -> Iterator[tuple[str, Iterator[Clip]]]:
    """A cine as it is, and in other settings, with what each is called."""
    label = name.rstrip("/").rpartition("/")[2]
    yield label, cine(name, *options)
    yield f"{label}, other settings", in_other_settings(cine(name, *options))


def in_other_settings(clips: Iterable[Clip], times: int = 4) -> Iterator[Clip]:
    """The newest picture of every clip, `times` times."""
    for number, clip in enumerate(clips):
        for time in range(times):
            yield [varied(clip[-1], np.random.default_rng([number, time]))] * _T


def _judged(keeper: Gatekeeper, clip: Clip) -> tuple[bool, float]:
    """Whether a gate closes, and the seconds of the process that it took."""
    begun = process_time()
    return bool(keeper.judge(clip)), process_time() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("cines", nargs="*")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--size", default="256")
    parser.add_argument("--region", default="auto")
    parser.add_argument("--other", nargs="*", default=[])
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    size = parse_size(asked.size, "--size")
    training = read_training(asked.weights)
    domain = None if training.confidence is None else training.confidence.domain
    keepers = {gate: Gatekeeper((gate,), domain) for gate in GATES if gate != "edge" and (gate != "domain" or domain)}
    sets: list[tuple[str, str, Iterator[Clip]]] = [
        ("phantoms, plain", "", phantoms(size, asked.clips)),
        ("phantoms, mixed screens", "", phantoms(size, asked.clips, screen="mixed")),
        ("phantoms, held-out screens", "", phantoms(size, asked.clips, screen="held-out")),
        ("phantoms, held-out regions", "", phantoms(size, asked.clips, screen="held-out", view="region")),
        ("black, with noise up to 6 levels", "black", black(size, asked.clips)),
        ("phantoms that stand still", "frozen", frozen(size, asked.clips)),
        ("without contact, plain", "contact", phantoms(size, asked.clips, contact=False)),
        (
            "without contact, regions",
            "contact",
            phantoms(size, asked.clips, contact=False, screen="any", view="region"),
        ),
        ("noise", "domain", strangers(size, asked.clips, _noise)),
        ("pages of text", "domain", strangers(size, asked.clips, _page)),
        ("colour bars", "domain", strangers(size, asked.clips, _bars)),
        ("coloured scenes", "domain", strangers(size, asked.clips, _scene)),
        *((name, "domain", stills(_of_pydicom(f"{name}.dcm"), size)) for name in _SLICES),
        *((name.rstrip("/").rpartition("/")[2], "domain", stills(sorted(map(str, Path(name).iterdir())), size))
          for name in asked.other),
        ("still, a sector in the dark", "", stills(_of_pydicom("examples_palette.dcm"), size)),
        ("still, colour flow", "", stills(_of_pydicom("examples_rgb_color.dcm"), size)),
        *((label, "", clips) for name in asked.cines for label, clips in _both_ways(
            name, size, RegionRule.parse(asked.region), training.contract)),
    ]  # fmt: skip
    hiding = [gate in HIDING for gate in keepers]
    print(
        f"{'clips':36} {'meant for':9} " + " ".join(f"{gate:>8}" for gate in (*keepers, "hidden")) + "  odds of grain"
    )
    seconds: list[list[float]] = []
    for name, meant, clips in sets:
        closed, odds = [], []
        for clip in clips:
            row, spent = zip(*(_judged(keeper, clip) for keeper in keepers.values()), strict=True)
            closed.append((*row, any(shut and hides for shut, hides in zip(row, hiding, strict=True))))
            seconds.append(list(spent))
            if domain is not None and domain.texture is not None:
                seen = domain.texture.judged(texture_features(clip[-1])[None])[0]
                odds.append(float(seen[0]) - domain.texture.odds)
        shares = " ".join(f"{share:8.1%}" for share in np.mean(closed, axis=0))
        span = f"  {min(odds):+.1f} to {max(odds):+.1f}" if odds else ""
        print(f"{name[:36]:36} {meant:9} {shares}{span}", flush=True)
    print(f"{'ms a clip, median':46} " + " ".join(f"{1000 * spent:8.1f}" for spent in np.median(seconds, axis=0)))


if __name__ == "__main__":
    main()
