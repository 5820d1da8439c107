"""How well the outlines of phantoms can be known at all: a fit that knows the scene, beside a network.

    python benchmarks/outlines.py [--model tiny] [--split test] [--clips 45] [--weight 0.1] [--draws 64]

For every film with a lesion, one frame is fitted by what made it: the tissue around the lesion, its contrast, the
softness of its edge, its enhancement or shadow, the point-spread function, gain and attenuation are given, and the
search starts at the truth. Unknown are the 15 numbers of the outline alone: centre, radius, stretch, tilt, and five
harmonics. The envelope is given as it is before the scanner compresses, clips, blurs and rounds it.

Its likelihood takes the pixels' intensities as independent and exponential (Rayleigh speckle) around the means that the
outline implies, with --weight for the pixels of a speckle grain that are not independent (0.03 to 0.3 was tried), and
the priors that the phantoms are drawn from. It does not use how neighbouring pixels of speckle depend on each other,
so it is no strict bound. Outlines drawn from the fit's normal approximation (--draws) give the probability of an
outline in every pixel, which is judged as an edge head is, by the average precision of `vivim-eval`.

Beside it are the outlines and masks that --model, a checkpoint with an edge head, gives for the same frames. `longest`:
the error of the longest diameter, pixels, of masks that meet the lesion.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import torch
from measuring import machine

from vivim.checkpoint import load_checkpoint
from vivim.model import Vivim
from vivim.preprocessing import normalised
from vivim_runtime.datasets import PHANTOM_SPLITS
from vivim_runtime.judging import metrics
from vivim_runtime.judging.outlines import EdgeTally, outline_of
from vivim_runtime.measuring import measured
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.phantom.plain import PlainPhantom
from vivim_runtime.phantom.tissue import Lesion

SIZE, FRAMES, JUDGED = 256, 5, 2  # the frame in the middle of a clip, which a network sees from both sides
HARMONICS = np.arange(2, 7)
# Of the 15 numbers: mean and standard deviation of what phantoms draw, and the step of a numerical derivative.
MEAN = np.array([0.47, 0.5, 0.14, 1.3, 0.0, *np.zeros(10)])
SPREAD = np.array([0.11, 0.13, 0.04, 0.17, 0.29, *np.tile(0.12 / (HARMONICS - 1) / np.sqrt(2), 2)])
STEP = np.array([0.002, 0.002, 0.001, 0.01, 0.02, *np.full(10, 0.01)])
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outline:
    """The outline of a lesion at a time, as 15 numbers."""

    lesion: Lesion
    time: float

    def numbers(self) -> Array:
        phases = self.lesion.phases + self.lesion.speeds * self.time
        waves = self.lesion.amplitudes * np.cos(phases), self.lesion.amplitudes * np.sin(phases)
        lesion = self.lesion
        return np.concatenate([[*lesion.centre, lesion.radius, lesion.stretch, lesion.tilt], *waves])

    def changed(self, numbers: Array) -> Lesion:
        """The lesion that has them; all else is as it was."""
        cosines, sines = numbers[5:10], numbers[10:15]
        return replace(
            self.lesion,
            centre=(float(numbers[0]), float(numbers[1])),
            radius=float(numbers[2]),
            stretch=float(numbers[3]),
            tilt=float(numbers[4]),
            amplitudes=np.hypot(cosines, sines),
            phases=np.arctan2(sines, cosines) - self.lesion.speeds * self.time,
        )


class Fit:
    """What a frame says about the outline of its lesion to one who knows the scene."""

    def __init__(self, spec: PhantomSpec, weight: float) -> None:
        phantom = PlainPhantom(spec)
        self.scene, self.shown, self.weight = phantom.scene, phantom.sector, weight
        self.time = JUDGED / spec.fps
        self.tissue = self.scene.tissue_at(self.time)
        assert self.scene.lesion is not None
        self.truth = Outline(self.scene.lesion, self.time)
        envelope, _ = self.scene.backscatter(self.time, spec.frame_rng(JUDGED))
        self.intensity = envelope.astype(np.float64) ** 2

    def mean(self, numbers: Array) -> Array:
        """Expected intensity (H, W): the power of scatterers, blurred by the square of the point-spread function."""
        echo, _ = self.scene.echogenicity(self.time, *self.tissue, self.truth.changed(numbers))
        power = np.exp(echo * (np.log(10) / 10)).astype(np.float64)
        down, across = (sigma / np.sqrt(2) for sigma in self.scene.psf)
        return 2 * cv2.GaussianBlur(power, (0, 0), sigmaX=max(across, 0.3), sigmaY=max(down, 0.3))

    def mask(self, numbers: Array) -> npt.NDArray[np.bool_]:
        """What the picture shows (H, W) of a lesion with these numbers."""
        return (self.truth.changed(numbers).inside(*self.tissue, self.time) > 0) & self.shown

    def _value(self, numbers: Array) -> tuple[float, Array]:
        """Log posterior probability, and what `mean` says."""
        mean = self.mean(numbers)
        likelihood = -(np.log(mean) + self.intensity / mean)[self.shown].sum()
        return float(self.weight * likelihood - 0.5 * (((numbers - MEAN) / SPREAD) ** 2).sum()), mean

    def found(self) -> tuple[Array, Array]:
        """The most probable numbers (15,) and their covariance (15, 15), by damped Fisher scoring from the truth."""
        numbers, damping = self.truth.numbers(), 1e-3
        value, mean = self._value(numbers)
        shown = self.shown
        for _ in range(40):
            slopes = np.stack(
                [
                    (np.log(self.mean(numbers + step)) - np.log(self.mean(numbers - step)))[shown] / (2 * step.sum())
                    for step in np.diag(STEP)
                ]
            )
            gradient = self.weight * slopes @ ((self.intensity / mean)[shown] - 1) - (numbers - MEAN) / SPREAD**2
            information = self.weight * slopes @ slopes.T + np.diag(SPREAD**-2.0)
            better = None
            while better is None and damping < 1e6:
                step = np.linalg.solve(information + damping * np.diag(np.diag(information)), gradient)
                tried, mean_there = self._value(numbers + step)
                if tried > value:
                    better = tried - value
                    numbers, value, mean, damping = numbers + step, tried, mean_there, damping / 10
                else:
                    damping = max(damping, 1e-4) * 10
            if better is None or better < 1e-3:
                break
        return numbers, np.linalg.inv(information)


class Side:
    """What is counted of one side."""

    def __init__(self) -> None:
        self.edges, self.dice, self.longest = EdgeTally(), list[float](), list[float]()

    def add(self, edge: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_]) -> None:
        """A frame: logits of outlines, the mask, the true mask, all (H, W)."""
        self.edges.add(edge, truth)
        self.dice.append(float(metrics.dice(mask, truth)))
        count, labels = cv2.connectedComponents(mask.astype(np.uint8))
        shares = [np.count_nonzero(truth & (labels == label)) for label in range(1, count)]
        if any(shares):
            lesion = labels == 1 + int(np.argmax(shares))
            self.longest.append(measured(lesion, (1, 1)).longest.value - measured(truth, (1, 1)).longest.value)

    def line(self) -> str:
        scores = self.edges.scores()
        assert scores is not None
        errors = np.array(self.longest)
        return (
            f"edge AP {scores.ap:.3f}  Dice {np.mean(self.dice):.4f}  "
            f"longest: median {np.median(np.abs(errors)):.2f} px, p95 {np.percentile(np.abs(errors), 95):.1f}, "
            f"signed median {np.median(errors):+.2f} ({len(errors)} lesions)"
        )


def drawn(fit: Fit, numbers: Array, covariance: Array, draws: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Logits (H, W) of an outline in each pixel, over outlines that the fit takes for possible."""
    root = np.linalg.cholesky(covariance)
    share = np.mean([outline_of(fit.mask(numbers + root @ rng.standard_normal(15))) for _ in range(draws)], axis=0)
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return np.log(share / (1 - share)).astype(np.float32)


def of_network(model: Vivim, pixels: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Logits of outlines and mask (H, W) of the judged frame of a clip (T, H, W, 3)."""
    with torch.no_grad():
        output = model(normalised(pixels)[None])
    assert output.edge is not None
    return output.edge[0, JUDGED, 0].numpy(), output.logits[0, JUDGED, 0].numpy() > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--split", choices=PHANTOM_SPLITS, default="test")
    parser.add_argument("--clips", type=int, default=45)
    parser.add_argument("--weight", type=float, default=0.1)
    parser.add_argument("--draws", type=int, default=64)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    print(machine())
    model = load_checkpoint(asked.model).eval()
    informed, network = Side(), Side()
    rng = np.random.default_rng(0)
    for seed in range(PHANTOM_SPLITS[asked.split], PHANTOM_SPLITS[asked.split] + asked.clips):
        spec = PhantomSpec(seed, FRAMES, (SIZE, SIZE))
        pixels, masks = (np.stack(values) for values in zip(*phantom_frames(spec), strict=True))
        truth = masks[JUDGED]
        if not truth.any():
            continue
        fit = Fit(spec, asked.weight)
        numbers, covariance = fit.found()
        informed.add(drawn(fit, numbers, covariance, asked.draws, rng), fit.mask(numbers), truth)
        network.add(*of_network(model, pixels), truth)
    for name, side in (("the fit that knows the scene", informed), (asked.model, network)):
        print(f"{name:28}  {side.line()}")


if __name__ == "__main__":
    main()
