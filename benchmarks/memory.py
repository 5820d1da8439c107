"""Does memory pay? Networks on films in which something hides the lesion for a while, paired film by film.

    python benchmarks/memory.py --streams carried=runs/carried-1/best.safetensors,within=runs/within-1/best.safetensors
                                [--clip tiny] [--films 8] [--frames 60] [--size 128] [--every-frame] [--against within]

Kinds of films, phantoms of the split `test`, the same seeds in each: plain, shadow, lift, contrast, drift. Sides: the
clip network with clips of five one after the other (`clip`), with one clip for every frame, which it ends with
(`clip newest`, five times the work; with --every-frame), on single frames (`single`), and streaming networks; with
--forgetting these once more, each frame as the first of a film (`anew`). A name with a number behind a dash, as
`carried-1`, is a seed of one: figures are means over its seeds, and the first seed of one side is compared with the
first of the other.

    Dice        mean over a film's frames; of `hidden` frames alone: those in which the trouble shows
    flicker     vivim_runtime.judging.metrics.flicker against the truth: pixels whose error changes, over the area
    difference  to the side --against, in pairs, with the 95 % interval of vivim_runtime.judging.figures over films:
                what other films would show of these very networks. Of several seeds there is the one over seeds
                behind it: what other trainings would show on these very films. Films of one number show the same
                lesion in every kind, so that over all kinds they count as one

    python benchmarks/memory.py --streams tiny-stream=tiny-stream --dropped 0.1,0.25,0.5 [--data VTUS]
    python benchmarks/memory.py --streams tiny-stream=tiny-stream --drift 10000 --size 64
    python benchmarks/memory.py --streams tiny-stream=tiny-stream --warm-up

--dropped plays films of which a share of the frames is missing, at random, to the streaming networks: Dice of the
frames that are left, against that of the same frames where none is missing, and Dice between the two masks. --data: the
halves of every training video of an annotated data set instead of phantoms, at its own size. --drift plays one long
film with trouble of any kind: at each mark the largest state, and the relative L2 of the logits to those of two runs in
float64: one from the same beginning (--exact), which tells rounding, and one that began 60 frames before the mark,
which tells what older frames still do as well. --warm-up gives one frame as the first, second, ... of a film to the
streaming networks: its Dice, and how far that is from where 20 frames were seen before it; three frames of every film.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from measuring import machine, relative_l2

from vivim.checkpoint import load_checkpoint
from vivim.model import Vivim
from vivim.preprocessing import normalised
from vivim.streaming import flat_states
from vivim_runtime.clips import Masks
from vivim_runtime.datasets import PHANTOM_SPLITS, open_dataset
from vivim_runtime.judging import metrics
from vivim_runtime.judging.figures import Estimate, mean_estimate
from vivim_runtime.phantom import HIDING, PhantomSpec, phantom_frames
from vivim_runtime.sources.base import Image

KINDS = ("plain", "shadow", "lift", "contrast", "drift")
WARM = 20  # frames behind which a film is taken to be warm
PIECE = 10  # frames that a streaming network takes at once; what it gives is the same for any
Side = Callable[[Image], Masks]


@dataclass(frozen=True)
class Film:
    """frames (T, H, W, 3), truth (T, H, W), and in which frames something hides the lesion."""

    frames: Image
    truth: Masks
    hidden: Masks


def film_of(seed: int, kind: str, frames: int, size: int) -> Film:
    trouble = "" if kind == "plain" else kind
    spec = PhantomSpec(seed=seed, frames=frames, size=(size, size), lesion=True, trouble=trouble)
    images, truth = (np.stack(values) for values in zip(*phantom_frames(spec), strict=True))
    hidden = np.zeros(frames, bool)
    if trouble in HIDING:
        plain = phantom_frames(PhantomSpec(seed=seed, frames=frames, size=(size, size), lesion=True))
        hidden = np.array([not np.array_equal(a, b) for (a, _), b in zip(plain, images, strict=True)])
    return Film(images, truth, hidden)


def of_clips(model: Vivim, length: int) -> Side:
    """Clips one after the other; the last one ends with the film."""

    def masks(frames: Image) -> Masks:
        found = np.zeros(frames.shape[:3], bool)
        for begin in range(0, len(frames), length):
            begin = max(0, min(begin, len(frames) - length))
            logits = model(normalised(frames[None, begin : begin + length])).logits[0, :, 0]
            found[begin : begin + length] = (logits > 0).numpy()
        return found

    return masks


def of_newest(model: Vivim, length: int) -> Side:
    """For every frame the clip that ends with it; at the beginning the first frame is repeated."""

    def masks(frames: Image) -> Masks:
        padded = np.concatenate((np.repeat(frames[:1], length - 1, axis=0), frames))
        logits = [model(normalised(padded[None, t : t + length])).logits[0, -1, 0].numpy() for t in range(len(frames))]
        return np.stack(logits) > 0

    return masks


def of_stream(model: Vivim) -> Side:
    def masks(frames: Image) -> Masks:
        states, found = None, []
        for begin in range(0, len(frames), PIECE):
            (logits, _), states = model.run(normalised(frames[None, begin : begin + PIECE]), states)
            found.append((logits[0, :, 0] > 0).numpy())
        return np.concatenate(found)

    return masks


def figures(film: Film, masks: Masks) -> tuple[float, float, float]:
    """Dice of the film, of its hidden frames, and flicker."""
    dice = metrics.dice(masks, film.truth)
    hidden = float(dice[film.hidden].mean()) if film.hidden.any() else float("nan")
    return float(dice.mean()), hidden, metrics.flicker(masks, film.truth)


FIGURES = ("Dice", "hidden", "flicker")


def bounds(estimate: Estimate) -> str:
    return "" if estimate.low is None or estimate.high is None else f" [{estimate.low:+.4f}, {estimate.high:+.4f}]"


def differences(table: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(films, pairs of seeds, figures): seed by seed where both have as many, else between the means over seeds."""
    if table.shape[1] != other.shape[1]:
        table, other = (values.mean(axis=1, keepdims=True) for values in (table, other))
    return table - other


def over_kinds(tables: Sequence[np.ndarray]) -> np.ndarray:
    """Means of what is known; NaN where nothing is: of a film of which no trouble hides the lesion."""
    counts = sum(~np.isnan(table) for table in tables)
    return np.divide(np.nansum(tables, axis=0), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def report(kind: str, tables: dict[str, np.ndarray], against: str) -> None:
    """Lines of a kind of films; tables: side -> (films, seeds, figures)."""
    for side, table in tables.items():
        means = dict(zip(FIGURES, table.mean(axis=1).T, strict=True))
        known = {name: column for name, column in means.items() if not np.isnan(column).all()}
        line = f"{kind:9s} {side:12s} " + "  ".join(
            f"{name} {np.nanmean(known[name]):.4f}" if name in known else f"{name} -     " for name in FIGURES
        )
        if side != against:
            pairs = differences(table, tables[against])
            for index, name in enumerate(FIGURES):
                over_films = mean_estimate(pairs[..., index].mean(axis=1))
                if over_films.value is None:
                    continue
                line += f" | {name} {over_films.value:+.4f}{bounds(over_films)}"
                if pairs.shape[1] > 1:
                    line += f" seeds{bounds(mean_estimate(np.nanmean(pairs[..., index], axis=0)))}"
        print(line, flush=True)


@torch.no_grad()
def compare(
    sides: Sequence[tuple[str, Side]], kinds: Sequence[str], films: int, frames: int, size: int, against: str
) -> None:
    everything: dict[str, list[np.ndarray]] = {}
    for kind in kinds:
        rows: dict[str, list[np.ndarray]] = {name: [] for name, _ in sides}
        counts = {name: sum(name == other for other, _ in sides) for name, _ in sides}
        for number in range(films):
            film = film_of(PHANTOM_SPLITS["test"] + number, kind, frames, size)
            for name, side in sides:
                rows[name].append(np.array(figures(film, side(film.frames))))
        tables = {name: np.stack(values).reshape(films, counts[name], 3) for name, values in rows.items()}
        report(kind, tables, against)
        for name, table in tables.items():
            everything.setdefault(name, []).append(table)
    if len(kinds) > 1:
        report("all", {name: over_kinds(values) for name, values in everything.items()}, against)


@torch.no_grad()
def drop(sides: Sequence[tuple[str, Side]], films: Sequence[Film], shares: Sequence[float]) -> None:
    """What missing frames cost, in pairs."""
    for name, side in sides:
        whole = [side(film.frames) for film in films]
        for share in shares:
            rows = []
            for number, (film, masks) in enumerate(zip(films, whole, strict=True)):
                kept = np.random.default_rng([number, int(1000 * share)]).random(len(film.frames)) >= share
                kept[0] = True
                found, truth = side(film.frames[kept]), film.truth[kept]
                before, after = metrics.dice(masks[kept], truth).mean(), metrics.dice(found, truth).mean()
                rows.append((float(before), float(after), float(metrics.dice(found, masks[kept]).mean())))
            before, after, between = np.array(rows).T
            difference = mean_estimate(after - before)
            print(
                f"{name:12s} {100 * share:3.0f} % missing: Dice {before.mean():.4f} -> {after.mean():.4f}, "
                f"{difference.value:+.4f}{bounds(difference)}; between the masks {between.mean():.4f}; "
                f"{len(films)} films",
                flush=True,
            )


@torch.no_grad()
def warm_up(sides: Sequence[tuple[str, Side]], films: Sequence[Film]) -> None:
    """What the first frames of a film lack, in pairs: the same frames, with more or fewer before them."""
    for name, side in sides:
        rows = []
        for film in films:
            moments = np.linspace(WARM, len(film.frames) - 1, 3).round().astype(int)
            begun = [[at - before for before in (*range(5), WARM)] for at in moments]
            of_film = [
                [metrics.dice(side(film.frames[since : at + 1])[-1:], film.truth[at : at + 1])[0] for since in sinces]
                for at, sinces in zip(moments, begun, strict=True)
            ]
            rows.append(np.mean(of_film, axis=0))
        table = np.array(rows)  # (films, 6)
        for number, dice in enumerate(table.T[:-1], 1):
            difference = mean_estimate(dice - table[:, -1])
            print(
                f"{name:12s} frame {number} of a film: Dice {dice.mean():.4f}, {difference.value:+.4f}"
                f"{bounds(difference)} to that of frame {WARM + 1}, {table[:, -1].mean():.4f}; {len(films)} films",
                flush=True,
            )


def halves_of(data: str) -> list[Film]:
    """Both halves of every training video of a data set."""
    films = []
    for video in open_dataset(data, "train").videos:
        images = np.stack([video.frame(index) for index in range(len(video))])
        truth = np.stack([np.asarray(video.mask(index)) > 0 for index in range(len(video))])
        middle = len(video) // 2
        for part in (slice(None, middle), slice(middle, None)):
            films.append(Film(images[part], truth[part], np.zeros(len(truth[part]), bool)))
    return films


@torch.no_grad()
def drift(name: str, model: Vivim, frames: int, size: int, along: bool) -> None:
    """A long film: do states grow, do roundings add up, and do the logits leave those of a run that began a moment ago?

    Args:
        along: whether a run in float64 goes on beside it, from the beginning.
    """
    marks = [mark for mark in (100, 300, 1000, 3000, 10_000, 30_000) if mark <= frames]
    exact = copy.deepcopy(model).double()
    states, fresh, beside = None, None, None
    spec = PhantomSpec(PHANTOM_SPLITS["test"], frames, (size, size), lesion=True, trouble="any")
    for count, (image, _) in enumerate(phantom_frames(spec), 1):
        pixels = normalised(image[None])
        (logits, _), states = model.step(pixels, states)
        if along:
            (true, _), beside = exact.step(pixels.double(), beside)
        following = next((mark for mark in marks if mark - 60 < count <= mark), None)
        if following is None:
            continue
        (right, _), fresh = exact.step(pixels.double(), None if count == following - 59 else fresh)
        if count == following:
            largest = max(float(tensor.abs().max()) for tensor in flat_states(states))
            norm = sum(float(tensor.double().square().sum()) for tensor in flat_states(states)) ** 0.5
            errors = f"{relative_l2(logits, true):.1e} to float64 all along, " if along else ""
            errors += f"{relative_l2(logits, right):.1e} to a run of 60 frames"
            print(f"{name} frame {count}: largest state {largest:.2f}, norm {norm:.1f}, logits {errors}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", required=True, help="NAME=WEIGHTS,... of streaming networks")
    parser.add_argument("--clip", default="tiny", help="weights of the clip network, or none; default tiny")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of films; default all")
    parser.add_argument("--films", type=int, default=8, help="of each kind; default 8")
    parser.add_argument("--frames", type=int, default=60, help="of a film; default 60")
    parser.add_argument("--size", type=int, default=128, help="pixels of a side; default 128")
    parser.add_argument("--every-frame", action="store_true", help="the clip network for every frame, too")
    parser.add_argument(
        "--forgetting", action="store_true", help="streaming networks that begin anew in every frame, too"
    )
    parser.add_argument("--against", default="within", help="the side that the others are compared with")
    parser.add_argument("--dropped", help="shares of missing frames, such as 0.1,0.25,0.5")
    parser.add_argument("--data", help="with --dropped: a data set instead of phantoms")
    parser.add_argument("--drift", type=int, default=0, metavar="FRAMES", help="one long film")
    parser.add_argument("--exact", action="store_true", help="with --drift: a run in float64 beside it, all along")
    parser.add_argument("--warm-up", action="store_true", help="what the first frames of a film lack")
    arguments = parser.parse_args()
    if arguments.warm_up and arguments.frames <= WARM:
        parser.error(f"--warm-up with --frames {arguments.frames}: expected more than {WARM}")
    torch.set_num_threads(1)
    print(", ".join(f"{key} {value}" for key, value in machine().items()))
    streams = [
        (name.rpartition("-")[0] if name.rpartition("-")[2].isdigit() else name, load_checkpoint(path).eval())
        for name, _, path in (entry.partition("=") for entry in arguments.streams.split(","))
    ]
    streaming = [(name, of_stream(model)) for name, model in streams]
    if arguments.drift:
        for name, model in streams:
            drift(name, model, arguments.drift, arguments.size, arguments.exact)
        return
    numbers = [PHANTOM_SPLITS["test"] + number for number in range(arguments.films)]
    if arguments.warm_up:
        warm_up(streaming, [film_of(seed, "plain", arguments.frames, arguments.size) for seed in numbers])
        return
    if arguments.dropped:
        films = [film_of(seed, "plain", arguments.frames, arguments.size) for seed in numbers]
        shares = [float(share) for share in arguments.dropped.split(",")]
        drop(streaming, halves_of(arguments.data) if arguments.data else films, shares)
        return
    sides: list[tuple[str, Side]] = []
    if arguments.clip != "none":
        clip = load_checkpoint(arguments.clip).eval()
        sides.append(("clip", of_clips(clip, clip.config.frames)))
        if arguments.every_frame:
            sides.append(("clip newest", of_newest(clip, clip.config.frames)))
        sides.append(("single", of_clips(clip, 1)))
    sides += streaming
    if arguments.forgetting:
        sides += [(f"{name} anew", of_clips(model, 1)) for name, model in streams]
    if arguments.against not in dict(sides):
        parser.error(f"--against {arguments.against}: expected one of {', '.join(dict(sides))}")
    compare(sides, arguments.kinds.split(","), arguments.films, arguments.frames, arguments.size, arguments.against)


if __name__ == "__main__":
    main()
