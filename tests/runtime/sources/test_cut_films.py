"""Films that break off: what is missing is said in a note, counted in ledger and summary, and warned of if quiet."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from tests.runtime.models import brightness_model
from tests.runtime.sources.made import picture, rgb_frames, write_film
from tests.runtime.test_nothing_lost import ran
from vivim_runtime.sources.ending import missing_bytes

COUNT = 40
FILMS = {
    "mjpeg.avi": ("mjpeg", "yuvj420p"),
    "mpeg4.avi": ("mpeg4", "yuv420p"),
    "h264.mkv": ("libx264", "yuv420p"),
    "ffv1.mkv": ("ffv1", "yuv420p"),
    "vp9.webm": ("libvpx-vp9", "yuv420p"),
    "vp8.webm": ("libvpx", "yuv420p"),
    "mjpeg.mp4": ("mjpeg", "yuvj420p"),
    "h264.mp4": ("libx264", "yuv420p"),
    "h264.ts": ("libx264", "yuv420p"),
    "mpeg2.ts": ("mpeg2video", "yuv420p"),
    "wmv2.wmv": ("wmv2", "yuv420p"),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    for name, (codec, pixels) in FILMS.items():
        frames = rgb_frames([picture(index % 12, (96, 128)) for index in range(COUNT)], pixels)
        path = write_film(folder / name, frames, codec, pixels, options={"b": "2M"})
        if path.suffix == ".mp4":
            index_first(path)
    return folder


def index_first(path: Path) -> None:
    """Put the index of an MP4 file before its pictures, as for players over a network."""
    data = path.read_bytes()
    place, media = data.index(b"moov") - 4, data.index(b"mdat") - 4
    moov = bytearray(data[place:])
    chunks = moov.index(b"stco") + 8
    for number in range(int.from_bytes(moov[chunks : chunks + 4], "big")):
        at = chunks + 4 + 4 * number
        moov[at : at + 4] = (int.from_bytes(moov[at : at + 4], "big") + len(moov)).to_bytes(4, "big")
    path.write_bytes(data[:media] + bytes(moov) + data[media:place])


def cut(path: Path, where: float | str) -> bytes:
    """The beginning of a film: a share of its bytes, or up to the middle of packet 30."""
    data = path.read_bytes()
    if isinstance(where, float):
        return data[: round(len(data) * where) - 7]  # and not between packets of a fixed length
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][30]
        return data[: packet.pos + packet.size // 2]


@pytest.mark.parametrize(
    "where", [0.6, pytest.param(0.9, marks=pytest.mark.slow), pytest.param("in a packet", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", FILMS)
def test_what_a_cut_film_lacks_is_said_counted_and_warned_of(
    films: Path, tmp_path: Path, name: str, where: float | str
) -> None:
    brightness_model(tmp_path / "model.onnx")
    (tmp_path / name).write_bytes(cut(films / name, where))
    code, error = ran(tmp_path, name, "o.jsonl", "m", "--json", "o.json")
    assert code == 0, error
    summary, lines = json.loads((tmp_path / "o.json").read_text()), (tmp_path / "o.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    assert summary["lost"] == last["lost"] >= 1 and last["type"] == "summary"
    assert summary["frames"] == len(lines) - 2 == len(list((tmp_path / "m").glob("*.png"))) > 10
    if not name.endswith((".ts", ".wmv")):  # which do not say how many frames there are
        # Half a frame at the cut may be counted or not; so may a frame that FFmpeg makes of it.
        assert abs(summary["frames"] + summary["lost"] - COUNT) <= 1
    assert any(note.startswith("lost:") for note in summary["notes"])
    told = " ".join(error.split())
    assert "copy it again" in told and f"{last['lost']} of {summary['frames'] + last['lost']} frames" in told
    code, error = ran(tmp_path, name, "q.jsonl", "-q")
    assert code == 0 and error.count("\n") == 1 and error.startswith(f"warning: {name}: {last['lost']} of ")


@pytest.mark.parametrize("name", FILMS)
def test_a_whole_film_lacks_nothing(films: Path, tmp_path: Path, name: str) -> None:
    brightness_model(tmp_path / "model.onnx")
    assert missing_bytes(films / name) == 0
    code, error = ran(tmp_path, str(films / name), "o.jsonl", "-q")
    assert (code, error) == (0, "")
    assert json.loads((tmp_path / "o.jsonl").read_text().splitlines()[-1])["lost"] == 0


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.avi", "vp9.webm"])
def test_a_film_that_is_cut_before_its_first_frame_is_one_line(films: Path, tmp_path: Path, name: str) -> None:
    brightness_model(tmp_path / "model.onnx")
    (tmp_path / name).write_bytes(cut(films / name, 0.02))
    code, error = ran(tmp_path, name, "o.jsonl", "-q")
    assert code == 2 and error.count("\n") == 1 and "is it complete?" in error


@pytest.mark.parametrize(
    ("data", "missing"),
    [
        pytest.param(b"", 0, id="nothing"),
        pytest.param(b"RIFF", 0, id="four bytes"),
        pytest.param(b"RIFF\0\0\0\0AVI ", 0, id="AVI whose writer was killed"),
        pytest.param(b"RIFF\x10\0\0\0AVI ....", 8, id="AVI"),
        pytest.param(
            b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x01\xff\xff\xff\xff\xff\xff\xff", 0, id="Matroska of a stream"
        ),
        pytest.param(b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\x84..", 2, id="Matroska"),
        pytest.param(b"\x1a\x45\xdf\xa3\x00", 0, id="Matroska with a length of nonsense"),
        pytest.param(b"\0\0\0\x08ftyp\0\0\0\x0cmdat..", 2, id="MP4"),
        pytest.param(b"\0\0\0\x08ftyp\0\0\0\0mdat..", 0, id="MP4 whose last box goes to the end"),
        pytest.param(b"\0\0\0\x08ftyp\0\0\0\x01mdat\0\0\0\0\0\0\0\x14..", 2, id="MP4 with long lengths"),
        pytest.param(b"\0\0\0\x08ftyp" * 3 + b"\0\0\0\x02mdat", 0, id="MP4 with a damaged length"),
        pytest.param((b"\x47" + b"." * 187) * 5 + b"\x47...", 184, id="MPEG-TS"),
        pytest.param((b"....\x47" + b"." * 187) * 5, 0, id="MPEG-TS with times"),
        pytest.param(b"GIF89a....", 1, id="GIF"),
        pytest.param(b"GIF89a....;", 0, id="whole GIF"),
    ],
)
def test_bytes_that_are_missing_by_each_container(tmp_path: Path, data: bytes, missing: int) -> None:
    (tmp_path / "a").write_bytes(data)
    assert missing_bytes(tmp_path / "a") == missing
