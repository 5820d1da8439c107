"""Which part of the pictures the model sees: as the run was told, or as people have drawn it since."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from vivim_runtime.contract import InputContract
from vivim_runtime.finding import RegionFinder
from vivim_runtime.framing import Views
from vivim_runtime.live.status import Controls
from vivim_runtime.locating import LOOKED_AT, Finder, find_region, regions_of
from vivim_runtime.regions import AUTO, Region, RegionRule
from vivim_runtime.sources.base import Frame, Image, LiveSource

__all__ = ["Seeing"]


class Seeing:
    """Views of the frames; used in the inference's thread, `current` and `message` in all.

    A region that is to be found is looked for in the first frames, and again in pictures of another size. Until then
    nothing is inferred. Once it is found, it is watched: where the scanner's screen changes its layout, the region
    follows (vivim_runtime.finding.RegionFinder).

    Attributes:
        current: of the newest clip; None before the first.
        message: what is being done about a region that is not found yet; "" else.
    """

    def __init__(
        self,
        contract: InputContract,
        rule: RegionRule | None,
        source: LiveSource,
        controls: Controls,
        finder: Finder = find_region,
    ) -> None:
        self._contract, self._rule, self._source = contract, rule or contract.rule, source
        self._controls, self._finder = controls, finder
        self._known: tuple[tuple[int, int], Region | None] | None = None  # size and drawn region of `current`
        self._watch: RegionFinder | None = None
        self._watched = -1  # index of the newest frame that the watch has seen
        self._looked_at: OrderedDict[int, Image] = OrderedDict()
        self.current: Views | None = None
        self.message = ""

    @property
    def rule(self) -> str:
        """For people: where the region comes from."""
        return "drawn by hand" if self._controls.region is not None else str(self._rule)

    @property
    def drawn(self) -> Region | None:
        """What people have drawn; None without."""
        return self._controls.region

    def views(self, frames: Sequence[Frame]) -> Views | None:
        """How the frames of a clip are seen; None while the region is being looked for.

        Raises:
            UsageError: the region lies beyond the picture, or the source has none.
        """
        image, drawn = frames[-1].image, self._controls.region
        size = (image.shape[0], image.shape[1])
        if self._known == (size, drawn):
            if drawn is None and self._watch is not None:
                self._follow(frames, self._watch)
            return self.current
        if drawn is not None and drawn.fits(size):
            regions: tuple[Region, ...] = (drawn,)
        elif self._rule.kind == AUTO:
            found = self._look(frames, size)
            if found is None:
                return None
            regions, self._watch = (found,), RegionFinder.of(found)
        else:
            regions = regions_of(self._rule, self._source, size, self._source.name, tuple)
        self._known, self.current, self.message = (size, drawn), Views.of(self._contract, regions), ""
        return self.current

    def _follow(self, frames: Sequence[Frame], watch: RegionFinder) -> None:
        """Another region, where the screen shows its picture elsewhere now."""
        for frame in frames:
            if frame.index > self._watched:
                self._watched = frame.index
                if watch.add(frame.image) and watch.finding is not None and watch.finding.region is not None:
                    self.current = Views.of(self._contract, (watch.finding.region,))

    def _look(self, frames: Sequence[Frame], size: tuple[int, int]) -> Region | None:
        kept = self._looked_at
        if kept and next(iter(kept.values())).shape[:2] != size:
            kept.clear()
        for frame in frames:
            kept.setdefault(frame.index, frame.image)
        if len(kept) < LOOKED_AT:
            self.message = "looking for the scanner's picture"
            return None
        found = self._finder(list(kept.values()))
        kept.clear()
        if found is None:
            self.message = "no picture of a scanner is found; draw its region, or give --region"
        return found
