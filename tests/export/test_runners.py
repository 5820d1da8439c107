"""A checkpoint as a side of a comparison."""

from __future__ import annotations

from pathlib import Path

from vivim_export.runners import open_runner
from vivim_runtime.judging.parity import compare


def test_a_checkpoint_runs_in_pytorch_like_a_model_file(checkpoint: Path, exported: Path) -> None:
    with open_runner(str(checkpoint), (64, 96)) as a, open_runner(str(exported), (0, 0), device="cpu") as b:
        assert a.info.classes == b.info.classes and a.info.weights_sha256 == b.info.weights_sha256
        result = compare(a, b, ["phantom:?seed=3&frames=3&size=64x96"])
    assert (result.a.backend, result.b.backend) == ("PyTorch", "ONNX Runtime")
    assert result.passed and result.tensor.relative_l2 <= 1e-5
