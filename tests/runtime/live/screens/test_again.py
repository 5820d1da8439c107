"""What people look at once more: bounded in seconds and bytes, and as fast as it came."""

from __future__ import annotations

import pytest

from vivim_runtime.live.screens import again
from vivim_runtime.live.screens.again import LastSeconds, Replay


def test_what_is_older_than_ten_seconds_is_forgotten() -> None:
    last = LastSeconds()
    for second in range(25):
        last.keep(float(second), bytes([second]))
    assert [data[0] for _, data in last.pictures()] == list(range(14, 25))  # 14 is ten seconds old to the instant


def test_no_more_bytes_are_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(again, "_KEPT_BYTES", 100)
    last = LastSeconds()
    for index in range(10):
        last.keep(index / 10, bytes(30))
    assert [taken for taken, _ in last.pictures()] == [0.7, 0.8, 0.9]


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(100.0, b"a", id="begins with the first"),
        pytest.param(100.9, b"a", id="until the next came"),
        pytest.param(101.0, b"b", id="when the next came"),
        pytest.param(104.0, b"c", id="the last"),
        pytest.param(104.1, None, id="all seen"),
    ],
)
def test_pictures_come_as_fast_as_they_came(now: float, expected: bytes | None) -> None:
    due = Replay([(7.0, b"a"), (8.0, b"b"), (11.0, b"c")], began=100.0).at(now)
    assert (due and due[1]) == expected
