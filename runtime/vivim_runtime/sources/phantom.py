"""`phantom:` as a source: synthetic ultrasound, for trying things out where there is no scanner."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from urllib.parse import parse_qsl

from vivim_runtime.errors import SourceError
from vivim_runtime.phantom import PhantomSpec, phantom_frames
from vivim_runtime.sources.base import Frame

__all__ = ["PhantomSource", "spec_from_uri"]

_EXAMPLE = "phantom:?seed=1&frames=90&size=480x640&fps=25"


def spec_from_uri(uri: str) -> PhantomSpec:
    """The phantom that `phantom:?seed=1&frames=90&size=480x640&fps=25` names; every key is optional.

    Raises:
        SourceError: for an unknown key or a value that is no number.
    """
    values: dict[str, str] = dict(parse_qsl(uri.removeprefix("phantom:").lstrip("?"), keep_blank_values=True))
    unknown = sorted(set(values) - {"seed", "frames", "size", "fps"})
    if unknown:
        raise SourceError(f"{uri}: unknown {', '.join(unknown)}; expected something like {_EXAMPLE}")
    try:
        sides = [int(side) for side in values.get("size", "256x256").lower().split("x")]
        return PhantomSpec(
            seed=int(values.get("seed", "0")),
            frames=int(values.get("frames", "90")),
            size=(sides[0], sides[-1]) if len(sides) < 3 else (0, 0),
            fps=float(values.get("fps", "25")),
        )
    except ValueError:
        raise SourceError(f"{uri} has a value that is no number; expected something like {_EXAMPLE}") from None


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
