"""How often the intervals of vivim-eval hold the truth, by the number of videos: `python benchmarks/coverage.py`.

Dice of whole videos is drawn from two distributions, of which the truth is known: "even" videos (beta 20, 3: mean
0.87), and "uneven" ones, in which one video in seven fails (0.85 beta 30, 3 + 0.15 beta 2, 2). Beside our intervals
stand those of percentiles of the same draws, and of BCa (bias-corrected and accelerated).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import numpy.typing as npt
import typer

from vivim_runtime.judging.figures import FIGURES, Bootstrap, Units, estimate
from vivim_runtime.judging.frames import WIDTH, columns
from vivim_runtime.judging.tally import Tally

_DICE = FIGURES[0]
_TRUTH = {"even": 20 / 23, "uneven": 0.85 * 30 / 33 + 0.15 * 0.5}
_Values = npt.NDArray[np.float64]


def _videos(kind: str, count: int, rng: np.random.Generator) -> _Values:
    if kind == "even":
        return rng.beta(20, 3, count)
    values, fails = rng.beta(30, 3, count), rng.random(count) < 0.15
    values[fails] = rng.beta(2, 2, int(fails.sum()))
    return values


def _units(values: _Values) -> Units:
    tallies = []
    for value in values:
        row = np.full(WIDTH, np.nan)
        row[columns("dice")] = value
        tallies.append(Tally())
        tallies[-1].add(row, True)
    return Units(tallies, stretches=False)


def _bca(values: _Values, drawn: _Values) -> tuple[float, float]:
    normal, mean, most = NormalDist(), values.mean(), 1 - 1 / len(drawn)
    below = float((drawn < mean).mean() + 0.5 * (drawn == mean).mean())
    bias = normal.inv_cdf(min(max(below, 1 - most), most))
    without = (values.sum() - values) / (len(values) - 1)
    away = without.mean() - without
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5)
    shares = []
    for share in (0.025, 0.975):
        z = bias + normal.inv_cdf(share)
        shares.append(normal.cdf(bias + z / (1 - acceleration * z)))
    low, high = np.quantile(drawn, shares)
    return float(low), float(high)


def main(
    runs: int = typer.Option(1000, help="Sets of videos for each row."),
    draws: int = typer.Option(1000, help="Draws of the bootstrap."),
    counts: str = typer.Option("3,5,6,8,10,20,50", help="Numbers of videos, with commas."),
) -> None:
    """Print a Markdown table of coverages, in per cent."""
    print("| videos | Dice of videos | ours | percentiles | BCa |\n|---|---|---|---|---|")
    for count in map(int, counts.split(",")):
        bootstrap = Bootstrap(draws, seed=0)
        weights = bootstrap.weights(count) / count
        for kind, truth in _TRUTH.items():
            rng, hits = np.random.default_rng(count), np.zeros(3)
            for _ in range(runs):
                values = _videos(kind, count, rng)
                ours = estimate(_DICE, _units(values), "all", bootstrap)
                drawn = weights @ values
                low, high = np.percentile(drawn, (2.5, 97.5))
                assert ours.low is not None and ours.high is not None
                found = ((ours.low, ours.high), (low, high), _bca(values, drawn))
                hits += [low <= truth <= high for low, high in found]
            print(f"| {count} | {kind} | {' | '.join(f'{100 * hit / runs:.0f}' for hit in hits)} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
