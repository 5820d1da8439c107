"""What films remember on a GPU, for a streaming engine: each state has two buffers, which change places frame by frame.

A call reads one side and writes the other. A CUDA graph has the addresses of its capture for good, so a film has two,
which are launched by turns. TensorRT for RTX captures by itself, and for addresses that stay: there a film reads the
first side always, and what was written beside it is copied back, on the GPU.

A film lives as long as what its last call gave, and its buffers and graphs then serve the next one.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from vivim_runtime.errors import ModelError
from vivim_runtime.sessions.base import StateInfo
from vivim_runtime.sessions.cuda import Cuda

__all__ = ["Film", "Films", "Remembered"]


@dataclass(eq=False)
class Film:
    """The buffers of one film, or of as many at once as the engine has a batch for.

    Attributes:
        sides: of every state, the two addresses on the GPU.
        turn: frames so far, those of films before it too, so that what they gave is told from what this one gives.
        graphs: CUDA graphs that read the first side and the second; None where nothing was captured.
    """

    sides: tuple[tuple[int, int], ...]
    turn: int = 0
    graphs: list[int | None] = field(default_factory=lambda: [None, None])


class Remembered:
    """What `TensorRTSession.step` gives to be given with the next frame; it can be given once."""

    def __init__(self, film: Film) -> None:
        self.film, self.turn = film, film.turn


class Films:
    """The films of a session. The GPU's context is current wherever a method is called, but for what ends a film.

    Args:
        states: of the engine.
        swaps: sides change places; else what was written is copied back.
    """

    def __init__(self, cuda: Cuda, states: Sequence[StateInfo], swaps: bool) -> None:
        self._cuda, self._swaps = cuda, swaps
        self._sizes = [4 * math.prod(state.shape) for state in states]
        self._names = [(state.input, state.output) for state in states]
        self._films: list[Film] = []
        self._free: list[Film] = []  # a list's append and pop are whole in any thread
        self._held = ExitStack()

    def begin(self, stream: int) -> Film:
        """A film before its first frame: zeros, as the next thing that the stream does."""
        film = self._free.pop() if self._free else self._taken()
        for both, size in zip(film.sides, self._sizes, strict=True):
            self._cuda.clear(both[self.side(film)], size, stream)
        return film

    def resume(self, states: object, path: object) -> Film:
        """The film of what a step gave.

        Raises:
            ModelError: it is of another session, or was given before: its buffers hold the frames after it.
        """
        if not isinstance(states, Remembered) or states.film not in self._films:
            raise ModelError(f"states that {path} did not give; a film goes through one session")
        if states.turn != states.film.turn:
            raise ModelError(f"states of {path} were given twice; its film went on, and they are gone from the GPU")
        return states.film

    def carry(self, film: Film, stream: int) -> None:
        """What the stream is to do after a frame, so that the next one reads what this one wrote."""
        if not self._swaps:
            for (first, second), size in zip(film.sides, self._sizes, strict=True):
                self._cuda.duplicate(first, second, size, stream)

    def advanced(self, film: Film) -> Remembered:
        """What a step gives, once its frame is computed.

        When it is gone, and no later one was given, the film is over.
        """
        film.turn += 1
        states = Remembered(film)
        weakref.finalize(states, self._end, film, film.turn).atexit = False
        return states

    def end(self, film: Film) -> None:
        """A film is over."""
        self._free.append(film)

    def side(self, film: Film) -> int:
        """The side that the next call reads."""
        return film.turn % 2 if self._swaps else 0

    def places(self, film: Film) -> list[tuple[str, int]]:
        """Where the next call reads and writes: names of inputs and outputs, and addresses."""
        side = self.side(film)
        found = []
        for (taken, given), both in zip(self._names, film.sides, strict=True):
            found += [(taken, both[side]), (given, both[1 - side])]
        return found

    def drop_graphs(self) -> None:
        """Destroy all that were captured."""
        for film in self._films:
            for side, graph in enumerate(film.graphs):
                film.graphs[side] = None
                if graph is not None:
                    self._cuda.destroy_graph(graph)

    def release(self) -> None:
        """Give everything back; the stream has come to rest."""
        with ExitStack() as stack:
            stack.callback(self._held.close)
            self.drop_graphs()
        self._films.clear()
        self._free.clear()

    def _end(self, film: Film, turn: int) -> None:
        if film.turn == turn:
            self.end(film)

    def _taken(self) -> Film:
        with ExitStack() as stack:
            sides = []
            for size in self._sizes:
                both = []
                for _ in range(2):
                    both.append(self._cuda.allocate(size))
                    stack.callback(self._cuda.free, both[-1])
                sides.append((both[0], both[1]))
            film = Film(tuple(sides))
            self._held.push(stack.pop_all())
        self._films.append(film)
        return film
