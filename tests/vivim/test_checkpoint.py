"""Weights in and out: what loads, and what is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import vivim
from tests.golden.cases import upstream_state
from vivim.checkpoint import read_metadata, resolve_weights

SHALLOW = (1, 1, 1, 1)


@pytest.fixture(scope="module")
def upstream() -> dict[str, torch.Tensor]:
    return upstream_state(SHALLOW)


def tiny() -> vivim.Vivim:
    torch.manual_seed(0)
    return vivim.Vivim(vivim.VivimConfig.preset("tiny")).eval()


def same(a: vivim.Vivim, b: vivim.Vivim) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_safetensors_round_trip_keeps_weights_configuration_and_metadata(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "w.safetensors"
    vivim.save_checkpoint(path, model, {"note": "phantom"})
    loaded = vivim.load_checkpoint(path)
    assert same(loaded, model) and loaded.config == model.config and not loaded.training
    assert read_metadata(path)["note"] == "phantom"
    assert vivim.load_checkpoint(path, frames=8).config.frames == 8


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "model.module."])
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
def test_upstream_torch_files_load(
    upstream: dict[str, torch.Tensor], prefix: str, wrapper: str | None, tmp_path: Path
) -> None:
    state: dict[str, Any] = {prefix + key: value for key, value in upstream.items()}
    path = tmp_path / "vivim.ckpt"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    assert same(vivim.load_checkpoint(path), vivim.from_upstream(upstream))


def test_upstream_weights_saved_as_safetensors_load(upstream: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "upstream.safetensors"
    safetensors.torch.save_file(upstream, path)
    assert same(vivim.load_checkpoint(path), vivim.from_upstream(upstream))


def test_configuration_is_inferred_from_upstream_shapes(upstream: dict[str, torch.Tensor]) -> None:
    config = vivim.from_upstream(upstream, frames=8).config
    assert config.frames == 8 and config.depths == SHALLOW and config.widths == (64, 128, 320, 512)
    assert config.heads == (1, 2, 5, 8) and config.reductions == (8, 4, 2, 1)
    assert vivim.from_upstream(upstream_state(SHALLOW, edge=True)).config.edge_head == "conv1x1"


def test_upstream_with_fewer_directions_loads(upstream: dict[str, torch.Tensor]) -> None:
    state = {k: v for k, v in upstream.items() if not re.search(r"mamba\.\w+_b(_log|\.|$)|A_b_log", k)}
    assert vivim.from_upstream(state).config.directions == ("forward", "spatial")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.linear_c.2.proj.bias"), "1 missing keys: decoder.linear_c.2.proj.bias"),
        (lambda s: [s.pop(k) for k in list(s) if ".norm2." in k], r"16 missing keys: .*, .*, .* and 13 more"),
        (lambda s: s.update({"head.fc.weight": torch.zeros(2)}), "1 unexpected keys: head.fc.weight"),
        (lambda s: s.update({"out.bias": torch.zeros(7)}), "1 wrong shapes: decoder.classifier.bias is .7,., expected"),
        (lambda s: s.update({"encoder.stages.1.0.0.mamba.D_s": torch.zeros(9)}), "cannot be joined: .*D_s .9,."),
    ],
)
def test_upstream_state_that_does_not_fit_is_refused(
    upstream: dict[str, torch.Tensor], change: Any, message: str
) -> None:
    state = dict(upstream)
    change(state)
    with pytest.raises(vivim.CheckpointError, match=message):
        vivim.from_upstream(state)


def test_foreign_checkpoint_is_refused_with_what_it_begins_with(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(9)}, path)
    with pytest.raises(vivim.CheckpointError, match="not a Vivim checkpoint.*layer0.weight"):
        vivim.load_checkpoint(path)


def test_our_safetensors_with_missing_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model = tiny()
    vivim.save_checkpoint(path, model)
    tensors = safetensors.torch.load_file(path)
    removed = tensors.pop("decoder.classifier.bias")
    tensors["extra"] = removed
    safetensors.torch.save_file(tensors, path, metadata=read_metadata(path))
    with pytest.raises(
        vivim.CheckpointError, match="1 missing keys: decoder.classifier.bias; 1 unexpected keys: extra"
    ):
        vivim.load_checkpoint(path)


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("unpickled",))


def test_pickled_objects_are_never_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "evil.pth"
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hparams": _Payload()}, path)
    with pytest.raises(vivim.CheckpointError, match="state dict alone"):
        vivim.load_checkpoint(path)
    assert "unpickled" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_truncated_file_is_refused(name: str, tmp_path: Path, upstream: dict[str, torch.Tensor]) -> None:
    path = tmp_path / name
    if name.endswith("pth"):
        torch.save(upstream, path)
    else:
        vivim.save_checkpoint(path, tiny())
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(vivim.CheckpointError, match=re.escape(str(path))):
        vivim.load_checkpoint(path)


@pytest.mark.parametrize("name", ["nothing.pth", "b3"])
def test_missing_weights_are_refused(name: str) -> None:
    with pytest.raises(vivim.CheckpointError, match=f"{name}"):
        resolve_weights(name)


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.h5"
    path.write_bytes(b"\x89HDF")
    with pytest.raises(vivim.CheckpointError, match="expected a file ending in"):
        vivim.load_checkpoint(path)


def test_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    vivim.save_checkpoint(path, tiny())
    before = path.read_bytes()

    def fail(file: Path, data: bytes) -> None:
        with file.open("wb") as opened:
            opened.write(data[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(Exception, match="No space left"):
        vivim.save_checkpoint(path, tiny())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_weights_can_be_read_by_whoever_may_read_other_files(tmp_path: Path) -> None:
    vivim.save_checkpoint(tmp_path / "w.safetensors", tiny())
    (tmp_path / "other").touch()
    assert (tmp_path / "w.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("frames", [0, -3])
def test_a_checkpoint_is_not_loaded_for_clips_of_no_frames(tmp_path: Path, frames: int) -> None:
    vivim.save_checkpoint(tmp_path / "w.safetensors", tiny())
    with pytest.raises(vivim.ConfigError, match="expected at least 1"):
        vivim.load_checkpoint(tmp_path / "w.safetensors", frames)


def test_segformer_weights_of_no_preset_are_refused() -> None:
    with pytest.raises(vivim.CheckpointError, match="no SegFormer encoder"):
        vivim.from_segformer({"segformer.encoder.block.0.0.layer_norm_1.weight": torch.zeros(32)})
