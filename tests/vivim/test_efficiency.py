"""The efficiency study: what is counted, what is measured and within which limits, fits, tables, and the command."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vivim import Vivim
from vivim.config import VivimConfig
from vivim.efficiency import measuring, study
from vivim.efficiency.counting import Counts, count
from vivim.efficiency.growth import growth
from vivim.efficiency.measuring import Case, Limits, Outcome, Status, free_memory, measure
from vivim.efficiency.plot import growth_svg
from vivim.efficiency.report import growth_markdown, number, record, table_markdown
from vivim.efficiency.study import METHODS, Row, StudyOptions, Variant, run_growth, run_table
from vivim_runtime.commands.entry import main
from vivim_runtime.errors import ConfigError, InputError, VivimError

FRAMES = (5, 10, 20, 40)
LIMITS = Limits(memory=2_000_000_000, seconds=300.0)


def network(module: str, **changes: Any) -> VivimConfig:
    return VivimConfig.preset("tiny", st_module=module, **changes)


# --- counting -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "written_out", "memory_exponent", "flop_exponent"),
    [
        pytest.param("st_mamba", False, 1, 1, id="the network is linear in everything"),
        pytest.param("self_attention", False, 1, 2, id="fused attention keeps no scores but computes them"),
        pytest.param("self_attention", True, 2, 2, id="attention as it was when the paper was written"),
        pytest.param("window_attention", True, 1, 1, id="windows do not grow with the clip", marks=pytest.mark.slow),
    ],
)
def test_costs_from_5_to_40_frames_grow_as_they_should(
    module: str, written_out: bool, memory_exponent: int, flop_exponent: int
) -> None:
    """128 x 128. Windows are 8 frames long: at multiples of that, since the last one is a part of one elsewhere."""
    frames = (16, 24, 32, 40) if module == "window_attention" else FRAMES
    counts = [count(network(module), n, (128, 128), written_out) for n in frames]
    for exponent, costs in (
        (memory_exponent, [c.inference_bytes for c in counts]),
        (memory_exponent, [c.training_bytes for c in counts]),
        (flop_exponent, [c.flops for c in counts]),
    ):
        fit = growth(frames, costs)
        assert fit is not None
        if exponent == 1:
            # Counts have no noise: what is not a line shows. A few bytes are those of shapes that do not scale.
            assert fit.linear_r2 > 1 - 1e-6 and abs(fit.quadratic_share) < 1e-3
        else:
            # The linear part, all else in the network, is a tenth at 40 frames.
            assert fit.linear_r2 < 0.98 and fit.quadratic_share > 0.85


def test_flops_of_the_module_alone_are_those_of_its_definition() -> None:
    """Between networks that differ in one layer of one module, everything else cancels out."""
    frames, size, width = 3, (64, 64), 16
    tokens = frames * 16 * 16
    changes = {"widths": (width,) * 4, "heads": (1,) * 4, "reductions": (1,) * 4, "depths": (1,) * 4}
    stages = [frames * n * n for n in (16, 8, 4, 2)]
    without = count(network("st_mamba", mamba_layers=0, **changes), frames, size).flops
    feed_forward = sum(length * (2 * 2 * width * 4 * width + 2 * 27 * 4 * width) for length in stages)
    attention = sum(4 * length * 2 * width * width + 4 * length**2 * width for length in stages)
    assert count(network("self_attention", **changes), frames, size).flops - without == attention + feed_forward
    assert count(network("self_attention", **changes), frames, size, True).flops - without == attention + feed_forward
    inner, rank, states = 2 * width, 1, 16
    mamba = sum(
        length * 2 * width * 2 * inner  # in_proj
        + 3 * length * inner * (2 * 4 + 3)  # causal convolution of 4 taps, SiLU
        + 3 * length * 2 * inner * (rank + 2 * states)  # x_proj
        + 3 * length * inner * (2 * rank + 7 * states + 3)  # scan
        + length * 2 * inner * width  # out_proj
        for length in stages
    )
    assert count(network("st_mamba", **changes), frames, size).flops - without == mamba + feed_forward
    assert stages[0] == tokens


def test_counted_memory_has_weights_and_what_is_alive_at_once() -> None:
    config = network("self_attention")
    weights = 4 * sum(p.numel() for p in Vivim(config).parameters())
    counts = count(config, 20, (64, 64), True)
    scores = 4 * (20 * 16 * 16) ** 2
    # Scores and their softmax are alive together; some masks and copies may be.
    assert 2 * scores < counts.inference_bytes < 3 * scores
    assert counts.training_bytes > 3 * weights + scores
    small = count(config, 1, (32, 32))
    assert weights < small.inference_bytes < 1.2 * weights and 3 * weights < small.training_bytes < 3.3 * weights


def test_counting_refuses_clips_that_are_too_small() -> None:
    with pytest.raises(InputError, match="too small"):
        count(network("st_mamba"), 1, (16, 16))


# --- fits -----------------------------------------------------------------------------------------------------------


def test_fits_tell_a_line_from_a_parabola() -> None:
    line = growth(FRAMES, [3.0 + 2.0 * n for n in FRAMES])
    assert line is not None
    assert line.per_frame == pytest.approx(2) and line.linear_r2 == pytest.approx(1)
    assert line.quadratic_share == pytest.approx(0, abs=1e-9) and 0.8 < line.exponent < 1
    parabola = growth(FRAMES, [0.5 * n**2 for n in FRAMES])
    assert parabola is not None
    assert parabola.quadratic_share == pytest.approx(1) and parabola.exponent == pytest.approx(2)
    assert 0.9 < parabola.linear_r2 < 0.97
    mixed = growth(FRAMES, [40.0 * n + n**2 for n in FRAMES])
    assert mixed is not None and mixed.quadratic_share == pytest.approx(0.5)


def test_three_points_tell_nothing() -> None:
    assert growth(FRAMES[:3], [1.0, 2.0, 3.0]) is None
    flat = growth(FRAMES, [5.0] * 4)
    assert flat is not None and flat.linear_r2 == 1.0


# --- measuring, in processes ----------------------------------------------------------------------------------------


def test_a_case_is_measured_in_a_process_of_its_own() -> None:
    case = Case(network("self_attention"), 5, (128, 128), written_out=True, runs=2)
    outcome = measure(case, LIMITS)
    assert outcome.status is Status.MEASURED
    assert outcome.seconds is not None and outcome.seconds > 0
    assert outcome.cpu_seconds is not None and outcome.cpu_seconds > 0
    if outcome.peak_bytes is not None:
        # The scores of stage 1, (5 * 32 * 32)^2 floats, are most of it; kernels take what the count leaves out.
        counted = count(case.config, 5, (128, 128), True).inference_bytes
        assert 0.9 * counted < outcome.peak_bytes < 2 * counted


def test_training_takes_more_than_inference() -> None:
    case = Case(network("st_mamba"), 4, (64, 64), training=True, runs=1)
    outcome = measure(case, LIMITS)
    assert outcome.status is Status.MEASURED
    if outcome.peak_bytes is not None:
        assert outcome.peak_bytes > count(case.config, 4, (64, 64)).training_bytes


@pytest.mark.parametrize("training", [False, True])
def test_a_training_step_is_one(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Vivim(network("st_mamba"))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    monkeypatch.setattr(measuring, "Vivim", lambda config: model)
    measuring._work(Case(model.config, 2, (64, 64), training=training), (2, 3, 64, 64))()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    # In training all parameters, and BatchNorm's running statistics too.
    assert changed == (set(before) if training else set())


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_memory_beyond_the_limit_is_refused_and_told() -> None:
    case = Case(network("self_attention"), 10, (128, 128), written_out=True)
    assert measure(case, Limits(200_000_000, 300.0)) == Outcome(Status.OUT_OF_MEMORY)


def test_a_case_that_takes_too_long_is_ended() -> None:
    assert measure(Case(network("st_mamba"), 5, (64, 64)), Limits(10**9, 0.05)) == Outcome(Status.TOO_SLOW)


def test_errors_of_a_case_are_raised_where_it_was_asked_for() -> None:
    with pytest.raises(InputError, match="too small"):
        measure(Case(network("st_mamba"), 1, (16, 16)), LIMITS)
    with pytest.raises(VivimError, match=r"(?s)Traceback.*RuntimeError") as caught:
        measure(Case(network("st_mamba"), 1, (64, 64), device="no device"), LIMITS)
    assert caught.value.exit_code == 1


def test_free_memory_of_this_machine() -> None:
    free = free_memory("cpu")
    assert free is None or 10**8 < free < 10**14


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_measured_time_and_memory_from_5_to_40_frames_at_128() -> None:
    """Issue 7: those of the network grow linearly, those of self-attention do not."""

    def fits(module: str, frames: tuple[int, ...], written_out: bool = False) -> list[float]:
        cases = [Case(network(module), n, (128, 128), written_out=written_out) for n in frames]
        outcomes = [measure(case, LIMITS) for case in cases]
        found = [
            growth(frames, [o.peak_bytes or 0 for o in outcomes]),
            growth(frames, [o.cpu_seconds or 0 for o in outcomes]),
        ]
        return [fit.exponent for fit in found if fit]

    memory, time = fits("st_mamba", FRAMES)
    # 1 but for a constant part and, where other work shares the processor, its noise.
    assert 0.8 < memory < 1.2 and 0.8 < time < 1.2
    memory, time = fits("self_attention", FRAMES)
    assert 0.8 < memory < 1.2 and time > 1.35
    memory, time = fits("self_attention", (4, 6, 8, 10), written_out=True)
    assert memory > 1.6 and time > 1.35


# --- the study ------------------------------------------------------------------------------------------------------

ON_CPU = Outcome(Status.MEASURED, 50_000_000, 1.5, 1.25)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """The cases that are asked for; every one takes 10 MB and 0.1 s a frame, and 100 frames are too slow."""
    cases: list[Case] = []

    def instead(case: Case, limits: Limits) -> Outcome:
        cases.append(case)
        if case.frames >= 100:
            return Outcome(Status.TOO_SLOW)
        factor = 3 if case.training else 1
        return Outcome(Status.MEASURED, factor * 10_000_000 * case.frames, 0.2 * case.frames, 0.1 * case.frames)

    monkeypatch.setattr(study, "measure", instead)
    return cases


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts of 1 MB a frame in inference and 5 in training, at once."""
    monkeypatch.setattr(study, "count", lambda config, frames, *more: Counts(frames * 10**6, 5 * frames * 10**6, 10**9))


def options(**changes: Any) -> StudyOptions:
    small: dict[str, Any] = {"frames": 2, "size": (64, 64), "growth_frames": (1, 2, 3, 4), "growth_size": (32, 64)}
    return StudyOptions(**{"limits": LIMITS, **small, **changes})


def test_table_has_every_module_with_both_kinds_of_attention(measured: list[Case], counted: None) -> None:
    rows = list(run_table(options()))
    assert [(r.variant.module, r.variant.written_out) for r in rows] == [
        (module, written_out) for written_out in (True, False) for module in METHODS
    ]
    assert [(c.training, c.written_out, c.config.st_module) for c in measured[:3]] == [
        (False, True, "self_attention"),
        (True, True, "self_attention"),
        (False, True, "window_attention"),
    ]
    assert {(c.frames, c.size, c.config.preset_name) for c in measured if c.config.st_module == "st_mamba"} == {
        (2, (64, 64), "tiny")
    }
    assert list(run_table(options(frames=0))) == []


def test_figure_compares_self_attention_and_st_mamba(measured: list[Case], counted: None) -> None:
    rows = list(run_growth(options(written_out=(False,))))
    assert [(r.variant.label, r.frames) for r in rows] == [
        (label, n) for label in ("M1, fused", "ours, fused") for n in (1, 2, 3, 4)
    ]
    assert not any(c.training for c in measured) and {c.size for c in measured} == {(32, 64)}
    assert list(run_growth(options(growth_frames=()))) == []
    assert list(run_growth(options(modules=("window_attention",)))) == []


def test_what_cannot_fit_is_not_run(measured: list[Case], counted: None) -> None:
    rows = list(run_table(options(limits=Limits(9_000_000, 300.0), modules=("st_mamba",), written_out=(False,))))
    assert rows[0].inference.status is Status.MEASURED  # counted: 2 MB
    assert rows[0].training is not None and rows[0].training.status is Status.TOO_LARGE  # 10 MB
    assert [c.training for c in measured] == [False]


def test_no_runs_leave_the_counts(measured: list[Case]) -> None:
    (row,) = run_table(options(runs=0, modules=("st_mamba",), written_out=(False,), limits=Limits(1, 1.0)))
    assert measured == [] and row.inference.status is Status.NOT_RUN and row.training == row.inference
    assert row.counts == count(network("st_mamba"), 2, (64, 64))
    figures = cells(table_markdown([row], options()))[2][3:]
    assert figures[:5] == ["-", "-", "-", "-", number(row.counts.training_bytes / 1e6)]


def test_longer_clips_than_one_that_was_too_slow_are_not_run(measured: list[Case], counted: None) -> None:
    chosen = options(growth_frames=(1, 100, 101), modules=("st_mamba",), written_out=(False,))
    statuses = [row.inference.status for row in run_growth(chosen)]
    assert statuses == [Status.MEASURED, Status.TOO_SLOW, Status.TOO_SLOW]
    assert [c.frames for c in measured] == [1, 100]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": -1}, "--frames is -1; expected at least 0"),
        ({"runs": -1}, "--runs is -1; expected at least 0"),
        ({"threads": -1}, "--threads is -1"),
        ({"limits": Limits(0, 1.0)}, "--memory-limit is 0"),
        ({"limits": Limits(1, float("nan"))}, "--time-limit is nan"),
        ({"preset": "b9"}, "no preset 'b9'"),
    ],
)
def test_options_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        options(**changes)


# --- tables, record and picture -------------------------------------------------------------------------------------

COUNTS = Counts(4_000_000, 20_000_000, 3_000_000_000)


def rows_of(module: str, written_out: bool, outcomes: list[Outcome]) -> list[Row]:
    variant = Variant(module, written_out)  # type: ignore[arg-type]
    return [Row(variant, n, COUNTS, outcome) for n, outcome in zip(FRAMES, outcomes, strict=True)]


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()]


def test_table_says_what_is_not_there_and_why() -> None:
    rows = [
        Row(Variant("self_attention", True), 2, COUNTS, Outcome(Status.TOO_LARGE), Outcome(Status.OUT_OF_MEMORY)),
        Row(Variant("st_mamba", False), 2, COUNTS, ON_CPU, Outcome(Status.TOO_SLOW)),
    ]
    head, _, first, second = cells(table_markdown(rows, options()))
    assert head[3:9] == ["TM, MB", "IM, MB", "run time, s", "CPU time, s", "training step, s", "its CPU time, s"]
    assert first[:9] == [
        *("M1", "spatio-temporal self-attention", "written out"),
        *("OOM", "OOM (> 4 MB counted)", "-", "-", "-", "-"),
    ]
    assert second[2:] == ["fused", "> 300 s", "50", "1.5", "1.25", "-", "-", "20", "4", "3", "yes"]
    on_gpu = Row(Variant("window_attention", False), 2, COUNTS, Outcome(Status.MEASURED, 10**9, 0.5), ON_CPU)
    head, _, row = cells(table_markdown([on_gpu], options()))
    assert "CPU time, s" not in head
    assert row[3:] == ["50", "1,000", "0.5", "1.5", "20", "4", "3", "no"]


def test_growth_is_shown_with_its_fits() -> None:
    line = [Outcome(Status.MEASURED, 10_000_000 * n, 0.2 * n, 0.1 * n) for n in FRAMES]
    rows = rows_of("st_mamba", False, line) + rows_of(
        "self_attention", True, [*line[:3], Outcome(Status.OUT_OF_MEMORY)]
    )
    points, fits = (cells(part) for part in growth_markdown(rows, options()).split("\n\n"))
    assert points[2] == ["ours, fused", "5", "50", "1", "0.5", "4", "3"]
    assert points[-1] == ["M1, written out", "40", "OOM", "-", "-", "4", "3"]
    assert fits[2] == ["ours, fused", "memory, MB", "5 to 40", "10", "1.0000", "0 %", "1.00"]
    # Three points are left of what was measured, so only the counts have fits.
    assert [fit[1] for fit in fits[2:] if fit[0].startswith("M1")] == ["counted memory, MB", "counted GFLOP"]
    kept = record([], rows, options())
    json.dumps(kept)
    assert kept["growth"][0]["inference"] == {
        "status": "measured", "peak_bytes": 50_000_000, "seconds": 1.0, "cpu_seconds": 0.5
    }  # fmt: skip
    assert kept["fits"][0]["exponent"] == pytest.approx(1)


def test_numbers_have_three_digits() -> None:
    assert [number(x) for x in (0.01234, 1.5, 12.345, 123.4, 12345.6)] == ["0.0123", "1.5", "12.3", "123", "12,346"]


def test_picture_is_well_formed_and_marks_what_is_missing() -> None:
    line = [Outcome(Status.MEASURED, 10_000_000 * n, 0.2 * n, 0.1 * n) for n in FRAMES]
    rows = rows_of("st_mamba", False, line) + rows_of(
        "self_attention", True, [*line[:3], Outcome(Status.OUT_OF_MEMORY)]
    )
    picture = growth_svg(rows, options())
    root = xml.etree.ElementTree.fromstring(picture)
    assert len(root.findall("{*}circle")) == 2 * (4 + 3)
    assert picture.count("ST-Mamba, fused") == 1 and picture.count("self-attention, written out") == 1
    # Ten times as many frames are ten times as much: the line has the slope of the linear guide, here 45 degrees.
    points = [
        [tuple(map(float, p.split(","))) for p in line.get("points", "").split()]
        for line in root.findall("{*}polyline")
        if line.get("stroke") == "#2563a8"
    ]
    (x0, y0), *_, (x1, y1) = points[0]
    assert (x1 - x0, y0 - y1) == pytest.approx((330, 300 * 0.903 / 2), abs=1)  # log10(8) of 2 decades, 10 to 1000 MB
    nothing = growth_svg(rows_of("st_mamba", False, [Outcome(Status.TOO_SLOW)] * 4), options())
    assert nothing.count("nothing was measured") == 2


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed vivim-edge registers it."""

    def load() -> Any:
        from vivim.commands.paper import app

        return app

    def select(group: str, name: str) -> list[Any]:
        return [SimpleNamespace(load=load)] if (group, name) == ("vivim.studies", "paper") else []

    installed = [SimpleNamespace(entry_points=SimpleNamespace(select=select))]
    monkeypatch.setattr("vivim_runtime.commands.bench.distributions", lambda: installed)


def call(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-bench", *args])
    with pytest.raises(SystemExit) as caught:
        main("vivim-bench", "vivim_runtime.commands.bench")
    return int(caught.value.code or 0)


SMALL = ("--frames", "2", "--imgsz", "64", "--growth", "1,2,3,4", "--growth-imgsz", "32x64", "--memory-limit", "2G")


def test_the_study_is_a_command_of_vivim_bench(
    registered: None,
    measured: list[Case],
    counted: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    outputs = ("--json", "e.json", "--markdown", "e.md", "--plot", "e.svg")
    assert call(monkeypatch, "paper", *SMALL, *outputs, "--modules", "st_mamba,self_attention") == 0
    printed, told = capsys.readouterr()
    assert printed.startswith("Table IV: tiny, a clip of 2 x 64 x 64, cpu\n\n|      | core module")
    assert "Fig. 7 (b): tiny, clips of 32 x 64, cpu" in printed
    assert "ours, fused, 2 frames: inference 0.4 s, 20 MB; training 0.4 s, 60 MB\n" in told
    assert Path("e.md").read_text() == printed[:-1]
    content = json.loads(Path("e.json").read_text())
    assert len(content["table"]) == 4 and len(content["growth"]) == 16 and len(content["fits"]) == 20
    assert content["machine"]["torch"] == torch.__version__
    assert content["options"]["limits"] == {"memory": 2_000_000_000, "seconds": 600.0}
    xml.etree.ElementTree.parse("e.svg")
    assert {case.threads for case in measured} == {1}


def test_table_or_figure_alone(
    registered: None, measured: list[Case], counted: None, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert call(monkeypatch, "paper", *SMALL, "--growth", "0", "--attention", "fused", "--modules", "st_mamba") == 0
    assert "Fig. 7" not in capsys.readouterr().out and len(measured) == 2
    assert call(monkeypatch, "paper", *SMALL, "--frames", "0", "--attention", "written", "--modules", "st_mamba") == 0
    assert "Table IV" not in capsys.readouterr().out and len(measured) == 6


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--growth", "5,,10"), "--growth is 5,,10; expected numbers"),
        (("--growth", "9" * 5000), "--growth is 9999"),
        (("--imgsz", "0"), "--imgsz is 0; expected one number"),
        (("--modules", "mamba"), "--modules has mamba; expected some of self_attention,"),
        (("--attention", "flash"), "--attention is flash; expected fused, written or both"),
        (("--device", "tpu"), "--device is tpu; expected cpu, cuda"),
        (("--device", "cuda:99"), "--device is cuda:99, and PyTorch finds"),
        (("--device", "cuda:" + "9" * 5000), "--device is cuda:9999"),
        (("--memory-limit", "9" * 5000), "--memory-limit is 9999"),
        (("--memory-limit", "much"), "--memory-limit is much; expected bytes, or 500M, 8G"),
        (("--json", "x", "--plot", "x"), "an output is named twice"),
        (("--imgsz", "16"), "too small"),
        (("--bogus",), "No such option: --bogus"),
        (("extra",), "unexpected extra argument"),
    ],
)
def test_options_that_say_nothing_sensible_are_refused(
    args: tuple[str, ...],
    message: str,
    registered: None,
    measured: list[Case],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, "paper", *SMALL, *args) == 2
    assert re.search(re.escape(message), capsys.readouterr().err)
    assert measured == []


def test_memory_limits_have_units() -> None:
    from vivim.commands.paper import _limit

    assert [_limit(text, "cpu") for text in ("12", "3k", "500M", "1.5GB")] == [12, 3_000, 500_000_000, 1_500_000_000]
    free = free_memory("cpu")
    if free is not None:
        assert _limit(None, "cpu") == pytest.approx(free / 2, rel=0.3)


def test_models_need_no_command_before_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for args in (("nothing.onnx", "--batch", "0"), ("models", "nothing.onnx", "--batch", "0")):
        assert call(monkeypatch, *args) == 2
        assert capsys.readouterr().err == "error: --batch is 0; expected 1 or more\n"
    assert call(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    assert "--iterations" in printed and "vivim-bench paper --help" in printed


@pytest.mark.parametrize("missing", ["nothing registered", "no torch"])
def test_study_without_pytorch_names_the_extra(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load() -> Any:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    found = [SimpleNamespace(load=load)] if missing == "no torch" else []
    installed = [SimpleNamespace(entry_points=SimpleNamespace(select=lambda group, name: found))]
    monkeypatch.setattr("vivim_runtime.commands.bench.distributions", lambda: installed)
    assert call(monkeypatch, "paper") == 2
    assert "vivim-bench paper needs the extra 'train'" in capsys.readouterr().err
