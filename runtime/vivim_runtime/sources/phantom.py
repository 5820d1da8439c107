"""`phantom:` as a source: synthetic ultrasound, for trying things out where there is no scanner."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from vivim_runtime.phantom import DRAWN, PhantomName, PhantomSpec, phantom_frames
from vivim_runtime.sources.base import Frame

__all__ = ["PhantomSource", "spec_from_uri"]

_EXAMPLE = "phantom:seed=1,frames=90,size=480x640,fps=25,screen=any"


def spec_from_uri(uri: str) -> PhantomSpec:
    """The phantom that `phantom:seed=1,frames=90,size=480x640,fps=25` names; every key is optional. `trouble`
    hides the lesion for a while (vivim_runtime.phantom.TROUBLES).

    Raises:
        UsageError: an unknown key, a value that is no number, or a phantom that cannot be made.
    """
    name = PhantomName.parse(uri, ("seed", "frames", "size", "fps", *DRAWN), _EXAMPLE)
    return PhantomSpec(
        seed=name.whole("seed", 0),
        frames=name.whole("frames", 90),
        size=name.size("256"),
        fps=name.number("fps", 25.0),
        **name.drawn,
    )


class PhantomSource:
    """A phantom video, made while it is read; its frames know their truth."""

    def __init__(self, uri: str) -> None:
        self.spec = spec_from_uri(uri)
        self.name = uri
        self.size = self.spec.size
        self.fps = self.spec.fps
        self.frame_count: int | None = self.spec.frames
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Frame]:
        for index, (image, truth) in enumerate(phantom_frames(self.spec)):
            yield Frame(index, index / self.fps, image, truth)

    def __enter__(self) -> PhantomSource:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass
