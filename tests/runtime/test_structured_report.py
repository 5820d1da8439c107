"""DICOM Structured Report: valid for dciodvfy, its measures and outlines as highdicom reads them back."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from tests.runtime.models import brightness_model
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import SinkError
from vivim_runtime.measuring import Scales
from vivim_runtime.sinks import open_sink
from vivim_runtime.sources import open_source

CINE = str(get_testdata_file("examples_ybr_color.dcm", download=False))  # its region is of another picture
SIZE, REGION, SPACING_CM = (96, 128), (20, 10, 99, 73), (0.05, 0.03)


def run(*words: object) -> int:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as raised:
        patch.setattr(sys, "argv", ["vivim-run", *map(str, words)])
        main("vivim-run", "vivim_runtime.commands.run")
    return int(raised.value.code or 0)


def ellipse(frame: int) -> np.ndarray:
    """21 pixels by 13 in millimetres 10.5 by 3.9, moving; and one that is outside of the region."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    inner = ((columns - 50 - frame) / 10.5) ** 2 + ((rows - 40) / 6.5) ** 2 <= 1
    return inner | (((columns - 110) / 8) ** 2 + ((rows - 85) / 8) ** 2 <= 1)


def cine(path: Path, frames: int = 5) -> Path:
    """A loop of bright ellipses, with an ultrasound region that fits, and a spectrum below it."""
    data = pydicom.dcmread(CINE)
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.Rows, data.Columns, data.NumberOfFrames = *SIZE, frames
    data.PhotometricInterpretation, data.PlanarConfiguration = "RGB", 0
    pixels = np.stack([np.repeat(ellipse(i)[..., None], 3, -1) for i in range(frames)]) * np.uint8(255)
    data.PixelData = pixels.tobytes()
    data["PixelData"].is_undefined_length = False
    (region,) = data.SequenceOfUltrasoundRegions
    x0, y0, x1, y1 = REGION
    region.RegionLocationMinX0, region.RegionLocationMinY0 = x0, y0
    region.RegionLocationMaxX1, region.RegionLocationMaxY1 = x1, y1
    region.PhysicalDeltaX, region.PhysicalDeltaY = SPACING_CM
    data.PatientName = "Doe^Jane"
    data.save_as(path)
    return path


def verdict(path: Path) -> list[str]:
    """What dciodvfy has to say, without the line that names the object."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    return [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))]


def test_a_run_writes_the_measures_of_every_lesion_and_frame(tmp_path: Path) -> None:
    source, target, ledger = cine(tmp_path / "cine.dcm"), tmp_path / "o.sr.dcm", tmp_path / "o.jsonl"
    model = brightness_model(tmp_path / "m.onnx", size=(64, 80))
    assert run(source, target, ledger, "--model", model, "--region", "dicom", "-q") == 0

    lines = [json.loads(line) for line in ledger.read_text().splitlines()]
    assert lines[0]["region"] == "dicom" and lines[0]["scale"]["mm_per_pixel"] == [[0.5, 0.3]]
    frames = [line for line in lines if line["type"] == "frame"]
    assert [line["region"] for line in frames] == [["20,10,80,64"]] * 5
    report = highdicom.sr.srread(target)
    groups = report.content.get_planar_roi_measurement_groups()
    assert len(groups) == len(frames) == 5 and len({group.tracking_uid for group in groups}) == 1
    for index, (line, group) in enumerate(zip(frames, groups, strict=True)):
        (lesion,) = line["lesions"]  # what lies outside of the region is none
        assert lesion["lesion"] == 1 and group.tracking_identifier == "lesion 1"
        read = {item.name.meaning: item for item in group.get_measurements()}
        for name, key, truth in (("Long Axis", "longest_mm", 10.5), ("Short Axis", "across_mm", 3.9)):
            value, error = lesion[key]
            assert read[name].value == pytest.approx(value, abs=1e-3) and read[name].unit.value == "mm"
            assert abs(value - truth) <= error <= 1.5, (name, value, error)
        assert read["Area"].unit.value == "mm2"
        assert abs(read["Area"].value - np.pi / 4 * 10.5 * 3.9) <= lesion["area_mm2"][1]
        outline = group.roi
        assert outline.graphic_type.value == "POLYLINE"
        # Columns and rows from the corner of the first pixel: its centre is at (0.5, 0.5).
        assert outline.value.mean(axis=0) == pytest.approx([50.5 + index, 40.5], abs=1.5)
    (evidence,) = pydicom.dcmread(target).CurrentRequestedProcedureEvidenceSequence
    referred = evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
    assert referred.ReferencedSOPInstanceUID == pydicom.dcmread(source).SOPInstanceUID


@pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian dicom3tools)")
def test_it_is_valid(tmp_path: Path) -> None:
    model = brightness_model(tmp_path / "m.onnx", size=(64, 80))
    target = tmp_path / "o.sr.dcm"
    assert run(cine(tmp_path / "cine.dcm"), target, "--model", model, "--region", "dicom", "-q") == 0
    assert verdict(target) == []


def test_beside_a_segmentation_it_refers_to_the_segments_that_hold_a_lesion_alone(tmp_path: Path) -> None:
    source, target, masks = cine(tmp_path / "cine.dcm"), tmp_path / "o.sr.dcm", tmp_path / "o.dcm"
    model = brightness_model(tmp_path / "m.onnx", size=(64, 80))
    assert run(source, target, masks, "--model", model, "--region", "dicom", "-q") == 0
    segmentation = highdicom.seg.segread(masks)
    groups = highdicom.sr.srread(target).content.get_planar_roi_measurement_groups()
    assert len(groups) == 5
    for index, group in enumerate(groups):
        assert group.roi is None
        (content,) = (
            item for item in group[0].ContentSequence if item.ConceptNameCodeSequence[0].CodeValue == "121214"
        )
        (reference,) = content.ReferencedSOPSequence
        assert reference.ReferencedSOPInstanceUID == segmentation.SOPInstanceUID
        frame = segmentation.pixel_array[reference.ReferencedFrameNumber - 1]
        area = {item.name.meaning: item for item in group.get_measurements()}["Area"].value
        assert frame.sum() * 0.5 * 0.3 == pytest.approx(area, abs=1e-3)  # just what was measured
        derived = segmentation.PerFrameFunctionalGroupsSequence[reference.ReferencedFrameNumber - 1]
        image = derived.DerivationImageSequence[0].SourceImageSequence[0]
        assert image.ReferencedFrameNumber == index + 1
        assert derived.SegmentIdentificationSequence[0].ReferencedSegmentNumber == 1
    series = pydicom.dcmread(target).CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence
    assert {entry.SeriesInstanceUID for entry in series} >= {segmentation.SeriesInstanceUID}
    if shutil.which("dciodvfy"):
        assert verdict(target) == []

    # Two lesions in a frame are one segment there: each keeps its outline.
    assert run(source, target, masks, "--model", model, "--mm-per-pixel", "0.5", "-q", "--overwrite") == 0
    groups = highdicom.sr.srread(target).content.get_planar_roi_measurement_groups()
    assert len(groups) == 10 and all(group.roi is not None for group in groups)


def test_a_loop_without_lesions_has_a_report_without_measures(tmp_path: Path) -> None:
    model = brightness_model(tmp_path / "m.onnx", size=(64, 80))
    target = tmp_path / "o.sr.dcm"
    source = cine(tmp_path / "cine.dcm")
    assert run(source, target, "--model", model, "--region", "20,60,60,14", "-q") == 0
    content = highdicom.sr.srread(target).content
    assert content.get_planar_roi_measurement_groups() == []
    (group,) = content.get_image_measurement_groups()
    (count,) = group.get_measurements()
    assert (count.name.meaning, count.value) == ("Quantity", 0)
    if shutil.which("dciodvfy"):
        assert verdict(target) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([CINE], r"no millimetres \(.* contradicts itself: its ultrasound region spans \(84,31\)-\(595,414\)"),
        (["phantom:frames=5"], "refers to the frames of a DICOM file, and the source is none"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(
    tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = brightness_model(tmp_path / "m.onnx")
    assert run(*words, tmp_path / "o.sr.dcm", "--model", model, "-q") == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not list(tmp_path.glob("*.sr*"))


def test_by_hand_is_a_scale_too(tmp_path: Path) -> None:
    """The picture's own contradicts it; the hand's does not."""
    target = tmp_path / "o.sr.dcm"
    model = brightness_model(tmp_path / "m.onnx")
    assert run(CINE, target, "--model", model, "--mm-per-pixel", "0.5", "--max-frames", "5", "-q") == 0
    assert b"given by hand" in target.read_bytes()


def test_a_source_without_identity_is_refused(tmp_path: Path) -> None:
    data = pydicom.dcmread(cine(tmp_path / "cine.dcm"))
    del data.StudyInstanceUID
    data.save_as(tmp_path / "anonymous.dcm")
    info: Any = None
    with (
        open_source(str(tmp_path / "anonymous.dcm")) as source,
        pytest.raises(SinkError, match=r"lacks StudyInstanceUID"),
    ):
        from vivim_runtime.locating import scales_of

        scales = scales_of(source, "x")
        assert isinstance(scales, Scales) and scales.scales
        open_sink(str(tmp_path / "o.sr.dcm"), source, info, {}, scales=scales)
