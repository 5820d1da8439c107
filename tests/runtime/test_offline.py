"""The offline run end to end, on a model whose masks can be told by eye."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.models import brightness_model
from vivim_runtime import RunOptions, Segmented, open_session, run
from vivim_runtime.errors import UsageError
from vivim_runtime.live.inference import Inferred
from vivim_runtime.sources import Frame


class Numbered:
    """Frames of 64 x 96 whose left `index` columns are white."""

    def __init__(self, count: int, interrupt_at: int | None = None) -> None:
        self.name, self.size, self.fps, self.frame_count, self.notes = "numbered", (64, 96), 25.0, count, ["a note"]
        self._interrupt_at = interrupt_at

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.frame_count):
            if index == self._interrupt_at:
                raise KeyboardInterrupt
            image = np.zeros((64, 96, 3), np.uint8)
            image[:, : 2 * index] = 255
            yield Frame(index, index / 25, image)

    def __enter__(self) -> Numbered:
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Collected:
    """A sink that keeps what it gets."""

    path = "memory"

    def __init__(self) -> None:
        self.items: list[Segmented] = []

    def write(self, item: Segmented) -> None:
        self.items.append(item)

    def __enter__(self) -> Collected:
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("batch", [1, 3, None])
@pytest.mark.parametrize(("hop", "show"), [(None, "newest"), (2, "newest"), (1, "centre")])
@pytest.mark.parametrize("count", [3, 12])
def test_every_frame_gets_its_own_mask_at_its_own_size(
    tmp_path: Path, count: int, hop: int | None, show: str, batch: int | None
) -> None:
    sink, source = Collected(), Numbered(count)
    with open_session(brightness_model(tmp_path / "m.onnx", batch=batch), "cpu") as session:
        report = run(source, session, [sink], RunOptions(hop=hop, show=show))
    assert [item.frame.index for item in sink.items] == list(range(count))
    for item in sink.items:
        # The frame is halved to the model's 32 x 48 and the logits doubled again: edges stay where they are.
        assert np.array_equal(item.masks[0], item.frame.image[..., 0] > 128)
    assert report.frames == count and report.with_mask == count - 1
    assert report.padded_clips == (1 if count < 5 else 0)
    assert report.notes == ("a note",) and not report.interrupted
    assert report.latency_ms["p50"] <= report.latency_ms["p95"] <= report.latency_ms["max"]
    assert set(report.stages_ms) == {"read", "prepare", "infer", "mask", "draw", "write"}


def test_threshold_moves_the_edge(tmp_path: Path) -> None:
    class Grey(Numbered):
        def __iter__(self) -> Iterator[Frame]:
            for index in range(5):  # logit (144 - 128) / 16 = 1, probability 0.73
                yield Frame(index, 0.0, np.full((64, 96, 3), 144, np.uint8))

    with open_session(brightness_model(tmp_path / "m.onnx"), "cpu") as session:
        shares = []
        for threshold in (0.72, 0.74):
            sink = Collected()
            run(Grey(5), session, [sink], RunOptions(threshold=threshold))
            shares.append(sink.items[0].masks.mean())
    assert shares == [1.0, 0.0]


class Narrow(Numbered):
    """Black frames of two columns."""

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.frame_count):
            yield Frame(index, index / 25, np.zeros((32, 2, 3), np.uint8))


class FixedLogits:
    """A session of two frames of 32 x 2 that always says the same."""

    backend, device = "test", "cpu"

    def __init__(self, model: Path, logits: np.ndarray) -> None:
        with open_session(brightness_model(model, frames=2, size=(32, 2)), "cpu") as session:
            self.info = session.info
        self._logits = logits

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        return self._logits

    def warm_up(self) -> None:
        pass


@pytest.mark.parametrize(("threshold", "edge"), [(None, 0.0), (0.5, 0.0), (0.25, -np.log(3)), (0.9, np.log(9))])
@pytest.mark.parametrize("live", [False, True])
def test_a_pixel_is_marked_exactly_above_the_threshold(
    tmp_path: Path, live: bool, threshold: float | None, edge: float
) -> None:
    """Logits a thousandth on either side of log(p / (1 - p)), offline and live, also by default (0.5)."""
    logits = np.float32([edge - 1e-3, edge + 1e-3])
    session = FixedLogits(tmp_path / "m.onnx", np.broadcast_to(logits, (1, 2, 1, 32, 2)))
    if live:
        frames = tuple(Frame(n, 0.0, np.zeros((32, 2, 3), np.uint8)) for n in range(2))
        result = Inferred(0, frames, (0, 1), session(np.empty(0))[0], 0.0, 0.0, 0.0)
        asked = RunOptions().threshold if threshold is None else threshold
        masks = [result.masked(n, asked).masks for n in range(2)]
    else:
        sink = Collected()
        options = RunOptions() if threshold is None else RunOptions(threshold=threshold)
        run(Narrow(2), session, [sink], options)
        masks = [item.masks for item in sink.items]
    assert [list(mask[0, 7]) for mask in masks] == [[False, True]] * 2


def test_a_run_stops_after_max_frames(tmp_path: Path) -> None:
    sink = Collected()
    with open_session(brightness_model(tmp_path / "m.onnx"), "cpu") as session:
        report = run(Numbered(40), session, [sink], RunOptions(max_frames=7))
    assert report.frames == len(sink.items) == 7


def test_an_interrupt_ends_in_good_order(tmp_path: Path) -> None:
    sink = Collected()
    with open_session(brightness_model(tmp_path / "m.onnx"), "cpu") as session:
        report = run(Numbered(40, interrupt_at=12), session, [sink], RunOptions())
    assert report.interrupted
    assert [item.frame.index for item in sink.items] == list(range(10))  # the clips that were complete


def test_long_runs_keep_no_frames(tmp_path: Path) -> None:
    """At most a clip and the frame that follows it are alive at any time."""
    import weakref

    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    class Watched(Numbered):
        def __iter__(self) -> Iterator[Frame]:
            nonlocal most
            for frame in super().__iter__():
                alive.add(frame)
                most = max(most, len(alive))
                yield frame

    with open_session(brightness_model(tmp_path / "m.onnx"), "cpu") as session:
        run(Watched(60), session, [], RunOptions(hop=2))
    assert most <= 5 + 2 + 1  # a clip, the frames that a hop adds, the one just read


@pytest.mark.parametrize("values", [{"threshold": 1.0}, {"alpha": 1.5}, {"alpha": -0.1}, {"max_frames": 0}])
def test_options_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="expected"):
        RunOptions(**values)
