"""Pictures of other kinds than any ultrasound, drawn by chance: from them a gate learns what a network does not know.

None of them shows anything: slices through bodies of smooth organs with the noise of CT and MR, radiographs, leaves
that cover each other (the model of photographs of Lee, Mumford and Huang 2001), clouds, noise, pages and bars. To show
a judge examples of what it shall refuse ("outlier exposure", Hendrycks et al. 2019) makes it find what tells the kinds
apart, which distances from the known alone do not. And known pictures are shown in other settings of a scanner
(`varied`), since real ones are never set as those of the training.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

__all__ = ["stranger", "varied"]

Picture = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]
Rng = np.random.Generator


def stranger(number: int, size: tuple[int, int]) -> Picture:
    """One of endlessly many pictures uint8 (H, W, 3), the same for the same number."""
    rng = np.random.default_rng([0x5354, number])
    kinds, chances = zip(*_KINDS, strict=True)
    return kinds[int(rng.choice(len(kinds), p=chances))](rng, size)


def varied(picture: Picture, rng: Rng) -> Picture:
    """A picture (H, W, 3) as another scanner might have shown it: depth, smoothing, gain, ground, compression."""
    height, width = picture.shape[:2]
    if rng.random() < 0.4:  # less depth
        zoom = rng.uniform(1, 2)
        rows, columns = max(1, int(height / zoom)), max(1, int(width / zoom))
        top, left = int(rng.integers(0, height - rows + 1)), int(rng.integers(0, width - columns + 1))
        part = np.ascontiguousarray(picture[top : top + rows, left : left + columns])
        picture = cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR)
    image = picture.astype(np.float32)
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), sigmaX=rng.uniform(0.3, 1.8), sigmaY=rng.uniform(0.3, 1.3))
    if rng.random() < 0.4:
        image = _coarser(image, rng.uniform(1, 2.5))
    image = 255 * np.clip(image / 255, 0, 1) ** np.exp(rng.uniform(-0.4, 0.8)) * np.exp(rng.uniform(-0.4, 0.3))
    if rng.random() < 0.5:
        image = np.clip(image - rng.uniform(0, 20), 0, None) * rng.uniform(1, 1.5)
    if rng.random() < 0.3:
        image[_ground(picture)] = rng.uniform(0, 60)
    found = np.clip(image, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, coded = cv2.imencode(".jpg", found, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])
        found = np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR), np.uint8)
    return found


def _ground(picture: Picture) -> npt.NDArray[np.bool_]:
    """Where (H, W) nothing is shown, nor ever will be: large black areas."""
    black = (picture.max(axis=2) <= 4).astype(np.uint8)
    return cv2.morphologyEx(black, cv2.MORPH_OPEN, np.ones((9, 9), np.uint8)) > 0


def _coarser(image: npt.NDArray[np.float32], factor: float) -> Field:
    """An image of fewer pixels, enlarged again."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (max(1, int(width / factor)), max(1, int(height / factor))), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)


def _field(rng: Rng, size: tuple[int, int], cells: int, channels: int = 1) -> Field:
    """A smooth random field (H, W, channels) of about unit variance."""
    coarse = rng.standard_normal((cells + 3, cells + 3, channels)).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).reshape(*size, channels)


def _blob(rng: Rng, size: tuple[int, int], centre: tuple[float, float], radius: float, share: float = 1.0) -> Picture:
    """0 or 1 (H, W) of a smooth closed shape around (y, x); of a share of its radius, for what lies within it."""
    angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    outline = 1 + sum(rng.normal(0, 0.12) / k * np.cos(k * angles + rng.uniform(0, 2 * np.pi)) for k in range(2, 7))
    tall, wide = np.exp(rng.normal(0, 0.3, 2))
    tilt = rng.uniform(0, np.pi)
    u, v = radius * share * outline * wide * np.cos(angles), radius * share * outline * tall * np.sin(angles)
    x = centre[1] + u * np.cos(tilt) - v * np.sin(tilt)
    y = centre[0] + u * np.sin(tilt) + v * np.cos(tilt)
    canvas = np.zeros(size, np.uint8)
    cv2.fillPoly(canvas, [np.stack((x, y), -1).round().astype(np.int32)], 1)
    return canvas


def _grey(image: npt.NDArray[np.floating]) -> Picture:
    """(H, W) -> uint8 (H, W, 3)."""
    return np.repeat(np.clip(image, 0, 255).astype(np.uint8)[..., None], 3, axis=2)


def _windowed(rng: Rng, image: npt.NDArray[np.floating]) -> Picture:
    """(H, W) of any values, as a viewer's window shows it."""
    low, high = np.percentile(image, (rng.uniform(0, 5), rng.uniform(95, 100)))
    return _grey(255 * np.clip((image - low) / max(high - low, 1e-3), 0, 1) ** np.exp(rng.uniform(-0.4, 0.6)))


def _slice(rng: Rng, size: tuple[int, int]) -> Picture:
    """A cut through a body, with the noise of CT or of MR."""
    height, width = size
    centre = height * rng.uniform(0.4, 0.6), width * rng.uniform(0.4, 0.6)
    radius = height * rng.uniform(0.3, 0.75)
    seed = int(rng.integers(0, 2**31))
    shell = 1 - (rng.uniform(0.02, 0.15) if rng.random() < 0.6 else 0.0)  # skin, or a skull
    body, inner = (_blob(np.random.default_rng(seed), size, centre, radius, share) for share in (1.0, shell))
    image = np.zeros(size, np.float32)
    image[body > 0] = rng.uniform(20, 230) if rng.random() < 0.5 else rng.uniform(180, 255)
    image[inner > 0] = rng.uniform(20, 230)
    for _ in range(int(rng.integers(3, 25))):
        at = centre[0] + rng.normal(0, 0.4) * radius, centre[1] + rng.normal(0, 0.4) * radius
        seed, extent = int(rng.integers(0, 2**31)), radius * np.exp(rng.uniform(np.log(0.03), np.log(0.45)))
        organ = (_blob(np.random.default_rng(seed), size, at, extent) & inner) > 0
        if not organ.any():
            continue
        near = rng.random() < 0.3  # of nearly the same level as what is around it
        image[organ] = np.clip(image[organ].mean() + rng.normal(0, 15), 0, 255) if near else rng.uniform(20, 230)
        if rng.random() < 0.3:  # with a wall
            image[(_blob(np.random.default_rng(seed), size, at, extent, 0.8) & inner) > 0] = rng.uniform(20, 230)
    image *= 1 + rng.uniform(0, 0.15) * _field(rng, size, int(rng.integers(4, 40)))[..., 0]
    if rng.random() < 0.5:  # a coil is nearer to one side
        image *= np.clip(1 + rng.uniform(0, 0.3) * _field(rng, size, 2)[..., 0], 0.2, 2)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 2.5))
    grain = cv2.GaussianBlur(rng.standard_normal(size).astype(np.float32), (0, 0), rng.uniform(0.3, 1.2))
    grain *= rng.uniform(0, 9) / grain.std()
    if rng.random() < 0.5:  # a magnitude has Rician noise
        image = np.hypot(image + grain, grain.std() * rng.standard_normal(size).astype(np.float32))
    else:
        image = image + grain * (image > (3 if rng.random() < 0.5 else -1))
    if rng.random() < 0.5:
        image = _coarser(image.astype(np.float32), np.exp(rng.uniform(0, np.log(4))))
    return _windowed(rng, image)


def _radiograph(rng: Rng, size: tuple[int, int]) -> Picture:
    """Soft shapes behind each other."""
    height, width = size
    small = max(1, width // 2), max(1, height // 2)  # where blurring is cheap
    image = np.zeros(size, np.float32)
    for _ in range(int(rng.integers(3, 20))):
        radius = height * np.exp(rng.uniform(np.log(0.03), np.log(0.6)))
        shape = _blob(rng, size, (height * rng.uniform(0, 1), width * rng.uniform(0, 1)), radius).astype(np.float32)
        edge = max(0.4, radius * rng.uniform(0.02, 0.2))
        soft = cv2.GaussianBlur(cv2.resize(shape, small), (0, 0), edge)
        image += rng.normal(0.3, 1) * cv2.resize(soft, (width, height))
    image += rng.uniform(0, 0.3) * _field(rng, size, int(rng.integers(4, 60)))[..., 0]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2))
    noise = rng.uniform(0, 0.08) * float(image.std()) * rng.standard_normal(size).astype(np.float32)
    return _windowed(rng, image + noise)


def _leaves(rng: Rng, size: tuple[int, int]) -> Picture:
    """Shapes of all sizes that cover each other, as things do in photographs."""
    height, width = size
    canvas = np.zeros((*size, 3), np.uint8)
    coloured = rng.random() < 0.5
    for _ in range(int(rng.integers(60, 400))):
        radius = int(np.clip(3 * (1 - rng.random()) ** -0.7, 3, max(4, height / 2)))
        levels = rng.integers(0, 256, 3) if coloured else np.repeat(rng.integers(0, 256), 3)
        ink = tuple(int(v) for v in levels)
        at = int(rng.integers(0, width)), int(rng.integers(0, height))
        other = max(2, int(radius * rng.uniform(0.3, 1)))
        if rng.random() < 0.6:
            cv2.ellipse(canvas, at, (radius, other), rng.uniform(0, 180), 0, 360, ink, -1)
        else:
            corners = cv2.boxPoints((at, (2 * radius, 2 * other), rng.uniform(0, 90)))
            cv2.fillConvexPoly(canvas, corners.astype(np.int32), ink)
    image = canvas * (1 + rng.uniform(0, 0.25) * _field(rng, size, int(rng.integers(2, 60))))
    image += rng.uniform(0, 8) * rng.standard_normal((*size, 1))
    return np.clip(cv2.GaussianBlur(image.astype(np.float32), (0, 0), rng.uniform(0.3, 1.5)), 0, 255).astype(np.uint8)


def _clouds(rng: Rng, size: tuple[int, int]) -> Picture:
    """Fields of all sizes, grey or coloured."""
    image = np.zeros((*size, 3), np.float32)
    steepness, channels = rng.uniform(0.4, 1.3), 3 if rng.random() < 0.5 else 1
    for cells in (2, 4, 8, 16, 32, 64, 128):
        image += _field(rng, size, cells, channels) / cells**steepness
    return np.clip(128 + rng.uniform(30, 90) * image / image.std(), 0, 255).astype(np.uint8)


def _noise(rng: Rng, size: tuple[int, int]) -> Picture:
    """Noise that is new in every pixel."""
    shape = (*size, 3 if rng.random() < 0.5 else 1)
    if rng.random() < 0.5:
        image = rng.integers(0, int(rng.integers(60, 257)), shape).astype(np.float64)
    else:
        image = rng.uniform(20, 200) + rng.uniform(10, 80) * rng.standard_normal(shape)
    return np.broadcast_to(np.clip(image, 0, 255).astype(np.uint8), (*size, 3)).copy()


def _page(rng: Rng, size: tuple[int, int]) -> Picture:
    """Lines of text, and boxes: a report, or a menu."""
    height, width = size
    dark = rng.random() < 0.5
    canvas = np.full((*size, 3), rng.integers(0, 40) if dark else rng.integers(200, 256), np.uint8)
    ink = tuple(int(v) for v in (rng.integers(150, 256, 3) if dark else rng.integers(0, 100, 3)))
    scale = rng.uniform(0.25, 0.9)
    for y in range(int(rng.integers(5, 30)), height, int(rng.uniform(22, 45) * scale) + 4):
        if rng.random() < 0.12:
            continue
        text = "".join(rng.choice(list("abcdefghijklmno pqrstuvw xyz ABC0123"), int(rng.integers(5, 70))))
        at = int(rng.integers(2, 40)), y
        cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, 1 if scale < 0.6 else 2, cv2.LINE_AA)
    for _ in range(int(rng.integers(0, 6))):
        one, other = ((int(rng.integers(0, width)), int(rng.integers(0, height))) for _ in range(2))
        fill = tuple(int(v) for v in rng.integers(0, 256, 3))
        cv2.rectangle(canvas, one, other, fill, -1 if rng.random() < 0.5 else 1)
    return canvas


def _bars(rng: Rng, size: tuple[int, int]) -> Picture:
    """Bars of colours or greys, or the passage between them, across or down."""
    colours = rng.integers(0, 256, (int(rng.integers(2, 20)), 3)).astype(np.uint8)
    if rng.random() < 0.3:
        colours[:, 1:] = colours[:, :1]
    sharp = rng.random() < 0.6
    row = colours[None] if rng.random() < 0.6 else colours[:, None]
    return cv2.resize(row, size[::-1], interpolation=cv2.INTER_NEAREST if sharp else cv2.INTER_LINEAR).astype(np.uint8)


# With the chance of each. Half are slices, which are the hardest to tell from echoes.
_KINDS: tuple[tuple[Callable[[Rng, tuple[int, int]], Picture], float], ...] = (
    (_slice, 0.5),
    (_radiograph, 0.1),
    (_leaves, 0.12),
    (_clouds, 0.08),
    (_noise, 0.08),
    (_page, 0.07),
    (_bars, 0.05),
)
