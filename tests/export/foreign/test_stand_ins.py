"""Stand-ins: what they replace, that nothing of them stays, and what is said of code that cannot be loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vivim_export.foreign import load_network, stand_ins
from vivim_export.foreign.loading import build_arguments, input_shape
from vivim_export.foreign.parity import doubled
from vivim_export.foreign.stand_ins import Unsupported, plain_loops, recorded_scans, scan, without_triton
from vivim_runtime.errors import CheckpointError, ModelError, UsageError

FORKS = Path(__file__).parent / "forks"
STOOD_IN = ("selective_scan", "causal_conv1d", "mamba_ssm", "triton", "replica")


def snapshot() -> tuple[object, ...]:
    names = sorted(name for name in sys.modules if name.partition(".")[0].startswith(STOOD_IN))
    patched = (torch.cuda.device, torch.SymInt.__int__, torch.Tensor.float, torch.get_default_dtype())
    return (names, list(sys.path), *patched)


def test_nothing_stays_patched() -> None:
    before = snapshot()
    with stand_ins([FORKS]):
        import triton

        network = load_network("replica:two_directions", [FORKS])
        assert triton.__version__ == "0.0.0" and snapshot() != before
    assert snapshot() == before
    # What was built keeps what it needs.
    assert network(torch.zeros(1, 4, 8)).shape == (1, 4, 8)


def test_nothing_stays_patched_after_a_failure() -> None:
    before = snapshot()
    with pytest.raises(ModelError), stand_ins([FORKS]):
        load_network("gpu_only:build", [FORKS])
    assert snapshot() == before


def test_importing_the_package_patches_nothing() -> None:
    found = "[n for n in sys.modules if n.startswith(('selective_scan', 'mamba_'))]"
    code = f"import sys, vivim_export.foreign\nprint({found})"
    folders = [str(Path(__file__).parents[3] / name) for name in ("", "export", "runtime")]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {folders!r}\n{code}"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_an_installed_package_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "selective_scan_cuda.py").write_text("fwd = 'theirs'\n")
    with stand_ins([tmp_path]):
        import selective_scan_cuda

        assert selective_scan_cuda.fwd == "theirs"
    assert "selective_scan_cuda" not in sys.modules


def test_triton_is_hidden_where_torch_looks_for_it() -> None:
    with stand_ins():
        with without_triton():
            assert "triton" not in sys.modules
        assert "triton" in sys.modules


@pytest.mark.parametrize("name", ["one_direction", "two_directions", "three_directions", "mixers", "crossing", "mixed"])
def test_replicas_give_what_a_loop_over_the_steps_gives(name: str) -> None:
    torch.manual_seed(0)
    with stand_ins([FORKS]), torch.no_grad():
        network = load_network(f"replica:{name}", [FORKS])
        x = torch.randn(2, 3, 8, 12) if name in ("crossing", "mixed") else torch.randn(2, 12, 8)
        with recorded_scans() as calls:
            value = network(x)
        with plain_loops():
            loops = network(x)
        with doubled(network), plain_loops():
            exact = network(x.double())
            assert exact.untyped_storage().nbytes() == 8 * exact.numel()
    assert calls and all(Path(call.file).name == "replica.py" and call.line for call in calls)
    # Two ways to add in float32: some ulp (6e-8) a step.
    assert (value - loops).norm() <= 1e-6 * loops.norm()
    assert (value - exact).norm() <= 1e-6 * exact.norm()
    assert {p.dtype for p in network.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"A": torch.ones(4, 2, dtype=torch.complex64)}, "complex A"),
        ({"B": torch.ones(4, 2)}, "same at every step"),
        ({"B": torch.ones(1, 2, 2, 5)}, "different numbers of groups"),
    ],
)
def test_what_is_no_s6_is_refused_by_name(arguments: dict[str, torch.Tensor], words: str) -> None:
    given = {"u": torch.ones(1, 4, 5), "delta": torch.ones(1, 4, 5), "A": -torch.ones(4, 2)}
    given |= {"B": torch.ones(1, 2, 5), "C": torch.ones(1, 2, 5), **arguments}
    with pytest.raises(Unsupported, match=words):
        scan(**given)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu_only:build", r"forks/gpu_only\.py:5 `network = nn\.Linear\(2, 2\)\.to\(\"cuda\"\)`.*--on-cpu"),
        ("replica:Mamba.nothing", "replica has no Mamba.nothing; it has"),
        ("nothing:build", "there is no module nothing"),
        ("replica", r"expected package\.module:builder"),
        ("replica:snapshot", "replica has no snapshot"),
        ("replica:parameters", r"building replica:parameters fails at .*TypeError"),
        ("replica:math.floor", r"building replica:math\.floor fails"),
    ],
)
def test_what_cannot_be_loaded_gets_one_sentence(name: str, words: str) -> None:
    with pytest.raises((ModelError, UsageError), match=words) as caught, stand_ins([FORKS]):
        load_network(name, [FORKS])
    assert "\n" not in str(caught.value)


def test_what_is_sent_to_a_gpu_stays_on_the_cpu_where_that_is_asked_for() -> None:
    with stand_ins([FORKS]):
        network = load_network("gpu_only:build", [FORKS], on_cpu=True)
    assert next(network.parameters()).device.type == "cpu"


def test_a_package_that_is_absent_is_imported_inherited_from_and_not_called(tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(
        "import no_such.deep as deep\nfrom no_such import io, Base\nfrom torch import nn\n"
        "class Reader(Base): pass\nclass Other(Base.Inner): pass\n"
        "def build(): return nn.Linear(2, 2)\ndef reads(): return io.imread('x.png')\ndef makes(): return Reader()\n"
        "def loads(): return deep.load()\n"
    )
    with pytest.raises(ModelError, match=r"reader\.py:1 .*or say --absent no_such"), stand_ins([tmp_path]):
        load_network("reader:build", [tmp_path])
    before = list(sys.meta_path)
    with stand_ins([tmp_path], ["no_such", "torch"]):
        assert load_network("reader:build", [tmp_path])(torch.zeros(1, 2)).shape == (1, 2)
        for builder, name in (("reads", "io.imread"), ("makes", "Base"), ("loads", "deep.load")):
            with pytest.raises(ModelError, match=rf"no_such\.{name} is called, and no_such was said to be absent"):
                load_network(f"reader:{builder}", [tmp_path])
    assert list(sys.meta_path) == before
    assert not [name for name in sys.modules if name.startswith(("no_such", "reader"))]


def test_weights_are_those_of_the_network_or_are_refused(tmp_path: Path) -> None:
    with stand_ins([FORKS]):
        source = load_network("replica:one_direction", [FORKS])
        torch.save({"model": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "w.pth")
        loaded = load_network("replica:one_direction", [FORKS], weights=tmp_path / "w.pth")
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))
        with pytest.raises(CheckpointError, match=r"lacks blocks\.0\.A_b_log.*--build-args"):
            load_network("replica:two_directions", [FORKS], weights=tmp_path / "w.pth")


def test_options_that_cannot_be_read_are_refused() -> None:
    assert input_shape("1x3x224x224") == (1, 3, 224, 224)
    for text in ("224", "1x3xH", "0x3", "", "1x²", "1x٣", f"1x{'9' * 5000}"):
        with pytest.raises(UsageError, match="--input"):
            input_shape(text)
    assert build_arguments('{"classes": 9}') == {"classes": 9}
    for text in ("{", "[1]", "[" * 100_000):
        with pytest.raises(UsageError, match="--build-args"):
            build_arguments(text)
