"""Networks of others to ONNX files that are proven before they appear, and what blocks an export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxscript.rewriter
import pytest
import torch
from typer.testing import CliRunner

from vivim_export.commands import app
from vivim_export.engine import EngineOptions, build_engine
from vivim_export.foreign import ForeignOptions, ForeignReport, export_network, inspect_network, load_network, stand_ins
from vivim_export.foreign.exporting import _Pictures, run_file
from vivim_export.foreign.parity import Truth, agreement
from vivim_export.foreign.tracing import _linear_rules
from vivim_runtime import open_session
from vivim_runtime.errors import ModelError, ParityError, UsageError

FORKS = Path(__file__).parent / "forks"


def export(name: str, output: Path, shape: tuple[int, ...], **options: object) -> ForeignReport:
    torch.manual_seed(0)
    with stand_ins([FORKS]):
        network = load_network(f"replica:{name}", [FORKS])
        return export_network(network, output, ForeignOptions(shape, folders=(FORKS,), title=name, **options))


def test_the_optimiser_goes_without_its_quadratic_rule_and_has_it_back() -> None:
    def rules() -> list[str]:
        return [rule.name for rule in onnxscript.rewriter._DEFAULT_REWRITE_RULES]

    before = rules()
    assert "SlicesSplit" in before  # else the name has changed, and exports are quadratic again
    with pytest.raises(KeyError), _linear_rules():
        assert rules() == [name for name in before if name != "SlicesSplit"]
        raise KeyError
    assert rules() == before


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node if node.domain == "vivim"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("one_direction", (1, 12, 8), {"CausalConv1d", "SelectiveScan"}),
        ("two_directions", (2, 12, 8), {"CausalConv1d", "SelectiveScan"}),
        ("three_directions", (1, 12, 8), {"CausalConv1d", "SelectiveScan"}),
        ("mixers", (1, 12, 8), {"S6Scan"}),
        ("mixed", (1, 3, 8, 12), {"SelectiveScan", "S6Scan"}),
    ],
)
@pytest.mark.parametrize("fuse", [True, False])
def test_every_shape_of_module_is_exported(
    name: str, shape: tuple[int, ...], expected: set[str], fuse: bool, tmp_path: Path
) -> None:
    report = export(name, tmp_path / "m.onnx", shape, fuse=fuse)
    assert report.agreement.passed and report.agreement.against_double <= 2e-6
    assert operators(tmp_path / "m.onnx") == (expected if fuse else {"S6Scan"})


def test_a_network_is_exported_with_an_open_batch_and_names(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    report = export("crossing", path, (1, 3, 8, 12), dynamic_batch=True, input_name="x", output_names=("masks",))
    assert (report.fused, operators(path)) == (2, {"SelectiveScan"})
    proto = onnx.load(path)
    assert [value.name for value in (*proto.graph.input, *proto.graph.output)] == ["x", "masks"]
    for bodies in (True, False):
        for batch in (1, 5):
            assert run_file(path, bodies)(np.zeros((batch, 3, 8, 12), np.float32))[0].shape == (batch, 2, 8, 12)
    parity = json.loads(next(entry.value for entry in proto.metadata_props if entry.key == "vivim.parity"))
    assert parity["inputs"] == 2 and parity["against_double"] <= parity["budget"]


@pytest.mark.slow
def test_a_segmentation_of_single_pictures_runs_in_vivim_run(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export("crossing", path, (1, 3, 16, 24), classes=("background", "lesion"), outputs="softmax", std=(0.2,) * 3)
    with open_session(path) as session:
        assert [info.name for info in session.info.classes] == ["background", "lesion"]
        assert session(np.zeros((1, 1, 16, 24, 3), np.uint8)).shape == (1, 1, 2, 16, 24)


def test_log_odds_are_those_of_the_softmax_and_of_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 4) * 3
    for outputs, given in (("softmax", logits), ("probabilities", logits.softmax(1)), ("logits", logits)):
        options = ForeignOptions((1, 3, 4, 4), classes=("a", "b", "c"), outputs=outputs)
        network = torch.nn.Module()
        network.forward = lambda x, given=given: given
        found = _Pictures(network, options)(torch.zeros(2, 1, 4, 4, 3, dtype=torch.uint8))[:, 0]
        expected = logits.double() if outputs == "logits" else torch.logit(logits.double().softmax(1))
        usual = expected.abs() < 6  # beyond, 1 - p in float32 is a few hundred ulp: 6e-8 e^6 = 2e-5
        assert (found - expected)[usual].abs().max() <= 1e-4 and torch.equal(found > 0, expected > 0)


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ("", "say what the network gives"),
        ("masks", "--outputs is masks"),
        ("probabilities", "does not lie within 0 and 1"),
    ],
)
def test_what_the_network_gives_must_be_said_and_fit(outputs: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words):
        export("crossing", tmp_path / "m.onnx", (1, 3, 16, 24), classes=("background", "lesion"), outputs=outputs)


@pytest.mark.slow
def test_half_precision_is_held_to_what_half_weights_cost(tmp_path: Path) -> None:
    report = export("crossing", tmp_path / "m.onnx", (1, 3, 16, 24), precision="fp16")
    assert 1e-5 < report.agreement.against_double <= report.agreement.budget < 1e-2
    types = {tensor.data_type for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT16 in types


@pytest.mark.parametrize(
    ("name", "shape", "options", "words"),
    [
        ("FixedBatch", (1, 12, 8), {"dynamic_batch": True}, r"fixes its batch: forks/replica\.py:\d+ `batch = int\("),
        ("Branching", (2, 3), {}, r"cannot be traced at forks/replica\.py:\d+ `if x\.sum\(\) > 0"),
        ("crossing", (1, 3, 7), {}, r"running the network fails at forks/replica\.py"),
    ],
)
def test_what_blocks_an_export_is_said_with_a_line_of_theirs(
    name: str, shape: tuple[int, ...], options: dict[str, bool], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        export(name, tmp_path / "m.onnx", shape, **options)
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_the_network_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivim_export.foreign.parity._FACTOR", 0.0)
    monkeypatch.setattr("vivim_export.foreign.parity._FLOOR", 1e-12)
    with pytest.raises(ParityError, match=r"from float64, budget 1\.0e-12.*nothing was written") as caught:
        export("one_direction", tmp_path / "m.onnx", (1, 12, 8))
    assert isinstance(caught.value.comparison, ForeignReport) and list(tmp_path.iterdir()) == []


def test_a_network_that_ignores_its_input_proves_nothing() -> None:
    same = [Truth(torch.zeros(1), (np.ones(3),), (np.ones(3),), 0.0) for _ in range(2)]
    assert "the same for two inputs" in agreement(same, lambda x: [np.ones(3)]).failures[0]


def test_numbers_that_are_none_never_agree() -> None:
    truths = [Truth(torch.zeros(1), (np.full(3, i + 1.0),), (np.full(3, i + 1.0),), 0.0) for i in range(2)]
    assert not agreement(truths, lambda x: [np.full(3, np.nan)]).passed
    assert not agreement(truths, lambda x: [np.ones(4)]).passed
    assert not agreement(truths, lambda x: []).passed


def test_the_budget_is_what_the_network_makes_of_it() -> None:
    """Float32 PyTorch is 1e-4 from float64 here: a file may be four times as far, and no farther."""
    exact = np.linspace(1, 2, 100)
    truths = [Truth(torch.zeros(1), (exact * (s + 1e-4),), (exact * s,), 0.0) for s in (1.0, 2.0)]
    calls = iter((1.0 + 3e-4, 2.0 + 3e-4))
    found = agreement(truths, lambda x: [exact * next(calls)])
    assert found.passed and found.budget == pytest.approx(4e-4, rel=1e-3)
    calls = iter((1.0 + 5e-4, 2.0 + 5e-4))
    assert not agreement(truths, lambda x: [exact * next(calls)]).passed


@pytest.mark.slow
def test_inspection_says_scans_and_what_blocks() -> None:
    with stand_ins([FORKS]):
        network = load_network("replica:FixedBatch", [FORKS])
        found = inspect_network(network, ForeignOptions((1, 12, 8), folders=(FORKS,)))
    assert [(call.length, call.states) for call in found.calls] == [(12, 4)]
    assert found.fused == 1 and found.blocked == "" and "fixes its batch" in found.batch_blocked


@pytest.mark.slow
def test_the_commands(tmp_path: Path) -> None:
    common = ["--model", "replica:crossing", "--path", str(FORKS), "--input", "1x3x8x12"]
    shown = CliRunner().invoke(app, ["inspect", *common])
    assert shown.exit_code == 0, shown.output
    assert "2 x L 24, 64 channels in 4 groups, N 1" in shown.output and "possible" in shown.output
    output = tmp_path / "m.onnx"
    done = CliRunner().invoke(app, ["onnx", *common, "-o", str(output), "--json", str(tmp_path / "m.json")])
    assert done.exit_code == 0, done.output
    assert output.is_file() and json.loads((tmp_path / "m.json").read_text())["parity"]["inputs"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["onnx"], "there are no weights"),
        (["onnx", "--model", "a:b"], "--model needs --input"),
        (["onnx", "--model", "a:b", "--input", "1x3x8x8", "--imgsz", "64"], "--imgsz is of Vivim's own network"),
        (["onnx", "--weights", "tiny", "--classes", "a,b"], "--classes is of networks of others"),
        (["onnx", "--model", "a:b", "--input", "1x8x8", "--classes", "a"], "expected pictures"),
        (["onnx", "--model", "a:b", "--input", "1x3x8x8", "--classes", "a", "--std", "0,1,1"], "numbers above 0"),
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError) and words in str(result.exception)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "shape"), [("crossing", (1, 3, 8, 12)), ("mixers", (1, 12, 8))])
def test_an_engine_of_tensorrt_for_rtx_is_built_without_a_gpu(
    name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    """Both operators, in standard layers."""
    export(name, tmp_path / "m.onnx", shape)
    options = EngineOptions(precision="fp32", backend="rtx", compute_capabilities=("8.9",))
    record, comparison = build_engine(tmp_path / "m.onnx", tmp_path / "m.engine", options)
    assert comparison is None and record.engine_bytes == (tmp_path / "m.engine").stat().st_size
    assert record.description["vivim.network"] == name
    assert int(record.build_flags["layers"]) >= len(record.layers) > 0
