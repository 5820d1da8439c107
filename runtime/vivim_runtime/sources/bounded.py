"""Files that are read no further than they go: a damaged header must not ask for all memory."""

from __future__ import annotations

import io
from pathlib import Path

__all__ = ["BoundedFile"]


class BoundedFile(io.BufferedReader):
    """A file of which a damaged header asks for more than it holds: Python would set all that memory aside first."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(str(path)))  # libraries want the name as text
        self._size = path.stat().st_size

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))
