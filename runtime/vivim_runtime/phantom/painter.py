"""Everything that a scanner's screen shows besides the picture: letters, bars, scales, marks, menus, traces.

It is painted in the screen's own pixels, colour and cover apart, and squeezed with the screen. Most of it stands still
and is painted once; a clock, the electrocardiogram, the gain and the freeze mark change with time.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from vivim_runtime.phantom.layouts import Layout

__all__ = ["Painter"]

Field = npt.NDArray[np.float32]
Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]

_FAMILY = ("DOE", "SMITH", "MUELLER", "GARCIA", "TANAKA", "ROSSI", "NOVAK", "LEE", "SILVA", "DUBOIS")
_GIVEN = ("JANE", "JOHN", "ANNA", "MARIA", "KENJI", "LUCA", "EVA", "PAUL", "RUTH", "OMAR")
_PLACES = ("ST MARY HOSPITAL", "CITY CLINIC", "UNIV MED CTR", "DEPT OF RADIOLOGY", "WOMENS HEALTH", "ECHO LAB 2")
_PRESETS = ("Breast", "Thyroid", "Abd Gen", "OB 2/3", "Small Parts", "Adult Echo", "MSK", "Renal", "Lymph Node")
_KEYS = ("Gain", "Depth", "Focus", "Freq", "THI", "Dyn R", "MB Off", "Sector", "Page 1/3", "Biopsy", "Text", "Print")
_TITLES = ("LYMPH NODE", "RT LOBE TRANS", "LEFT BREAST 2:00", "LIVER SAG", "A4C", "PLAX", "MASS", "NODULE 1")


class Painter:
    """One screen.

    Args:
        seed: of the phantom; what is painted follows from it.
        layout: what there is.
        canvas: height and width of the screen, in its own pixels.
        rectangle: the picture's, x, y, width and height.
        depth_mm: of the picture.
        gain_db: of the scanner, before the user changes it.
    """

    def __init__(
        self, seed: int, layout: Layout, canvas: tuple[int, int], rectangle: Box, depth_mm: float, gain_db: float
    ) -> None:
        self._rng = np.random.default_rng([seed, 0x5061])
        self._layout = layout
        self._height, self._width = canvas
        self._rectangle = rectangle
        self._gain_db = gain_db
        self._line = max(1, round(self._height / 720))
        self._ink = np.zeros((*canvas, 3), np.uint8)
        self._cover = np.zeros(canvas, np.uint8)
        self._squeezed: tuple[Field, Field] | None = None
        self._gain_at: tuple[int, int] | None = None
        self._clock_at: tuple[int, int] | None = None
        self._start = int(self._rng.integers(0, 86_400))
        self._rate = float(self._rng.uniform(0.9, 1.8))  # heart beats a second
        self._header()
        self._keys()
        self._settings(depth_mm)
        self._scales(depth_mm)
        self._marks()
        self._ecg: Box | None = None
        if self._rng.random() < layout.ecg:
            x, y, columns, rows = rectangle
            low = min(y + int(0.95 * rows), self._height - int(0.1 * self._height))
            self._ecg = (x, low, columns, int(0.075 * self._height))

    def at(self, time: float, gain_db: float, frozen: bool, view: Box, size: tuple[int, int]) -> tuple[Field, Field]:
        """Colour times cover, (H, W, 3), and cover of 0..1, (H, W, 1), of a view of the screen at a time in seconds.

        Args:
            gain_db: what the user has turned the gain up by.
            frozen: whether the picture stands still.
            view: the part of the screen, x, y, width and height in its own pixels; the same in every call.
            size: (H, W) that the view is squeezed to; the same in every call.
        """
        if self._squeezed is None:
            self._squeezed = self._shrunk(self._ink, self._cover, (0, 0), view, size)
        ink, cover = self._squeezed
        boxes = self._moving(time, gain_db, frozen)
        if not boxes:
            return ink, cover
        ink, cover = ink.copy(), cover.copy()
        for (x, y, columns, rows), paint, over in boxes:
            # Whole pixels of the squeezed view, so that a moving part can be squeezed alone.
            zoom = size[0] / view[3], size[1] / view[2]
            top, left = int((y - view[1]) * zoom[0]), int((x - view[0]) * zoom[1])
            bottom, right = int((y + rows - view[1]) * zoom[0]), int((x + columns - view[0]) * zoom[1])
            up, back = max(top, 0), max(left, 0)
            down, on = min(bottom, size[0]), min(right, size[1])
            if down <= up or on <= back:
                continue
            own = (right - left, bottom - top)
            small = cv2.resize(paint, own, interpolation=cv2.INTER_AREA)[up - top : down - top, back - left : on - left]
            part = cv2.resize(over, own, interpolation=cv2.INTER_AREA)[up - top : down - top, back - left : on - left]
            share = part[..., None].astype(np.float32) / 255
            place = (slice(up, down), slice(back, on))
            ink[place] = ink[place] * (1 - share) + small
            cover[place] = 1 - (1 - cover[place]) * (1 - share)
        return ink, cover

    @staticmethod
    def _shrunk(
        ink: npt.NDArray[np.uint8], cover: npt.NDArray[np.uint8], at: tuple[int, int], view: Box, size: tuple[int, int]
    ) -> tuple[Field, Field]:
        x, y, columns, rows = view
        part = (slice(y - at[1], y - at[1] + rows), slice(x - at[0], x - at[0] + columns))
        colour = cv2.resize(ink[part].astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA)
        over = cv2.resize(cover[part].astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) / 255
        return colour, over[..., None]

    # What stands still.

    def _write(self, text: str, at: tuple[float, float], colour: Colour, scale: float = 1.0) -> tuple[int, int]:
        """Letters with their lower left corner at (x, y) in the screen's pixels; where they end."""
        tall = self._layout.text * self._height * scale
        font = self._layout.font
        size = self._font_size(tall)
        corner = (round(at[0]), round(at[1]))
        cv2.putText(self._ink, text, corner, font, size, colour, self._line, cv2.LINE_AA)
        cv2.putText(self._cover, text, corner, font, size, 255, self._line, cv2.LINE_AA)
        width = cv2.getTextSize(text, font, size, self._line)[0][0]
        return corner[0] + width, corner[1]

    def _font_size(self, tall: float) -> float:
        """OpenCV's scale of letters of a height in pixels."""
        return tall / cv2.getTextSize("E", self._layout.font, 10.0, 1)[0][1] * 10

    def _panel(self, box: tuple[float, float, float, float], colour: Colour, edge: Colour | None = None) -> None:
        x0, y0, x1, y1 = (round(v) for v in box)
        for canvas, value in ((self._ink, colour), (self._cover, 255)):
            cv2.rectangle(canvas, (x0, y0), (x1, y1), value, -1)
        if edge is not None:
            cv2.rectangle(self._ink, (x0, y0), (x1, y1), edge, self._line)

    def _stroke(self, start: tuple[float, float], end: tuple[float, float], colour: Colour, line: int = 0) -> None:
        for canvas, value in ((self._ink, colour), (self._cover, 255)):
            cv2.line(
                canvas, (round(start[0]), round(start[1])), (round(end[0]), round(end[1])), value, line or self._line,
                cv2.LINE_AA,
            )  # fmt: skip

    def _header(self) -> None:
        layout, rng, h, w = self._layout, self._rng, self._height, self._width
        if layout.header == "none":
            return
        tall = layout.header_height * h
        ink = layout.ink
        if layout.header == "bar":
            self._panel((0, 0, w, tall), layout.panel)
        name = f"{rng.choice(_FAMILY)}, {rng.choice(_GIVEN)}"
        number = f"{rng.integers(10, 99)}-{rng.integers(10, 99)}-{rng.integers(100000, 999999)}"
        day = f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/{rng.integers(1998, 2025)}"
        place, preset = str(rng.choice(_PLACES)), str(rng.choice(_PRESETS))
        index = f"MI {rng.uniform(0.4, 1.5):.1f}  TIs {rng.uniform(0.0, 1.2):.1f}"
        letters = layout.text * h
        rows = max(1, int((tall - 0.3 * letters) / (1.7 * letters)))
        self._logo((0.012 * w, 0.25 * letters), 1.6 * letters)
        left = 0.012 * w + 7 * letters
        for row in range(rows):
            y = (1.5 + 1.7 * row) * letters
            self._write((name, number, preset, place, "IM#" + number[:2])[row % 5], (left, y), ink)
            if row < 2 or layout.header == "lines":
                self._write((place, index, number, preset)[row % 4], (0.45 * w, y), ink)
            end = (day, index, f"CINE {rng.integers(1, 200):04d}", "78DR78")[row % 4]
            reached, _ = self._write(end, (0.78 * w, y), ink)
            if row == 0 and rng.random() < 0.7:
                self._clock_at = (reached + round(0.01 * w), round(y))

    def _logo(self, at: tuple[float, float], tall: float) -> None:
        x, y = at
        kind = self._rng.integers(0, 3)
        accent = self._layout.accent
        centre = (round(x + 1.3 * tall), round(y + tall / 2))
        if kind == 0:
            for canvas, value in ((self._ink, accent), (self._cover, 255)):
                cv2.ellipse(canvas, centre, (round(1.2 * tall), round(0.5 * tall)), 0, 0, 360, value, -1, cv2.LINE_AA)
            cv2.ellipse(self._ink, centre, (round(0.9 * tall), round(0.3 * tall)), 0, 0, 360, (20, 20, 30), -1)
        elif kind == 1:
            self._write(
                str(self._rng.choice(["SONIX", "Echora", "VUE", "ULTRA S"])), (x, y + 0.85 * tall), accent, 1.25
            )
        else:
            self._panel((x, y, x + 1.1 * tall, y + tall), accent)
            self._stroke((x, y + tall), (x + 1.1 * tall, y), (20, 20, 30), 2 * self._line)

    def _keys(self) -> None:
        layout, rng, h, w = self._layout, self._rng, self._height, self._width
        if not layout.keys:
            return
        dim = tuple(int(0.75 * v) for v in layout.ink)
        colour = (dim[0], dim[1], dim[2])
        edge = tuple(min(255, v + 40) for v in layout.panel)
        rim = (edge[0], edge[1], edge[2])
        names = [str(name) for name in rng.permutation(_KEYS)]
        if layout.keys == "bottom":
            count = int(rng.integers(4, 8))
            x0, x1, y0, y1 = 0.1 * w, 0.9 * w, 0.935 * h, 0.985 * h
            for k in range(count):
                left = x0 + (x1 - x0) * k / count
                self._panel((left, y0, left + (x1 - x0) / count - 2, y1), layout.panel, rim)
                self._write(names[k], (left + 0.012 * w, y0 + 0.68 * (y1 - y0)), colour, 0.9)
            return
        x0, x1 = (0.82 * w, 0.99 * w) if layout.keys == "right" else (0.01 * w, 0.2 * w)
        self._panel((x0, 0.07 * h, x1, 0.97 * h), tuple(v // 2 for v in layout.panel))  # type: ignore[arg-type]
        for k in range(int(rng.integers(6, 11))):
            y = (0.09 + 0.082 * k) * h
            self._panel((x0 + 0.01 * w, y, x1 - 0.01 * w, y + 0.06 * h), layout.panel, rim)
            self._write(names[k % len(names)], (x0 + 0.02 * w, y + 0.042 * h), colour)

    def _settings(self, depth_mm: float) -> None:
        layout, rng, h, w = self._layout, self._rng, self._height, self._width
        step = 1.75 * layout.text * h
        for side in layout.columns:
            lines = [
                str(rng.choice(_PRESETS)), f"{rng.choice(['C5-1', 'L12-4', 'S5-1', '12L', 'M5S'])}",
                f"FR {rng.integers(12, 68)}Hz", f"{depth_mm / 10:.0f}cm", "2D", " HGen", f" C {rng.integers(40, 70)}",
                f" DR {rng.integers(50, 80)}", "Map E", f"AO {rng.integers(50, 101)}%", f"P {rng.integers(1, 9)}",
            ]  # fmt: skip
            lines = lines[: int(rng.integers(4, len(lines) + 1))]
            keyed = 0.21 if layout.keys == "left" else 0.012
            x = keyed * w if side == "left" else (0.905 if layout.keys != "right" else 0.79) * w
            y = max(layout.header_height * h, 0.05 * h) + 1.6 * step
            y += rng.uniform(0, 0.1) * h
            for number, text in enumerate(lines):
                if side == "left" and number == 5:
                    self._gain_at = (round(x), round(y))
                    y += step
                self._write(text, (x, y), layout.ink)
                y += step
        if rng.random() < 0.6:
            left, y, columns, rows = self._rectangle
            text = str(rng.choice(_TITLES))
            below = y + rows + 1.6 * layout.text * h < 0.92 * h
            place = y + rows + 1.4 * layout.text * h if below else y + rows - 1.2 * layout.text * h
            self._write(text, (left + columns * rng.uniform(0.05, 0.6), place), layout.ink, float(rng.uniform(1, 1.3)))

    def _scales(self, depth_mm: float) -> None:
        layout, rng, h, w = self._layout, self._rng, self._height, self._width
        x, y, columns, rows = self._rectangle
        per_mm = rows / depth_mm
        gap = 0.012 * w
        places = {"left": x - 2 * gap, "right": x + columns + gap}
        places = {side: min(max(place, 0.006 * w), 0.985 * w) for side, place in places.items()}
        if layout.ruler:
            at, out = places[layout.ruler], 1 if layout.ruler == "right" else -1
            style = rng.integers(0, 3)
            for mark in range(int(depth_mm // 5) + 1):
                down = y + mark * 5 * per_mm
                whole = mark % 2 == 0
                if style == 0:
                    self._panel((at, down - self._line, at + self._line, down + self._line), layout.ink)
                if style > 0 or whole:
                    self._stroke((at, down), (at + out * (0.008 if whole else 0.004) * w, down), layout.ink)
                if whole and mark % 4 == 0 and style == 2:
                    self._write(
                        f"{mark // 2}", (at + out * 0.012 * w - (0.01 * w if out < 0 else 0), down), layout.ink, 0.8
                    )
            focus = y + rows * rng.uniform(0.3, 0.7)
            tip = np.array(
                [[at, focus], [at + out * 0.01 * w, focus - 0.008 * h], [at + out * 0.01 * w, focus + 0.008 * h]]
            )
            for canvas, value in ((self._ink, layout.accent), (self._cover, 255)):
                cv2.fillConvexPoly(canvas, np.rint(tip).astype(np.int32), value, cv2.LINE_AA)
        if layout.width_ruler:
            down = min(y + rows + 0.012 * h, 0.985 * h)
            self._stroke((x, down), (x + columns, down), layout.accent)
            for mark in range(int(columns / per_mm // 10) + 1):
                self._stroke((x + mark * 10 * per_mm, down - 0.006 * h), (x + mark * 10 * per_mm, down), layout.ink)
        if layout.bar:
            at = places[layout.bar] + (0.016 * w if layout.bar == "right" else -0.016 * w)
            at = min(max(at, 0.004 * w), 0.982 * w)
            tall, top = int(rng.uniform(0.14, 0.4) * h), int(max(y, layout.header_height * h) + 0.02 * h)
            wide = max(2, round(0.012 * w))
            steps = np.linspace(255, 0, tall)
            coloured = rng.random() < 0.2
            tone = np.array([1.0, 0.8, 0.45]) if coloured else np.ones(3)
            part = (slice(top, top + tall), slice(round(at), round(at) + wide))
            self._ink[part] = (steps[:, None, None] * tone).astype(np.uint8)
            self._cover[part] = 255
            if rng.random() < 0.5:
                box = (round(at), top), (round(at) + wide, top + tall)
                for canvas, value in ((self._ink, layout.ink), (self._cover, 255)):
                    cv2.rectangle(canvas, *box, value, self._line)

    def _marks(self) -> None:
        """What lies over the picture or close to it: the probe's side, calipers, a measured value, a body mark."""
        layout, rng, h, w = self._layout, self._rng, self._height, self._width
        x, y, columns, rows = self._rectangle
        side = (x + columns * rng.uniform(0.0, 0.12), y + rows * rng.uniform(0.0, 0.06))
        radius = round(0.011 * h)
        for canvas, value in ((self._ink, layout.accent), (self._cover, 255)):
            cv2.circle(canvas, (round(side[0]), round(side[1])), radius, value, -1, cv2.LINE_AA)
        self._write(
            str(rng.choice(["P", "V", "S", "M"])), (side[0] - 0.005 * w, side[1] + 0.006 * h), (15, 15, 25), 0.7
        )
        if rng.random() < 0.3:
            ends = rng.uniform(0.25, 0.75, (2, 2)) * (columns, rows) + (x, y)
            colour = layout.accent if rng.random() < 0.6 else (240, 230, 80)
            for px, py in ends:
                self._stroke((px - 0.008 * h, py), (px + 0.008 * h, py), colour)
                self._stroke((px, py - 0.008 * h), (px, py + 0.008 * h), colour)
            for share in np.linspace(0, 1, 24)[1:-1]:
                px, py = ends[0] + share * (ends[1] - ends[0])
                self._panel((px, py, px, py), colour)
            measured = f"+ Dist  {rng.uniform(0.4, 9):.2f} cm"
            corner = (0.02 * w, 0.9 * h) if rng.random() < 0.5 else (x + 0.62 * columns, y + 0.97 * rows)
            self._write(measured, corner, colour)
        if rng.random() < 0.3:
            left, top = x + 0.02 * columns, y + rows - 0.09 * h
            for canvas, value in ((self._ink, layout.ink), (self._cover, 255)):
                centre = (round(left + 0.03 * h), round(top + 0.03 * h))
                cv2.ellipse(
                    canvas, centre, (round(0.03 * h), round(0.036 * h)), 0, 0, 360, value, self._line, cv2.LINE_AA
                )
            self._stroke(
                (left + 0.03 * h, top + 0.02 * h), (left + 0.05 * h, top + 0.035 * h), layout.accent, 2 * self._line
            )
        if layout.inside and rng.random() < 0.5:
            for row in range(int(rng.integers(1, 4))):
                text = f"{rng.choice(_KEYS)} {rng.integers(1, 99)}"
                self._write(text, (x + 0.02 * columns, y + (row + 1.5) * 1.6 * layout.text * h), layout.ink)

    # What changes.

    def _moving(self, time: float, gain_db: float, frozen: bool) -> list[tuple[Box, Field, Field]]:
        """Boxes of the screen with their colour times cover and cover (0..255), float32, at a time."""
        layout = self._layout
        boxes = []
        tall = round(2 * layout.text * self._height)
        if self._clock_at is not None:
            seconds = self._start + int(time)
            text = f"{seconds // 3600 % 24:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
            boxes.append(self._patch(text, self._clock_at, tall, layout.ink))
        if self._gain_at is not None:
            boxes.append(self._patch(f" Gn {round(60 + self._gain_db + gain_db)}", self._gain_at, tall, layout.ink))
        if frozen:
            x, y, columns, rows = self._rectangle
            boxes.append(self._patch("FROZEN", (round(x + 0.8 * columns), y + rows), tall, layout.accent))
        if self._ecg is not None:
            boxes.append(self._trace(self._ecg, time))
        return boxes

    def _patch(self, text: str, at: tuple[int, int], tall: int, colour: Colour) -> tuple[Box, Field, Field]:
        size = self._font_size(self._layout.text * self._height)
        wide = cv2.getTextSize(text, self._layout.font, size, self._line)[0][0] + 4
        ink, cover = np.zeros((tall, wide, 3), np.uint8), np.zeros((tall, wide), np.uint8)
        corner = (1, round(0.75 * tall))
        cv2.putText(ink, text, corner, self._layout.font, size, colour, self._line, cv2.LINE_AA)
        cv2.putText(cover, text, corner, self._layout.font, size, 255, self._line, cv2.LINE_AA)
        return (at[0], at[1] - corner[1], wide, tall), ink.astype(np.float32), cover.astype(np.float32)

    def _trace(self, box: Box, time: float) -> tuple[Box, Field, Field]:
        """An electrocardiogram that is swept from left to right, three seconds a sweep."""
        _, _, columns, rows = box
        now = time / 3.0 % 1.0
        share = np.arange(0, columns, 2) / columns
        ago = (now - share) % 1.0  # since this place was drawn, in sweeps
        when = time - ago * 3.0
        phase = when * self._rate % 1.0
        beat = np.exp(-(((phase - 0.3) / 0.012) ** 2)) - 0.25 * np.exp(-(((phase - 0.34) / 0.015) ** 2))
        beat += 0.16 * np.exp(-(((phase - 0.15) / 0.03) ** 2)) + 0.25 * np.exp(-(((phase - 0.6) / 0.05) ** 2))
        level = rows * (0.8 - 0.65 * beat)
        points = np.rint(np.stack([share * columns, level], axis=1)).astype(np.int32)
        ink, cover = np.zeros((rows, columns, 3), np.uint8), np.zeros((rows, columns), np.uint8)
        gap = int(np.searchsorted(share, now))
        for part in (points[: max(gap, 1)], points[min(gap + 8, len(points) - 1) :]):
            cv2.polylines(ink, [part], False, (90, 220, 110), self._line, cv2.LINE_AA)
            cv2.polylines(cover, [part], False, 255, self._line, cv2.LINE_AA)
        return box, ink.astype(np.float32), cover.astype(np.float32)
