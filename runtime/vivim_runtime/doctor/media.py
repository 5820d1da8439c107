"""Probes of what reads and writes pictures: PyAV's codecs, OpenCV, DICOM."""

from __future__ import annotations

from vivim_runtime.doctor.asking import ask
from vivim_runtime.doctor.findings import Finding, State, wanting
from vivim_runtime.installation import install_words

__all__ = ["decoders", "dicom", "encoders", "opencv"]

# How the names of codecs end that run on hardware.
_HARDWARE = ("amf", "cuvid", "mediacodec", "mf", "nvdec", "nvenc", "qsv", "v4l2m2m", "vaapi", "videotoolbox", "vulkan")
_REINSTALL_AV = "pip install --force-reinstall av"


def decoders() -> Finding:
    """H.264 and H.265 in. Whether the hardware of those compiled in for it is there, only its use would tell."""
    means = "video files, cameras and network streams"
    return _codecs("Video decoders", means, "decoders", needed=("h264", "hevc"))


def encoders() -> Finding:
    """H.264 and H.265 out."""
    return _codecs("Video encoders", "OUT X.mp4", "encoders", needed=("libx264",))


def _codecs(part: str, means: str, kind: str, needed: tuple[str, ...]) -> Finding:
    asked = ask("codecs")
    if lack := wanting(part, asked, means, "av", required=True):
        return lack
    names: list[str] = asked.value[kind]
    absent = [name for name in needed if name not in names]
    hardware = [name for name in names if name.rpartition("_")[2] in _HARDWARE]
    software = [name for name in names if name not in hardware]
    parts = [", ".join(software) or "no software codec", f"compiled in for hardware: {', '.join(hardware) or 'none'}"]
    found = f"PyAV {asked.value['version']}: {'; '.join(parts)}"
    if absent:
        return Finding(
            part, State.broken, f"{found}; no {' and no '.join(absent)}", f"needed for: {means}", _REINSTALL_AV
        )
    return Finding(part, State.ok, found, means)


def opencv() -> Finding:
    """OpenCV, which resizes and draws, and reads gst: pipelines where it was built with GStreamer."""
    part, asked = "OpenCV", ask("opencv")
    if lack := wanting(part, asked, "every command that has pictures", "opencv-python-headless", required=True):
        return lack
    features: list[str] = asked.value["features"]
    found = f"{asked.value['version']} with {', '.join(features) or 'no video'}"
    if "GStreamer" not in features:
        return Finding(
            part, State.missing, found, "SOURCE gst: needs GStreamer in it", "sudo apt install python3-opencv"
        )
    return Finding(part, State.ok, found, "resizing and drawing, and SOURCE gst:")


def dicom() -> Finding:
    """pydicom, and the decoders of what ultrasound scanners write."""
    part, means, package = "DICOM", "DICOM files as SOURCE", install_words("dicom")
    asked = ask("dicom")
    if lack := wanting(part, asked, means, package):
        return lack
    decoded: dict[str, bool] = asked.value["decoded"]
    there, absent = ([name for name, works in decoded.items() if works is wanted] for wanted in (True, False))
    found = f"pydicom {asked.value['version']}: {', '.join(there)}"
    if absent:
        return Finding(
            part, State.missing, found, f"files cannot be read that are {' or '.join(absent)}", f"pip install {package}"
        )
    return Finding(part, State.ok, found, means)
