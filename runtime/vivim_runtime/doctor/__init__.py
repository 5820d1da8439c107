"""What is installed on this machine, and what it means for each feature.

for finding in diagnose():
    ...  # finding.state, finding.part, finding.found, finding.means, finding.fix
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from vivim_runtime.doctor import engines, hardware, media
from vivim_runtime.doctor.findings import Finding, State

__all__ = ["PROBES", "Finding", "State", "diagnose"]

Probe = Callable[[], Finding]

PROBES: tuple[Probe, ...] = (
    hardware.python,
    hardware.gpu,
    hardware.cuda,
    engines.tensorrt,
    engines.plugin,
    engines.tensorrt_rtx,
    engines.cuda_python,
    engines.onnxruntime,
    engines.native,
    engines.torch,
    media.decoders,
    media.encoders,
    media.opencv,
    media.dicom,
    hardware.cameras,
    hardware.display,
)


def diagnose(probes: Sequence[Probe] = PROBES) -> list[Finding]:
    """All findings, in the order of the probes, which wait for other processes side by side. Never raises."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_safely, probes))


def _safely(probe: Probe) -> Finding:
    """A probe that fails is a defect of ours, and no reason to keep the other findings back."""
    try:
        return probe()
    except Exception as error:
        found = f"the probe failed: {type(error).__name__}: {error}"
        return Finding(probe.__name__, State.broken, found, "a defect of vivim-doctor", "vivim-doctor --print-json")
