"""Checkpoints as training scripts write them: with options, averaged weights, networks of losses; and hostile ones."""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vivim
from tests.golden.cases import FOLDER, upstream_state
from vivim.commands.train import app
from vivim.pickled import _SUFFIXES, read_foreign
from vivim.session import open_runner
from vivim.training.fit import FitConfig, _network
from vivim_runtime.errors import CheckpointError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def upstream() -> State:
    """Entries with the names that the authors' network has, small."""
    keys = json.loads((FOLDER / "state_dict_b3_noedge.json").read_text())
    torch.manual_seed(0)
    return {key: torch.tensor(0) if "num_batches" in key else torch.randn(2) for key in keys}


def same(found: State, expected: State) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def shifted(state: State) -> State:
    """Other weights of the same network."""
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


OPTIONS = {
    "options": argparse.Namespace(lr=1e-4, data="/data", sizes=[256, 256], nested=argparse.Namespace(a=1)),
    "best": np.float64(0.87),
    "epochs": np.int64(100),
    "curve": np.arange(5, dtype=np.float32),
    "dtype": np.dtype("float32"),
    "ordered": collections.OrderedDict(a=1),
    "path": pathlib.PosixPath("/out"),
    "tags": {"a", "b"},
}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_a_checkpoint_of_the_authors_script_loads(tmp_path: Path, precision: torch.dtype) -> None:
    """Lightning's form: options as hyper-parameters, the network under `model.`, a loss network beside it."""
    upstream = {k: v.to(precision) if v.is_floating_point() else v for k, v in upstream_state((1, 1, 1, 1)).items()}
    state = {
        **prefixed(upstream, "model."),
        "criterion.net.slice1.0.weight": torch.zeros(3),
        "criterion.lin0.model.1.weight": torch.zeros(2),
    }
    checkpoint = {
        "epoch": 9,
        "global_step": 900,
        "pytorch-lightning_version": "2.1.0",
        "state_dict": state,
        "hyper_parameters": {"hparams": OPTIONS["options"]},
        "hparams_name": "hparams",
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-4}]}],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.8), "best_model_path": "a.ckpt"}},
        "loops": None,
    }
    torch.save(checkpoint, tmp_path / "last.ckpt")
    loaded = vivim.load_checkpoint(tmp_path / "last.ckpt")
    assert all(value.dtype == torch.float32 for value in loaded.parameters())
    assert same(loaded.state_dict(), vivim.from_upstream(upstream).state_dict())


@pytest.mark.parametrize("name", OPTIONS)
def test_harmless_options_beside_the_weights_are_let_through(tmp_path: Path, upstream: State, name: str) -> None:
    torch.save({"model": upstream, name: OPTIONS[name]}, tmp_path / "w.pth")
    assert same(read_foreign(tmp_path / "w.pth").tensors, upstream)


class _Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, ("echo pwned > pwned",))


class _Attribute:
    def __reduce__(self) -> tuple[Any, ...]:
        return (getattr, ("text", "upper"))


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param(_Hostile(), id="a command"),
        pytest.param(_Attribute(), id="an attribute"),
        pytest.param(argparse.Namespace(a=_Hostile()), id="within options"),
        pytest.param(np.array([_Hostile()], dtype=object), id="within an array of objects"),
        pytest.param(eval, id="a builtin function"),
    ],
)
def test_a_hostile_checkpoint_is_refused_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upstream: State, hostile: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": {"a": torch.zeros(1)}, "x": hostile}, tmp_path / "w.pth")
    with pytest.raises(vivim.CheckpointError, match="running them is unsafe"):
        vivim.load_checkpoint(tmp_path / "w.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "name", ["w.pth.tar", "W.PTH", "w.CKPT", "model_best.pth.tar", pytest.param("w.Pt", id="mixed case")]
)
def test_suffixes_of_other_scripts_are_known(tmp_path: Path, upstream: State, name: str) -> None:
    torch.save({"state_dict": upstream, "epoch": 3}, tmp_path / name)
    assert same(read_foreign(tmp_path / name).tensors, upstream)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda s: {**s, "total_ops": torch.zeros(1), "total_params": torch.zeros(1)}, id="profiler"),
        pytest.param(lambda s: {**s, "encoder.total_ops": torch.zeros(1)}, id="profiler, inner"),
        pytest.param(lambda s: {k: v for k, v in s.items() if "num_batches" not in k}, id="no num_batches_tracked"),
        pytest.param(lambda s: prefixed(s, "module."), id="distributed"),
        pytest.param(lambda s: prefixed(s, "_orig_mod.model.module."), id="compiled"),
        pytest.param(lambda s: prefixed(s, "network.vivim."), id="a prefix of their own"),
        pytest.param(
            lambda s: {(k if k.startswith("out.") else "module." + k): v for k, v in s.items()}, id="a prefix some lack"
        ),
        pytest.param(lambda s: {**prefixed(s, "module."), "n_averaged": torch.tensor(3)}, id="AveragedModel"),
        pytest.param(lambda s: {**s, "criterion.weight": torch.zeros(2)}, id="a loss beside names without prefix"),
        pytest.param(lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()}, id="fp16"),
        pytest.param(lambda s: {k: v.bfloat16() if v.is_floating_point() else v for k, v in s.items()}, id="bf16"),
    ],
)
def test_entries_that_wrappers_change_or_add_are_put_right(tmp_path: Path, upstream: State, change: Any) -> None:
    changed = change(upstream)
    torch.save({"state_dict": changed}, tmp_path / "w.pth")
    found = read_foreign(tmp_path / "w.pth").tensors
    half = next(v.dtype for v in changed.values() if v.is_floating_point())
    assert same(found, {k: v.to(half) if v.is_floating_point() else v for k, v in upstream.items()})


def test_an_entry_of_the_network_that_is_unknown_is_still_refused(tmp_path: Path) -> None:
    upstream = upstream_state((1, 1, 1, 1))
    torch.save(prefixed({**upstream, "encoder.head.weight": torch.zeros(2)}, "model."), tmp_path / "w.pth")
    with pytest.raises(vivim.CheckpointError, match="1 unexpected keys: encoder.head.weight"):
        vivim.load_checkpoint(tmp_path / "w.pth")


@pytest.mark.parametrize(
    "wrapped",
    [
        pytest.param(lambda raw, ema: {"model": raw, "ema": ema}, id="ema"),
        pytest.param(lambda raw, ema: {"state_dict": raw, "state_dict_ema": ema}, id="state_dict_ema"),
        pytest.param(lambda raw, ema: {"model_ema": ema, "model": raw}, id="model_ema before"),
        pytest.param(lambda raw, ema: {"model": raw, "ema": {"module": ema, "updates": 3}}, id="ema.module"),
        pytest.param(
            lambda raw, ema: {"state_dict": {**prefixed(raw, "model."), **prefixed(ema, "ema_model.")}}, id="by prefix"
        ),
        pytest.param(lambda raw, ema: {"net": raw, "optimizer": {"state": {}}, "ema": {"shadow": ema}}, id="shadow"),
    ],
)
def test_of_trained_and_averaged_weights_the_user_chooses_and_is_told(
    tmp_path: Path, upstream: State, wrapped: Any
) -> None:
    averaged = shifted(upstream)
    torch.save(wrapped(upstream, averaged), tmp_path / "w.pth")
    trained = read_foreign(tmp_path / "w.pth")
    assert same(trained.tensors, upstream)
    assert "the trained ones" in trained.notes[0] and "vivim-train convert --ema takes" in trained.notes[0]
    chosen = read_foreign(tmp_path / "w.pth", ema=True)
    assert same(chosen.tensors, averaged) and "the averaged ones" in chosen.notes[0]


def test_averaged_weights_alone_are_taken_and_said(tmp_path: Path, upstream: State) -> None:
    torch.save({"ema": upstream}, tmp_path / "w.pth")
    found = read_foreign(tmp_path / "w.pth")
    assert same(found.tensors, upstream)
    assert found.notes == ("w.pth holds averaged weights (EMA) alone: ema is taken",)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_a_training_or_an_evaluation_says_which_weights_it_took(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: str
) -> None:
    """`--ema` of `vivim-train fit` is a decay: the hint names the command whose --ema chooses."""
    trained = upstream_state((1, 1, 1, 1))
    torch.save({"state_dict": trained, "ema": shifted(trained)}, tmp_path / "w.pth.tar")
    if command == "train":
        entries = _network(FitConfig(init=str(tmp_path / "w.pth.tar")))[0].state_dict()
    else:
        with open_runner(str(tmp_path / "w.pth.tar"), (64, 64)) as session:
            entries = session._model.state_dict()  # type: ignore[attr-defined]
    assert torch.equal(entries["decoder.fuse.weight"], trained["decoder.linear_fuse.weight"])
    assert "the trained ones of state_dict are taken; vivim-train convert --ema takes the averaged ones" in caplog.text


def test_commands_of_the_runtime_open_checkpoints_of_every_suffix() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    registered = project["entry-points"]["vivim.runners"]
    assert {suffix.rsplit(".", 1)[-1] for suffix in _SUFFIXES} | {"safetensors", "name"} == set(registered)
    assert set(registered.values()) == {"vivim.session:open_runner"}


def test_convert_takes_averaged_weights_where_it_is_told_to(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trained = upstream_state((1, 1, 1, 1))
    averaged = shifted(trained)
    torch.save({"state_dict": trained, "ema": averaged}, tmp_path / "w.ckpt")
    app(["convert", str(tmp_path / "w.ckpt"), str(tmp_path / "o.safetensors"), "--ema"], standalone_mode=False)
    written = vivim.load_checkpoint(tmp_path / "o.safetensors").state_dict()
    assert torch.equal(written["decoder.fuse.weight"], averaged["decoder.linear_fuse.weight"])
    assert "the averaged ones of ema are taken" in caplog.text


# --- archives that unpack to more than they hold ------------------------------------------------------------------


def packed(source: Path, target: Path, kind: int) -> Path:
    """A checkpoint whose archive somebody has packed again."""
    with zipfile.ZipFile(source) as plain, zipfile.ZipFile(target, "w", kind) as out:
        for entry in plain.infolist():
            out.writestr(entry.filename, plain.read(entry))
    return target


def test_a_packed_checkpoint_is_read_up_to_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"w": torch.zeros(1 << 19)}, tmp_path / "a.pth")  # 2 MB of zeros
    path = packed(tmp_path / "a.pth", tmp_path / "b.pth", zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10_000 and read_foreign(path).tensors["w"].shape == (1 << 19,)
    monkeypatch.setattr("vivim.pickled._MOST_PACKED", 1 << 20)
    with pytest.raises(CheckpointError, match="unpacks to 2 MiB in .* entries; expected what torch.save writes"):
        read_foreign(path)


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(1 << 10)}, tmp_path / "a.pth")
    with zipfile.ZipFile(tmp_path / "a.pth", "a") as archive:
        (data,) = [entry for entry in archive.infolist() if entry.filename.endswith("data/0")]
        for number in range(500):  # in the directory alone, all at one place
            copy = zipfile.ZipInfo(f"a/data/{number + 1}")
            copy.CRC, copy.compress_size, copy.file_size = data.CRC, data.compress_size, data.file_size
            copy.header_offset = data.header_offset
            archive.filelist.append(copy)
        archive._didModify = True  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match="unpacks to"):
        read_foreign(tmp_path / "a.pth")
