"""DICOM Segmentation: valid for dciodvfy, the masks bit for bit, the source's patient, and nobody's data elsewhere."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.sequence import Sequence
from pydicom.uid import SegmentationStorage

from vivim_runtime.errors import SinkError
from vivim_runtime.sessions.base import ClassInfo
from vivim_runtime.sinks import Segmented, open_sink
from vivim_runtime.sinks.modules import MODULES, Module
from vivim_runtime.sources import Frame, open_source

CINE = str(get_testdata_file("examples_ybr_color.dcm", download=False))  # ultrasound, 30 frames of 240x320, lossy
MR = str(get_testdata_file("MR_small.dcm", download=False))
STILL = str(get_testdata_file("examples_rgb_color.dcm", download=False))  # ultrasound, one frame, lossless
needs_validator = pytest.mark.skipif(not shutil.which("dciodvfy"), reason="needs dciodvfy (Debian dicom3tools)")


def model(*names: str) -> Any:
    colors = [(0, 230, 118), (255, 0, 0), (0, 0, 255)]
    classes = tuple(ClassInfo(name, color) for name, color in zip(names, colors, strict=False))
    return type("Info", (), {"classes": classes, "preset": "tiny", "precision": "fp32", "weights_sha256": "0" * 64})()


def item(index: int, masks: np.ndarray) -> Segmented:
    image = np.zeros((*masks.shape[1:], 3), np.uint8)
    return Segmented(Frame(index, index / 25, image), 0, 0, False, masks.astype(np.float32), masks, 1.0, image)


def written(
    source: str | Path, target: Path, names: tuple[str, ...] = ("lesion",), frames: range | None = None
) -> tuple[Any, list[np.ndarray]]:
    """The data set that is read back, and the masks (K, H, W) that went in."""
    random = np.random.default_rng(0)
    with open_source(str(source)) as opened:
        kept = [random.random((len(names), *opened.size)) > 0.5 for _ in frames or range(opened.frame_count or 1)]
        with open_sink(str(target), opened, model(*names), {}) as sink:
            for index, masks in zip(frames or range(len(kept)), kept, strict=True):
                sink.write(item(index, masks))
    return pydicom.dcmread(target), kept


def altered(target: Path, source: str = CINE, **values: Any) -> Path:
    dataset = pydicom.dcmread(source)
    for name, value in values.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    dataset.save_as(target)
    return target


def verdict(path: Path | str) -> list[str]:
    """What dciodvfy has to say, without the line that names the object."""
    done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
    return [line for line in done.stderr.splitlines() if line.startswith(("Error", "Warning"))]


@needs_validator
@pytest.mark.parametrize(
    ("source", "names"),
    [
        pytest.param(CINE, ("lesion",), id="a loop"),
        pytest.param(CINE, ("tumor", "polyp", "organ"), id="a loop, three classes"),
        pytest.param(STILL, ("lesion",), id="a single frame"),
        pytest.param(
            str(get_testdata_file("MR_small.dcm", download=False)), ("lesion",), id="with a frame of reference"
        ),
    ],
)
def test_it_is_valid_and_what_is_dubious_comes_from_the_source(
    tmp_path: Path, source: str, names: tuple[str, ...]
) -> None:
    written(source, tmp_path / "o.dcm", names)
    found = verdict(tmp_path / "o.dcm")
    assert not [line for line in found if line.startswith("Error")]
    assert set(found) <= set(verdict(source))


@needs_validator
def test_the_validator_does_find_what_is_missing(tmp_path: Path) -> None:
    dataset, _ = written(CINE, tmp_path / "o.dcm")
    del dataset.DimensionIndexSequence
    dataset.save_as(tmp_path / "broken.dcm")
    assert any(line.startswith("Error") for line in verdict(tmp_path / "broken.dcm"))


@pytest.mark.parametrize("names", [("lesion",), ("lesion", "tumor", "cyst")])
def test_every_frame_is_read_back_bit_for_bit(tmp_path: Path, names: tuple[str, ...]) -> None:
    dataset, kept = written(CINE, tmp_path / "o.dcm", names)
    assert dataset.SegmentsOverlap == ("NO" if len(names) == 1 else "UNDEFINED")  # classes may share a pixel
    pixels = dataset.pixel_array
    assert pixels.shape == (30 * len(names), 240, 320)
    for frame, groups in zip(pixels, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        segment = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        number = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber
        assert np.array_equal(frame, kept[number - 1][segment - 1])


def test_frames_whose_bits_end_within_a_byte_follow_each_other_without_a_gap(tmp_path: Path) -> None:
    """PS3.5 8.1.1: 7 x 9 = 63 bits a frame; 9 of them end within the 71st byte, and lengths are even."""
    source = pydicom.dcmread(STILL)
    source.NumberOfFrames, source.Rows, source.Columns = 9, 7, 9
    source.PixelData = bytes(9 * 7 * 9 * 3 + 1)
    source.save_as(tmp_path / "odd.dcm")
    dataset, kept = written(tmp_path / "odd.dcm", tmp_path / "o.dcm")
    assert np.array_equal(dataset.pixel_array, np.concatenate(kept))
    assert len(dataset.PixelData) == 72


def test_frames_refer_to_the_source_frames_that_were_looked_at(tmp_path: Path) -> None:
    dataset, _ = written(CINE, tmp_path / "o.dcm", frames=range(3, 9, 2))
    source = pydicom.dcmread(CINE)
    groups = dataset.PerFrameFunctionalGroupsSequence
    images = [group.DerivationImageSequence[0].SourceImageSequence[0] for group in groups]
    assert [image.ReferencedFrameNumber for image in images] == [4, 6, 8]  # frames are counted from 1
    assert {image.ReferencedSOPInstanceUID for image in images} == {source.SOPInstanceUID}
    assert [list(group.FrameContentSequence[0].DimensionIndexValues) for group in groups] == [[4, 1], [6, 1], [8, 1]]
    assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def test_a_single_frame_is_referred_to_without_a_frame_number(tmp_path: Path) -> None:
    groups = written(STILL, tmp_path / "o.dcm")[0].PerFrameFunctionalGroupsSequence
    assert "ReferencedFrameNumber" not in groups[0].DerivationImageSequence[0].SourceImageSequence[0]


def test_patient_and_study_are_the_source_s_and_series_and_instance_are_new(tmp_path: Path) -> None:
    source = altered(
        tmp_path / "s.dcm",
        PatientName="Döe^Jäne",
        PatientID="4711",
        AccessionNumber="A1",
        SpecificCharacterSet="ISO_IR 192",
    )
    first, second = (written(source, tmp_path / name)[0] for name in ("1.dcm", "2.dcm"))
    original = pydicom.dcmread(source)
    for name in ("PatientName", "PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert first[name].value == original[name].value, name
    assert first.SOPClassUID == SegmentationStorage and first.Modality == "SEG"
    uids = {original.SeriesInstanceUID, original.SOPInstanceUID, first.SeriesInstanceUID, first.SOPInstanceUID}
    assert len(uids | {second.SeriesInstanceUID, second.SOPInstanceUID}) == 6


def test_what_must_be_there_is_empty_where_the_source_lacks_it(tmp_path: Path) -> None:
    source = altered(tmp_path / "s.dcm", PatientBirthDate=None, StudyID=None, PatientSex=None)
    dataset, _ = written(source, tmp_path / "o.dcm")
    assert not dataset.PatientBirthDate and not dataset.StudyID and not dataset.PatientSex
    assert {"PatientBirthDate", "StudyID", "PatientSex"} <= set(dataset.dir())


def with_value(dataset: Any, keyword: str) -> None:
    """Something that the attribute may hold, by its VR."""
    kind = dictionary_VR(keyword)
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "121322", "DCM", "Source"
    values = {"SQ": [item], "DA": "20200102", "TM": "101112", "PN": "Doe^Jane", "DS": "7", "IS": "7", "FD": 7.0}
    values |= {"UI": "1.2.3", "US": 4, "AS": "040Y"}
    setattr(dataset, keyword, values.get(kind, "VALUE"))


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_every_attribute_of_a_module_arrives(tmp_path: Path, module: Module) -> None:
    dataset = pydicom.dcmread(CINE)
    for keyword in module.keywords:
        if keyword not in ("SpecificCharacterSet", "TimezoneOffsetFromUTC"):
            with_value(dataset, keyword)
    dataset.TimezoneOffsetFromUTC = "+0100"
    dataset.save_as(tmp_path / "s.dcm")
    original = pydicom.dcmread(tmp_path / "s.dcm")
    found, _ = written(tmp_path / "s.dcm", tmp_path / "o.dcm", frames=range(1))
    for keyword in module.keywords:
        if keyword in original:
            assert found[keyword].value == original[keyword].value, keyword


# Modules that are taken as a whole.
WHOLE = (
    "Patient",
    "Clinical Trial Subject",
    "General Study",
    "Patient Study",
    "Clinical Trial Study",
    "Frame of Reference",
)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_modules_are_those_of_the_standard(module: Module) -> None:
    """As highdicom has them, whose tables are made of the standard's text."""
    import highdicom

    tables = Path(highdicom.__file__).parent / "_standard" / "module_attribute_map.json"
    key = module.name.lower().replace(" ", "-")
    entries = [entry for entry in json.loads(tables.read_text())[key] if not entry["path"]]
    listed = {entry["keyword"] for entry in entries}
    ours = set(module.keywords) - {"EthnicGroup"}  # retired
    assert ours == listed if module.name in WHOLE else ours < listed
    types = {entry["keyword"]: entry["type"] for entry in entries}
    assert {keyword for keyword in ours if types[keyword] == "2"} == {k for k in module.type2 if types[k] == "2"}
    assert all(types[keyword] in ("2", "2C") for keyword in module.type2)
    assert all(tag_for_keyword(keyword) for keyword in module.keywords)


def test_what_no_module_lists_stays_behind_and_so_does_what_is_private(tmp_path: Path) -> None:
    """Of the examination's series and machine, and private attributes at the top and within a sequence."""
    dataset = pydicom.dcmread(CINE)
    dataset.OperatorsName, dataset.StationName, dataset.ProtocolName = "Op^A", "STATION", "PROTOCOL"
    dataset.InstitutionName, dataset.ClinicalTrialSeriesID, dataset.ImageComments = "HOSPITAL", "SERIES", "COMMENT"
    dataset.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", "SECRET")
    procedure = pydicom.Dataset()
    procedure.CodeValue, procedure.CodingSchemeDesignator, procedure.CodeMeaning = "1", "99X", "Scan"
    procedure.private_block(0x0011, "MAKER", create=True).add_new(1, "LO", "SECRET")
    dataset.ProcedureCodeSequence = [procedure]
    dataset.save_as(tmp_path / "s.dcm")
    found, _ = written(tmp_path / "s.dcm", tmp_path / "o.dcm", frames=range(1))
    for keyword in ("OperatorsName", "StationName", "ProtocolName", "InstitutionName", "ImageComments"):
        assert keyword not in found, keyword
    assert "ClinicalTrialSeriesID" not in found and found.Manufacturer == "Vivim Edge"
    assert found.ProcedureCodeSequence[0].CodeMeaning == "Scan"
    for secret in (b"SECRET", b"MAKER"):
        assert secret in (tmp_path / "s.dcm").read_bytes() and secret not in (tmp_path / "o.dcm").read_bytes()


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        (None, "Doe^Jane"),
        ("ISO_IR 100", "Döe^Jäne"),
        ("ISO_IR 192", "山田^太郎"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
@pytest.mark.parametrize("label", ["lesion", "Läsion", "病変"])
def test_text_arrives_in_any_character_set(tmp_path: Path, charset: Any, name: str, label: str) -> None:
    """Also beside a class whose name the source's character set lacks."""
    source = altered(tmp_path / "s.dcm", SpecificCharacterSet=charset or "", PatientName=name)
    found, _ = written(source, tmp_path / "o.dcm", (label,), range(1))
    assert str(found.PatientName) == name == str(pydicom.dcmread(source).PatientName)
    assert found.SegmentSequence[0].SegmentLabel == label
    own = pydicom.dcmread(source).SpecificCharacterSet
    assert found.SpecificCharacterSet == (own if label.isascii() else "ISO_IR 192")


@needs_validator
def test_a_full_source_makes_a_valid_one(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(CINE)
    dataset.ClinicalTrialSponsorName, dataset.ClinicalTrialProtocolID = "Sponsor", "P1"
    dataset.ClinicalTrialSubjectID, dataset.ClinicalTrialTimePointDescription = "S1", "Baseline"
    dataset.PatientAge, dataset.PatientWeight, dataset.StudyDescription = "040Y", "70", "Breast"
    dataset.BodyPartExamined, dataset.ImageLaterality, dataset.Laterality = "BREAST", "L", "L"
    dataset.PatientName, dataset.SpecificCharacterSet = "Döe^Jäne", "ISO_IR 192"
    dataset.save_as(tmp_path / "s.dcm")
    found, _ = written(tmp_path / "s.dcm", tmp_path / "o.dcm", ("Läsion",), range(2))
    assert not [line for line in verdict(tmp_path / "o.dcm") if line.startswith("Error")]
    assert (found.BodyPartExamined, found.ImageLaterality) == ("BREAST", "L")
    # Type 2 within a module that the source has only in part.
    for keyword in ("ClinicalTrialProtocolName", "ClinicalTrialSiteID", "ClinicalTrialTimePointID"):
        assert keyword in found and not found[keyword].value
    assert "FrameOfReferenceUID" not in found and "PositionReferenceIndicator" not in found  # nothing of this module


def test_a_value_that_cannot_be_read_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Three bytes where a number has eight; the log names the attribute, and not what is in it."""
    source = altered(tmp_path / "s.dcm", LongitudinalTemporalOffsetFromEvent=7.0, ClinicalTrialTimePointID="T1")
    whole = b"\x12\x00\x52\x00FD\x08\x00" + struct.pack("<d", 7)
    content = source.read_bytes()
    assert content.count(whole) == 1
    source.write_bytes(content.replace(whole, b"\x12\x00\x52\x00FD\x06\x00Jane^D"))
    found, _ = written(source, tmp_path / "o.dcm", frames=range(1))
    assert found.ClinicalTrialTimePointID == "T1" and "LongitudinalTemporalOffsetFromEvent" not in found
    assert "LongitudinalTemporalOffsetFromEvent of the source cannot be read" in caplog.text
    assert "Jane" not in caplog.text


def test_codes_of_segments_are_those_given_with_the_model(tmp_path: Path) -> None:
    category, kind = ["49755003", "SCT", "Morphologically Abnormal Structure"], ["27925004", "SCT", "Nodule"]
    entry = {"name": "thyroid", "color": [0, 230, 118], "category": category, "type": kind}
    known = model("thyroid")
    known.classes = (ClassInfo.from_json(entry),)
    with open_source(STILL) as opened, open_sink(str(tmp_path / "o.dcm"), opened, known, {}) as sink:
        sink.write(item(0, np.ones((1, *opened.size), bool)))
    (segment,) = pydicom.dcmread(tmp_path / "o.dcm").SegmentSequence
    for sequence, code in (("Category", category), ("Type", kind)):
        (found,) = segment[f"SegmentedProperty{sequence}CodeSequence"].value
        assert [found.CodeValue, found.CodingSchemeDesignator, found.CodeMeaning] == code


@pytest.mark.parametrize("name", ["lesion", "Breast tumour", "lymph mass-effect free", "liver"])
def test_codes_are_never_guessed_from_names(tmp_path: Path, name: str) -> None:
    dataset, _ = written(STILL, tmp_path / "o.dcm", (name,))
    (segment,) = dataset.SegmentSequence
    assert segment.SegmentLabel == name and segment.SegmentAlgorithmType == "AUTOMATIC"
    assert segment.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "85756007"  # tissue, and no more
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == "85756007"
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert "0" * 64 in algorithm.AlgorithmParameters and algorithm.AlgorithmName == "Vivim tiny"


@pytest.mark.parametrize(
    "code", [["1", "SCT"], ["", "SCT", "a"], ["1" * 17, "SCT", "a"], ["1", "SCT", "a\nb"], [1, "SCT", "a"], "abc1"]
)
def test_codes_that_dicom_cannot_hold_are_refused(code: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        ClassInfo.from_json({"name": "a", "color": [0, 0, 0], "type": code})


def test_codes_are_those_of_the_standard() -> None:
    from pydicom.sr._concepts_dict import concepts

    from vivim_runtime.sinks import segmentation

    known = {(code, scheme) for scheme, names in concepts.items() for entry in names.values() for code in entry}
    own = (segmentation._TISSUE, segmentation._NETWORK, segmentation._SEGMENTATION, segmentation._SOURCE_IMAGE)
    for code, scheme, _ in own:
        assert (code, scheme) in known


def test_a_mask_of_a_lossy_image_says_so(tmp_path: Path) -> None:
    assert written(CINE, tmp_path / "a.dcm")[0].LossyImageCompression == "01"
    assert written(STILL, tmp_path / "b.dcm")[0].LossyImageCompression == "00"


def test_a_source_that_is_no_dicom_is_refused_with_the_alternatives(tmp_path: Path) -> None:
    with open_source("phantom:") as source, pytest.raises(SinkError, match=r"source is none; write masks/ .*X\.mp4"):
        open_sink(str(tmp_path / "o.dcm"), source, model("lesion"), {})
    assert list(tmp_path.iterdir()) == []


def test_a_source_without_identity_is_refused(tmp_path: Path) -> None:
    source = altered(tmp_path / "s.dcm", StudyInstanceUID=None)
    with pytest.raises(SinkError, match="lacks StudyInstanceUID"):
        written(source, tmp_path / "o.dcm")


def test_more_masks_than_one_object_holds_are_refused_before_the_first(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="4 GB of one DICOM object"), open_source(CINE) as opened:
        opened.frame_count = 500_000
        open_sink(str(tmp_path / "o.dcm"), opened, model("lesion"), {})


def test_neither_names_nor_messages_hold_patient_data(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    odd = {"PatientName": "Doe^Jane", "PatientID": "Jane" * 40, "PatientBirthDate": "Jane"}  # too long, no date
    with pytest.warns(UserWarning):
        source = altered(tmp_path / "s.dcm", **odd)
    recwarn.clear()
    with open_source(str(source)) as opened, open_sink(str(tmp_path / "o.dcm"), opened, model("lesion"), {}) as sink:
        sink.write(item(0, np.ones((1, 240, 320), bool)))
        names = [sink.path, *(file.name for file in tmp_path.iterdir())]
    said = [*names, *capfd.readouterr(), *(str(warning.message) for warning in recwarn)]
    assert "Jane" not in " ".join(said)


def test_an_unfinished_one_is_whole_and_called_a_part(tmp_path: Path) -> None:
    (tmp_path / "o.dcm").write_text("earlier")
    masks = np.ones((1, 240, 320), bool)
    with (
        open_source(CINE) as source,
        pytest.raises(ZeroDivisionError),
        open_sink(str(tmp_path / "o.dcm"), source, model("lesion"), {}) as sink,
    ):
        sink.write(item(0, masks))
        sink.write(item(1, ~masks))
        raise ZeroDivisionError
    assert sorted(file.name for file in tmp_path.iterdir()) == ["o.dcm", "o.part.dcm"]
    assert (tmp_path / "o.dcm").read_text() == "earlier"
    assert pydicom.dcmread(tmp_path / "o.part.dcm").pixel_array.mean(axis=(1, 2)).tolist() == [1, 0]


def test_without_frames_it_leaves_nothing(tmp_path: Path) -> None:
    with open_source(CINE) as source, open_sink(str(tmp_path / "o.dcm"), source, model("lesion"), {}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_line_and_leaves_no_broken_file(tmp_path: Path) -> None:
    with open_source(CINE) as source:
        sink = open_sink(str(tmp_path / "o.dcm"), source, model("lesion"), {})
        sink._spool.close()  # type: ignore[attr-defined]
        sink._spool = sink._bits._file = open("/dev/full", "w+b", buffering=0)  # type: ignore[attr-defined]  # noqa: SIM115, PTH123
        with pytest.raises(SinkError, match=r"cannot go on writing .*No space left"), sink:
            sink.write(item(0, np.ones((1, 240, 320), bool)))
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_pixels(tmp_path: Path) -> None:
    """300 frames of 768 kB as bytes, 96 kB as bits; kept are the groups, about 0.4 kB each, doubled when they grow."""
    source = altered(tmp_path / "s.dcm", NumberOfFrames=300, Rows=768, Columns=1000)
    masks = np.ones((1, 768, 1000), bool)
    entry = item(0, masks)
    with open_source(str(source)) as opened, open_sink(str(tmp_path / "o.dcm"), opened, model("lesion"), {}) as sink:
        sink.write(entry)
        tracemalloc.start()
        for _ in range(299):
            sink.write(entry)
        grown, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert grown < 1 << 20 and most < 4 << 20
    assert (tmp_path / "o.dcm").stat().st_size > 300 * 96_000


def test_it_is_one_sequence_as_pydicom_would_write_it(tmp_path: Path) -> None:
    """The groups are encoded one by one and put together here; pydicom, writing the whole, makes the same bytes."""
    dataset, _ = written(CINE, tmp_path / "o.dcm", ("lesion", "cyst"))
    assert isinstance(dataset.PerFrameFunctionalGroupsSequence, Sequence)
    dataset.save_as(tmp_path / "again.dcm")
    assert (tmp_path / "again.dcm").read_bytes() == (tmp_path / "o.dcm").read_bytes()
