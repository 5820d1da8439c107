"""A model that sees every clip twice, as it is and in the mirror, and says the mean of both, in twice the time."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np

from vivim_runtime.sessions.base import Clips, Logits, ModelInfo, Outlining, Session

__all__ = ["FlippedSession"]


class FlippedSession:
    """A session whose logits are the mean of those of a clip and of its mirror image (left to right), turned back.

    It holds nothing of its own: whoever opened the session closes it, here or there.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.backend, self.device = session.backend, session.device

    @property
    def info(self) -> ModelInfo:
        return self._session.info

    def with_outlines(self) -> Session | None:
        """The same with outlines; None where the session has none."""
        outlined = self._session.with_outlines() if isinstance(self._session, Outlining) else None
        return None if outlined is None else FlippedSession(outlined)

    def __call__(self, clips: Clips) -> Logits:
        """Two calls of the model: its batch may be fixed."""
        return _mean(self._session(clips), self._session(_mirrored(clips)))

    def step(self, frames: Clips, states: Any) -> tuple[Logits, Any]:
        """One more frame of two films; `states` are those of both."""
        first, second = states if states is not None else (None, None)
        logits, first = self._session.step(frames, first)
        turned, second = self._session.step(_mirrored(frames), second)
        return _mean(logits, turned), (first, second)

    def warm_up(self) -> None:
        self._session.warm_up()

    def __enter__(self) -> FlippedSession:
        self._session.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.__exit__(kind, error, trace)


def _mirrored(clips: Clips) -> Clips:
    """(B, T, H, W, 3), left to right."""
    return np.ascontiguousarray(clips[:, :, :, ::-1])


def _mean(logits: Logits, turned: Logits) -> Logits:
    """(B, T, K, H, W) of a clip and of its mirror image."""
    return (logits + turned[..., ::-1]) * np.float32(0.5)
