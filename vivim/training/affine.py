"""The boundary-aware affine constraint (paper, section III-E, Eq. 8; after InverseForm, CVPR 2021).

    L_affine = 1 / N_p  sum_i ( d1 |theta_i^t - I|_F  -  d2 |theta_i^1 - I|_F ),    d1 = 1, d2 = 0.01

theta_i^t is the affine map between the true outline of frame t and the predicted one within patch i, theta_i^1 the one
between the true outline of the clip's first frame and the same prediction. The first pulls a prediction to where its
outline is; the second pushes it off where the outline was, which keeps what changes from frame to frame.

An MLP tells the map from a pair of patches. It is trained beforehand on outlines of masks and random maps
(`train_regressor`, `vivim-train boundary`), and frozen. Maps are those of torch's affine_grid, in coordinates that go
from -1 to 1 across a patch: predicted(x) = true(theta x).

A map says where an outline went, and nothing of one that is faint, thick, torn, another's or not there at all: a blank
prediction would cost as little as a shifted one, and an MLP that is to tell how much is there can be deceived by a
network in training (both were tried). What is there is therefore counted and not learnt, and |theta - I|_F stands for

    |theta - I|_F + C (1 - d),    C = |0 - I|_F = 1.41, d = (Dice(true, predicted) + Dice(blurred, blurred)) / 2

with Dice(p, q) = 2 sum pq / (sum p^2 + sum q^2) over the patch, and a blur of 6 pixels of the frame, which lets a line
that is off by some pixels feel the right one. C is what the map that sends all points to one costs. The MLP learns from
what an edge head draws at a quarter of the resolution: lines that are thick, blurred, faint, on grey.

Patches are squares of `PATCH` pixels, every half of that, averaged to `SIDE` x `SIDE`; those without a true outline in
frame t say nothing and are left out, as is the second term of those without one in the first frame.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from vivim.training.losses import sobel_edges
from vivim_runtime.errors import CheckpointError, DataError, InputError
from vivim_runtime.files import atomic_path

__all__ = [
    "PATCH",
    "SIDE",
    "AffineRegressor",
    "RegressionScores",
    "affine_loss",
    "affine_patches",
    "ladder",
    "load_regressor",
    "random_maps",
    "save_regressor",
    "train_regressor",
]

# A patch shows enough of an outline to tell a shift along it from none: a quarter of the paper's 256 pixels.
PATCH = 64
SIDE = 32
_HIDDEN = (384, 96)
_WEIGHTS = "affine.safetensors"

# What a patch costs where nothing of its outline is there, the distance of the map to one point from the identity, and
# the blur of the second Dice, as a standard deviation in pixels of a patch.
_NOTHING, _BLUR = math.sqrt(2), 3

# What random maps are made of: shift in half patches, rotation in radians, logarithms of scale and shear.
_SHIFT, _ROTATION, _SCALE, _SHEAR = 0.25, math.radians(20), math.log(1.2), 0.15

# How much thicker on both sides a line may be drawn, in pixels of a patch, which are two of the frame.
_THICKER = 4


class AffineRegressor(nn.Module):
    """An MLP from a pair of outlines within a patch to the affine map between them."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * SIDE * SIDE, _HIDDEN[0]),
            nn.ReLU(),
            nn.Linear(_HIDDEN[0], _HIDDEN[1]),
            nn.ReLU(),
            nn.Linear(_HIDDEN[1], 6),
        )

    def forward(self, true: Tensor, predicted: Tensor) -> Tensor:
        """Outlines (N, SIDE, SIDE) in 0..1, true and predicted -> maps minus the identity (N, 2, 3)."""
        return self.mlp(torch.cat((true.flatten(1), predicted.flatten(1)), dim=1)).unflatten(1, (2, 3))


def affine_patches(edges: Tensor) -> Tensor:
    """Outlines (N, 1, H, W) -> (N, P, SIDE, SIDE): patches that cover the frame, half over each other.

    Raises:
        InputError: a frame smaller than a patch.
    """
    height, width = edges.shape[-2:]
    if min(height, width) < PATCH:
        raise InputError(
            f"the affine constraint looks at patches of {PATCH}x{PATCH}, and frames are {height}x{width}; "
            "use larger frames, or no affine term (affine = 0)"
        )
    return _cut(_halved(edges))


def _halved(edges: Tensor) -> Tensor:
    """(N, 1, H, W) -> means of 2 x 2 pixels, with as much beyond the frame as makes whole patches."""
    stride = PATCH // 2
    padded = functional.pad(edges, (0, -edges.shape[-1] % stride, 0, -edges.shape[-2] % stride))
    return functional.avg_pool2d(padded, PATCH // SIDE)


def _cut(halved: Tensor) -> Tensor:
    """(N, 1, h, w) -> patches (N, P, SIDE, SIDE)."""
    columns = functional.unfold(halved, SIDE, stride=SIDE // 2)  # (N, SIDE * SIDE, P)
    return columns.transpose(1, 2).unflatten(2, (SIDE, SIDE))


def _blurred(halved: Tensor) -> Tensor:
    """(N, 1, h, w) through a Gaussian of `_BLUR` pixels; beyond the frame is nothing."""
    places = torch.arange(-3 * _BLUR, 3 * _BLUR + 1, device=halved.device, dtype=halved.dtype)
    kernel = torch.exp(-((places / _BLUR) ** 2) / 2)
    kernel = kernel / kernel.sum()
    across = functional.conv2d(halved, kernel.view(1, 1, 1, -1), padding=(0, 3 * _BLUR))
    return functional.conv2d(across, kernel.view(1, 1, -1, 1), padding=(3 * _BLUR, 0))


@dataclass(frozen=True)
class _Outlines:
    """Patches of outlines (B, T, P, SIDE, SIDE), as they are and blurred."""

    sharp: Tensor
    blurred: Tensor

    @staticmethod
    def of(edges: Tensor) -> _Outlines:
        """From (B, T, 1, H, W)."""
        sharp = affine_patches(edges.flatten(0, 1))
        blurred = _cut(_blurred(_halved(edges.flatten(0, 1))))
        return _Outlines(sharp.unflatten(0, edges.shape[:2]), blurred.unflatten(0, edges.shape[:2]))

    def at(self, chosen: Tensor) -> _Outlines:
        """Those of some patches (B, T, P): (N, SIDE, SIDE)."""
        return _Outlines(
            self.sharp.expand(*chosen.shape, SIDE, SIDE)[chosen], self.blurred.expand(*chosen.shape, SIDE, SIDE)[chosen]
        )


def affine_loss(
    regressor: AffineRegressor,
    predicted: Tensor,
    edges: Tensor,
    first: Tensor,
    delta_1: float = 1.0,
    delta_2: float = 0.01,
) -> Tensor:
    """L_affine (Eq. 8), averaged over the patches of all frames that have a true outline; 0 where none has.

    Args:
        predicted: probabilities of an outline (B, T, 1, H, W).
        edges: true outlines (B, T, 1, H, W), 0 or 1.
        first: true outlines of the first frames of the clips (B, 1, 1, H, W).
    """
    true, seen, start = _Outlines.of(edges), _Outlines.of(predicted), _Outlines.of(first)
    here = true.sharp.flatten(3).any(3)  # (B, T, P)
    both = here & start.sharp.flatten(3).any(3)
    pull = _cost(regressor, true.at(here), seen.at(here))
    push = _cost(regressor, start.at(both), seen.at(both))
    count = max(pull.numel(), 1)
    return (delta_1 * pull.sum() - delta_2 * push.sum()) / count


def _cost(regressor: AffineRegressor, true: _Outlines, seen: _Outlines) -> Tensor:
    """|theta - I|_F + C (1 - d) of N patches: (N,)."""
    there = (_dice(true.sharp, seen.sharp) + _dice(true.blurred, seen.blurred)) / 2
    return _distance(regressor(true.sharp, seen.sharp)) + _NOTHING * (1 - there)


def _dice(p: Tensor, q: Tensor) -> Tensor:
    """2 sum pq / (sum p^2 + sum q^2) of (N, SIDE, SIDE) and (N, SIDE, SIDE): (N,), 0 of two empty ones."""
    p, q = p.flatten(1), q.flatten(1)
    return 2 * (p * q).sum(1) / (p.square().sum(1) + q.square().sum(1) + 1e-8)


def _distance(difference: Tensor) -> Tensor:
    """Frobenius norm of (N, 2, 3) -> (N,)."""
    return torch.linalg.vector_norm(difference.flatten(1), dim=1)


def random_maps(count: int, generator: torch.Generator) -> Tensor:
    """Affine maps (count, 2, 3) near the identity: shift, rotation, scale along two axes, and shear."""

    def draw(reach: float, columns: int = 1) -> Tensor:
        return (2 * torch.rand(count, columns, generator=generator) - 1) * reach

    angle, shear = draw(_ROTATION)[:, 0], draw(_SHEAR)[:, 0]
    cos, sin = torch.cos(angle), torch.sin(angle)
    rotation = torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)  # (count, 2, 2)
    stretch = torch.diag_embed(torch.exp(draw(_SCALE, 2)))
    stretch[:, 0, 1] = shear
    return torch.cat((rotation @ stretch, draw(_SHIFT, 2)[..., None]), dim=2)


@dataclass(frozen=True)
class RegressionScores:
    """How well the maps of held-out outlines are told: means over pairs of |theta' - theta|_F.

    Attributes:
        error: of the MLP.
        identity: of the answer "identity", which needs no MLP.
        correlation: Pearson's, between |theta' - I| and |theta - I|, the quantities that the loss uses.
        pairs: how many.
        ladder: L_affine of what may be predicted of whole outlines, by name, from the outline itself to nothing.
    """

    error: float
    identity: float
    correlation: float
    pairs: int
    ladder: dict[str, float]


class _Pairs:
    """Pairs of outlines within patches of masks: a true one, and what a network might draw of it."""

    def __init__(self, masks: npt.NDArray[np.bool_], generator: torch.Generator) -> None:
        self._masks = torch.from_numpy(masks).float()[:, None]  # (M, 1, H, W)
        height, width = masks.shape[-2:]
        if min(height, width) < PATCH:
            raise DataError(f"masks are {height}x{width}; the affine constraint needs at least {PATCH}x{PATCH}")
        outline = sobel_edges(self._masks)[:, 0].nonzero()  # (E, 3): mask, row, column
        if not len(outline):
            raise DataError("no mask has an outline, so there is nothing to learn maps from; give videos with lesions")
        self._outline, self._generator = outline, generator
        self._half = torch.tensor([PATCH / width, PATCH / height])

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """True outlines and predictions of moved ones (count, SIDE, SIDE), and the maps (count, 2, 3)."""
        true, moved, maps = self.moved(count)
        return true, _as_drawn(moved, self._generator), maps

    def moved(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """True outlines and clean moved ones (count, SIDE, SIDE), and the maps (count, 2, 3); every patch has one."""
        generator = self._generator
        chosen = self._outline[torch.randint(len(self._outline), (count,), generator=generator)]
        height, width = self._masks.shape[-2:]
        place = torch.stack((chosen[:, 2] / width, chosen[:, 1] / height), 1) * 2 - 1  # x, y in -1..1
        # The chosen pixel is within 0.9 of a half patch of the centre, so that its outline is in the patch.
        place = place + (torch.rand(count, 2, generator=generator) - 0.5) * 1.8 * self._half
        maps = random_maps(count, generator)
        masks = self._masks[chosen[:, 0]]
        still = torch.eye(2, 3).expand(count, 2, 3)
        true, moved = (self._outlines(masks, place, m) for m in (still, maps))
        return true, moved, maps

    def _outlines(self, masks: Tensor, place: Tensor, maps: Tensor) -> Tensor:
        """Outlines (N, SIDE, SIDE) of the patches around `place`, whose coordinates go through `maps` first."""
        linear = maps[:, :, :2] * self._half[:, None]
        shift = maps[:, :, 2] * self._half + place
        grid = functional.affine_grid(
            torch.cat((linear, shift[..., None]), 2), [len(masks), 1, PATCH, PATCH], align_corners=False
        )
        patch = functional.grid_sample(masks, grid, padding_mode="border", align_corners=False)
        return functional.avg_pool2d(sobel_edges(patch), PATCH // SIDE)[:, 0]


def _as_drawn(moved: Tensor, generator: torch.Generator) -> Tensor:
    """What an edge head might draw of clean outlines (N, SIDE, SIDE): some thick, blurred, faint, on grey."""
    count = len(moved)

    def draw() -> Tensor:
        return torch.rand(count, 1, 1, generator=generator)

    thick = torch.stack([functional.max_pool2d(moved, 2 * r + 1, 1, r) for r in range(_THICKER + 1)])  # by r pixels
    radius = torch.where(draw() < 0.5, 0, 1 + (draw() * _THICKER).long())[:, 0, 0]
    line = thick[radius, torch.arange(count)]
    blurred = functional.avg_pool2d(line[:, None], 3, stride=1, padding=1)[:, 0]
    # At a quarter of the frame's resolution, a patch has half of its pixels each way; logits are what is enlarged.
    small = functional.avg_pool2d(line[:, None], 2).clamp(0.02, 0.98).logit() * (1 + 2 * draw())[:, None]
    coarse = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear")[:, 0].sigmoid()
    line = torch.where(draw() < 0.6, coarse, torch.lerp(line, blurred, draw()))
    floor = 0.3 * draw() ** 2
    return floor + (1 - floor) * (0.2 + 0.8 * draw()) * line


def train_regressor(
    masks: npt.NDArray[np.bool_],
    held_out: npt.NDArray[np.bool_],
    steps: int = 4000,
    batch: int = 128,
    lr: float = 1e-3,
    seed: int = 0,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
) -> tuple[AffineRegressor, RegressionScores]:
    """Teach an MLP the maps between outlines of masks; scores are those on the outlines of other masks.

    Args:
        masks, held_out: bool (M, H, W); those without an outline do not count.
        on_step: called with the steps done and the mean squared error of the last one.

    Raises:
        DataError: masks without any outline, or smaller than a patch.
    """
    torch.manual_seed(seed)
    regressor = AffineRegressor()
    pairs = _Pairs(masks, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(regressor.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    still = torch.eye(2, 3)
    for step in range(1, steps + 1):
        true, seen, maps = pairs.draw(batch)
        loss = functional.mse_loss(regressor(true, seen), maps - still)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        on_step(step, loss.item())
    return regressor.eval(), _scores(regressor, held_out, seed + 1)


@torch.no_grad()
def _scores(regressor: AffineRegressor, masks: npt.NDArray[np.bool_], seed: int, count: int = 4096) -> RegressionScores:
    true, seen, maps = _Pairs(masks, torch.Generator().manual_seed(seed)).draw(count)
    told, meant = regressor(true, seen), maps - torch.eye(2, 3)
    both = torch.stack((_distance(told), _distance(meant)))
    return RegressionScores(
        error=_distance(told - meant).mean().item(),
        identity=both[1].mean().item(),
        correlation=torch.corrcoef(both)[0, 1].item(),
        pairs=count,
        ladder=ladder(regressor, masks),
    )


@torch.no_grad()
def ladder(regressor: AffineRegressor, masks: npt.NDArray[np.bool_]) -> dict[str, float]:
    """L_affine of what may be predicted of the outlines of masks, the masks of whole frames (M, H, W)."""
    masks = masks[masks.any((1, 2))][:32]
    edges = sobel_edges(torch.from_numpy(masks).float()[:, None])[None]  # (1, M, 1, H, W)
    thick = functional.max_pool2d(edges[0], 9, 1, 4)[None]
    predicted = {
        "the outline": edges,
        "8 pixels off": edges.roll(8, dims=-1),
        "4 pixels thicker on both sides": thick,
        "another mask's": edges.roll(len(masks) // 2, dims=1),
        "blank": torch.zeros_like(edges),
        "grey": torch.full_like(edges, 0.5),
        "saturated": torch.ones_like(edges),
    }
    return {name: affine_loss(regressor, p, edges, edges[:, :1], 1.0, 0.0).item() for name, p in predicted.items()}


def save_regressor(path: Path, regressor: AffineRegressor, notes: dict[str, str]) -> None:
    """Write the MLP as safetensors with notes on where it comes from."""
    with atomic_path(path) as temporary:
        save_file(regressor.state_dict(), temporary, {"format": "vivim-affine", **notes})


def load_regressor(path: Path | None = None) -> AffineRegressor:
    """A frozen MLP from a file; from None, the one that this package ships (trained on phantoms).

    Raises:
        CheckpointError: a file that is missing, damaged or not ours.
    """
    source = path or Path(str(files("vivim") / "weights" / _WEIGHTS))
    if not source.is_file():  # a FIFO would be waited for
        raise CheckpointError(f"there is no affine regressor {source}; make one with vivim-train boundary")
    regressor = AffineRegressor()
    try:
        regressor.load_state_dict(load_file(source))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{source} holds no affine regressor ({reason}); make one with vivim-train boundary"
        ) from None
    if not all(bool(torch.isfinite(value).all()) for value in regressor.state_dict().values()):
        raise CheckpointError(f"{source} holds values that are not finite; make one with vivim-train boundary")
    return regressor.eval().requires_grad_(False)
