"""`vivim-doctor`: every probe on machines that are well, lack something, or are broken; and the command itself.

Libraries are modules in a temporary folder, which the probes' own processes import; the driver and the plugin are
libraries compiled here; files of the system lie in a folder that stands for the root.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from vivim_runtime import doctor
from vivim_runtime.commands import doctor as command
from vivim_runtime.commands.entry import main
from vivim_runtime.doctor import Finding, State, asking, diagnose, engines, hardware, media
from vivim_runtime.doctor.asking import ask
from vivim_runtime.sessions import plugin

ROOT = Path(__file__).parents[2]

Write = Callable[..., Path]
Compile = Callable[[str, str], Path]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module that is found before all others."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)

    def write(name: str, code: str = "") -> Path:
        path = folder / f"{name.replace('.', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
        return path

    return write


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of a machine that is empty otherwise."""
    folder = tmp_path / "root"
    monkeypatch.setattr(hardware, "_ROOT", folder)

    def write(name: str, text: str = "") -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """Compiles C into a library in a folder of its own."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("gcc not found: install a C compiler to test with libraries")
    folder = tmp_path / "libraries"
    folder.mkdir()

    def build(name: str, code: str) -> Path:
        command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / name)]
        subprocess.run(command, input=code, text=True, check=True)
        return folder / name

    return build


def absent(finding: Finding) -> bool:
    return finding.state is State.missing


# --- what a finding is ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "fix"), [(State.ok, "make"), (State.missing, None), (State.broken, None)])
def test_a_finding_has_a_fix_exactly_where_it_is_not_ok(state: State, fix: str | None) -> None:
    with pytest.raises(ValueError, match="expected one where it is not ok"):
        Finding("part", state, "found", "means", fix)


# --- questions in a process of their own ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        pytest.param("import os; os.abort()", "the process was ended by SIGABRT", id="crash"),
        pytest.param("import time; time.sleep(30)", "no answer within 2 s", id="hang"),
        pytest.param(
            "raise ImportError('first line\\nlibnvinfer.so.10: cannot open')", "libnvinfer.so.10: ", id="load"
        ),
        pytest.param("import tensorrt_libs", "No module named 'tensorrt_libs'", id="a part is missing"),
        pytest.param("raise SystemExit('gave up')", "gave up", id="exit"),
        pytest.param("raise KeyError", "KeyError", id="error without a message"),
    ],
)
def test_a_library_that_is_broken_in_any_way_is_a_problem_in_one_line(
    code: str, problem: str, module: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_TIME_LIMIT_S", 2.0)
    module("tensorrt", code)
    answer = ask("tensorrt")
    assert answer.value is None and not answer.absent
    assert problem in answer.problem and "\n" not in answer.problem


def test_a_library_that_talks_is_understood(module: Write) -> None:
    module("tensorrt", "print('welcome', end=''); __version__ = '10.3.0'")
    assert ask("tensorrt") == asking.Answer(value="10.3.0")


def test_a_library_that_is_not_installed_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = [path for path in sys.path if "site-packages" not in path]
    monkeypatch.setattr(sys, "path", nowhere)
    assert ask("tensorrt") == asking.Answer(absent=True)
    assert ask("cuda_python") == asking.Answer(absent=True)


def test_a_module_in_the_current_folder_is_not_taken_for_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pygame.py").write_text("raise SystemExit('of a user')")
    monkeypatch.chdir(tmp_path)
    assert "of a user" not in ask("display").problem


# --- GPU and CUDA --------------------------------------------------------------------------------------------------

# cuda.h's functions for one GPU; CU_INIT is what cuInit returns, GPUS their number.
DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return CU_INIT; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = GPUS; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strcpy(name, "Example 4000"); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute == 75 ? MAJOR : 6; return 0; }
"""


@pytest.fixture
def driver(compiled: Compile, system: Write, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a driver for CUDA 12.6 that finds GPUs of capability `major`.6."""

    def install(cu_init: int = 0, gpus: int = 1, major: int = 8) -> None:
        code = DRIVER.replace("CU_INIT", str(cu_init)).replace("GPUS", str(gpus)).replace("MAJOR", str(major))
        library = compiled("libcuda.so.1", code)
        monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
        system("sys/module/nvidia/version", "560.35.03\n")

    return install


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    if ask("gpu").value["cuda"]:
        pytest.skip("this machine has an NVIDIA driver")


def test_gpu_and_driver_are_named(driver: Callable[..., None]) -> None:
    driver()
    finding = hardware.gpu()
    assert finding.state is State.ok
    assert finding.found == "Example 4000, compute capability 8.6, driver 560.35.03"


def test_an_old_gpu_is_not_good_enough(driver: Callable[..., None]) -> None:
    driver(major=6)
    assert absent(hardware.gpu()) and "7.5 or later" in hardware.gpu().means


def test_a_driver_that_does_not_start_is_broken(driver: Callable[..., None]) -> None:
    driver(cu_init=803)
    finding = hardware.gpu()
    assert finding.state is State.broken and "803" in finding.found and finding.fix == "sudo reboot"


def test_a_driver_without_a_gpu_leaves_the_cpu(driver: Callable[..., None]) -> None:
    driver(gpus=0)
    assert absent(hardware.gpu()) and "--device cpu" in str(hardware.gpu().fix)


@pytest.mark.usefixtures("no_driver")
def test_no_gpu_is_no_defect(system: Write) -> None:
    assert absent(hardware.gpu()) and absent(hardware.cuda())


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize(
    ("distribution", "fix"),
    [("ubuntu", "sudo ubuntu-drivers install"), ("debian", "sudo apt install nvidia-driver")],
)
def test_a_gpu_without_its_driver_is_broken(system: Write, distribution: str, fix: str) -> None:
    system("sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    system("etc/os-release", f'NAME="x"\nID={distribution}\n')
    finding = hardware.gpu()
    assert finding.state is State.broken and finding.fix == fix


@pytest.mark.usefixtures("no_driver")
def test_a_container_without_its_gpu_is_broken(system: Write) -> None:
    system("sys/module/nvidia/version", "560.35.03\n")
    finding = hardware.gpu()
    assert finding.state is State.broken and finding.fix == "docker run --gpus all IMAGE"


@pytest.mark.parametrize(
    ("runtime", "state", "fix"),
    [
        (None, State.missing, "pip install 'onnxruntime-gpu[cuda,cudnn]'"),
        ("12.9.79", State.ok, None),  # a later minor version runs on an earlier driver
        ("13.0.96", State.broken, "sudo apt install nvidia-driver"),
    ],
)
def test_libraries_of_a_later_cuda_than_the_drivers_are_broken(
    driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch, runtime: str | None, state: State, fix: str | None
) -> None:
    driver()
    monkeypatch.setattr(metadata, "version", lambda name: installed(name, {"nvidia-cuda-runtime-cu12": runtime}))
    finding = hardware.cuda()
    assert (finding.state, finding.fix) == (state, fix)
    assert "12.6" in finding.found and (runtime or "no runtime") in finding.found


def test_the_runtime_of_a_toolkit_is_found(system: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: installed(name, {}))
    system("usr/local/cuda/version.json", '{"cuda": {"name": "CUDA SDK", "version": "12.6.68"}, "nsight": {}}')
    assert "runtime 12.6.68" in hardware.cuda().found


def installed(name: str, versions: dict[str, str | None]) -> str:
    """importlib.metadata.version where only these are installed."""
    if not versions.get(name):
        raise metadata.PackageNotFoundError(name)
    return str(versions[name])


# --- what runs models ----------------------------------------------------------------------------------------------

LIBRARIES = [
    pytest.param(engines.tensorrt, "tensorrt", "'vivim-edge[trt]'", id="TensorRT"),
    pytest.param(engines.tensorrt_rtx, "tensorrt_rtx", "'vivim-edge[rtx]'", id="TensorRT for RTX"),
    pytest.param(engines.cuda_python, "cuda.bindings", "cuda-python", id="cuda-python"),
]


@pytest.mark.parametrize(("probe", "name", "package"), LIBRARIES)
def test_a_library_is_ok_missing_or_broken(
    probe: doctor.Probe, name: str, package: str, module: Write, system: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = module(name, "__version__ = '10.3.0'")
    assert (probe().state, probe().found) == (State.ok, "10.3.0")
    path.write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    finding = probe()
    assert finding.state is State.broken and finding.fix == f"pip install --force-reinstall {package}"
    assert "libcudart.so.12" in finding.found
    path.write_text(f"raise ModuleNotFoundError(name={name!r})")
    assert absent(probe()) and probe().fix == f"pip install {package}"


@pytest.mark.parametrize(
    ("driver", "version", "fix"),
    [
        ("12.6", "13.0.1", "pip install 'cuda-python<13'"),
        ("12.6", "12.8.0", None),
        ("13.0", "12.8.0", None),
        (None, "13.0.1", None),
    ],
)
def test_cuda_python_for_a_later_cuda_than_the_driver_has_is_broken(
    driver: str | None, version: str, fix: str | None, module: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    module("cuda.bindings", f"__version__ = {version!r}")
    real = ask
    machine = asking.Answer(value={"cuda": driver})
    monkeypatch.setattr(engines, "ask", lambda question: machine if question == "gpu" else real(question))
    finding = engines.cuda_python()
    assert finding.fix == fix and (finding.state is State.broken) == bool(fix) and version in finding.found


def test_cuda_python_before_it_had_bindings_is_found(module: Write) -> None:
    """12.6.0, which JetPack 6 may have."""
    module("cuda.__init__", "__version__ = '12.6.0'")
    module("cuda.cudart")
    assert ask("cuda_python") == asking.Answer(value="12.6.0")


@pytest.mark.parametrize(
    ("headers", "installed", "fix"),
    [
        (100300, "10.16.1", None),
        (100300, "11.4.0", "VIVIM_TENSORRT_MAJOR=11 make plugins && unset VIVIM_PLUGIN"),
        (0, "11.4.0", "VIVIM_TENSORRT_MAJOR=11 make plugins && unset VIVIM_PLUGIN"),
    ],
)
def test_plugin_for_another_tensorrt_than_is_installed_is_broken(
    headers: int, installed: str, fix: str | None, built: Callable[..., Path], module: Write
) -> None:
    version = f"int vivim_trt_headers_version(void) {{ return {headers}; }}" if headers else ""
    built(trt="void getCreators(void) {}" + version)
    module("tensorrt", f"__version__ = {installed!r}")
    assert engines.plugin().fix == fix


def test_tensorrt_of_a_jetson_comes_with_jetpack(module: Write, system: Write) -> None:
    line = (
        "# R36 (release), REVISION: 4.0, GCID: 37537400, BOARD: generic, EABI: aarch64, DATE: Fri Sep 13 04:36:44 UTC"
    )
    system("etc/nv_tegra_release", line + "\n# KERNEL_VARIANT: oot\n")
    module("tensorrt", "__version__ = '10.3.0'")
    assert engines.tensorrt().found == "10.3.0, Jetson Linux 36.4.0"
    module("tensorrt", "raise ModuleNotFoundError(name='tensorrt')")
    assert engines.tensorrt().fix == "sudo apt install --reinstall python3-libnvinfer"


KERNELS = 'char const* vivim_kernels_revision(void) { return "7"; }\n'


@pytest.fixture
def built(compiled: Compile, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Compiles a plugin and its kernels and names the plugin in the environment."""

    def build(trt: str = "void getCreators(void) {}", kernels: str = KERNELS) -> Path:
        compiled("libvivim_kernels.so", kernels)
        library = compiled("libvivim_trt.so", trt)
        monkeypatch.setenv(plugin.PLUGIN_VARIABLE, str(library))
        return library

    return build


def test_plugin_is_named_with_its_version(built: Callable[..., Path]) -> None:
    library = built()
    finding = engines.plugin()
    assert (finding.state, finding.found) == (State.ok, f"{library}, kernels of revision 7")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        pytest.param({"trt": ""}, "no getCreators", id="no plugin"),
        pytest.param(
            {"trt": "int gone(void); int f(void) { return gone(); } int (*g)(void) = gone;"}, "gone", id="symbol"
        ),
        pytest.param({"kernels": ""}, "vivim_kernels_revision", id="other kernels"),
        pytest.param({"kernels": KERNELS + "void vivim_emulation_set_order(void) {}"}, "emulated", id="emulated"),
        pytest.param(
            {"trt": "#include <stdlib.h>\n__attribute__((constructor)) void f(void) { abort(); }"},
            "SIGABRT",
            id="crash",
        ),
    ],
)
def test_plugin_that_cannot_serve_is_broken(built: Callable[..., Path], changed: dict[str, str], found: str) -> None:
    built(**changed)
    finding = engines.plugin()
    assert finding.state is State.broken and found in finding.found
    assert finding.fix == "make plugins && unset VIVIM_PLUGIN"


def test_plugin_that_is_named_and_absent_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(plugin.PLUGIN_VARIABLE, str(tmp_path / "none.so"))
    finding = engines.plugin()
    assert finding.state is State.broken and "none.so" in finding.found
    assert finding.fix == "make plugins && unset VIVIM_PLUGIN"


def test_plugin_that_nobody_named_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(plugin.PLUGIN_VARIABLE, raising=False)
    if (ROOT / "plugins/build/gpu/libvivim_trt.so").exists():
        pytest.skip("this checkout has a plugin")
    finding = engines.plugin()
    assert absent(finding) and finding.fix == "make plugins" and "plugins/build/gpu" in finding.found


ONNXRUNTIME = "__version__ = '1.20.0'\ndef get_available_providers(): return {}"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


@pytest.mark.parametrize(
    ("has_gpu", "providers", "state"),
    [(False, [CPU], State.ok), (True, [CUDA, CPU], State.ok), (True, [CPU], State.missing)],
)
def test_onnx_runtime_of_a_gpu_has_the_cuda_provider(
    module: Write, system: Write, has_gpu: bool, providers: list[str], state: State
) -> None:
    if has_gpu:
        system("sys/module/nvidia/version", "560.35.03")
    module("onnxruntime", ONNXRUNTIME.format(providers))
    finding = engines.onnxruntime()
    assert finding.state is state and "1.20.0" in finding.found
    assert finding.fix is None or finding.fix.endswith("pip install 'vivim-edge[gpu]'")


@pytest.mark.parametrize(("version", "state"), [("1.18.0", State.broken), ("1.18.1", State.ok), ("1.100.0", State.ok)])
def test_onnx_runtime_older_than_we_ask_for_is_broken(
    module: Write, system: Write, monkeypatch: pytest.MonkeyPatch, version: str, state: State
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy<3,>=1.24", 'onnxruntime<2,>=1.18.1; extra == "cpu"'])
    module("onnxruntime", ONNXRUNTIME.format(["CPUExecutionProvider"]).replace("1.20.0", version))
    finding = engines.onnxruntime()
    assert finding.state is state
    assert state is State.ok or finding.fix == "pip install 'onnxruntime>=1.18.1'"


@pytest.mark.parametrize(("there", "state"), [("0.12.5", State.broken), ("0.17", State.ok), ("0.20.1", State.ok)])
def test_a_base_dependency_older_than_we_ask_for_is_broken(
    monkeypatch: pytest.MonkeyPatch, there: str, state: State
) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["typer<1,>=0.17.0", 'onnx<2,>=1.17; extra == "export"'])
    monkeypatch.setattr(metadata, "version", lambda name: installed(name, {"typer": there, "onnx": "1.0"}))
    finding = hardware.python()
    assert finding.state is state
    assert state is State.ok or (f"typer {there}" in finding.found and finding.fix == "pip install 'typer>=0.17.0'")


def test_both_packages_of_onnx_runtime_are_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: installed(name, {"onnxruntime": "1", "onnxruntime-gpu": "1"}))
    finding = engines.onnxruntime()
    assert finding.state is State.broken and "pip uninstall --yes onnxruntime onnxruntime-gpu" in str(finding.fix)


@pytest.mark.parametrize(("has_gpu", "extra"), [(True, "gpu"), (False, "cpu")])
def test_onnx_runtime_that_is_missing_comes_in_the_kind_of_the_machine(
    module: Write, system: Write, has_gpu: bool, extra: str
) -> None:
    if has_gpu:
        system("sys/module/nvidia/version", "560.35.03")
    module("onnxruntime", "raise ModuleNotFoundError(name='onnxruntime')")
    assert engines.onnxruntime().fix == f"pip install 'vivim-edge[{extra}]'"


@pytest.mark.parametrize(
    ("cuda", "has_gpu", "state"),
    [("12.8", True, State.ok), (None, False, State.ok), (None, True, State.missing)],
)
def test_pytorch_of_a_gpu_is_for_cuda(
    module: Write, system: Write, cuda: str | None, has_gpu: bool, state: State
) -> None:
    if has_gpu:
        system("sys/module/nvidia/version", "560.35.03")
    module("torch", f"class version: cuda = {cuda!r}\n__version__ = '2.13.0'")
    assert engines.torch().state is state and engines.torch().found.startswith("2.13.0, for CPUs" if not cuda else "2.")


# --- pictures ------------------------------------------------------------------------------------------------------

AV = """
from types import SimpleNamespace
__version__ = "18.0.0"
DECODERS, ENCODERS = {decoders}, {encoders}
codecs_available = set(DECODERS) | set(ENCODERS) | {{"opus", "rawvideo"}}
def find(name, mode):
    if name not in (DECODERS if mode == "r" else ENCODERS):
        raise ValueError
    return SimpleNamespace(name={{"h264": "h264" if mode == "r" else "libx264"}}.get(name, name))
codec = SimpleNamespace(Codec=find)
"""


def test_codecs_are_told_apart_by_direction_and_by_hardware(module: Write) -> None:
    module("av", AV.format(decoders=["h264", "hevc", "h264_cuvid"], encoders=["h264", "libx264", "hevc_nvenc"]))
    decoders, encoders = media.decoders(), media.encoders()
    assert decoders.state is encoders.state is State.ok
    assert decoders.found == "PyAV 18.0.0: h264, hevc; compiled in for hardware: h264_cuvid"
    assert encoders.found == "PyAV 18.0.0: libx264; compiled in for hardware: hevc_nvenc"


def test_the_codecs_that_the_runtime_uses_are_needed(module: Write) -> None:
    module("av", AV.format(decoders=["h264"], encoders=["h264_nvenc"]))
    assert media.decoders().state is State.broken and "no hevc" in media.decoders().found
    assert media.encoders().state is State.broken and "no libx264" in media.encoders().found


@pytest.mark.parametrize(("probe", "name"), [(media.decoders, "av"), (media.opencv, "cv2")])
def test_what_belongs_to_the_base_install_is_broken_where_it_is_missing(
    probe: doctor.Probe, name: str, module: Write
) -> None:
    module(name, f"raise ModuleNotFoundError(name={name!r})")
    assert probe().state is State.broken and probe().found == "not installed"


@pytest.mark.parametrize(("there", "state"), [("YES (1.22.0)", State.ok), ("NO", State.missing)])
def test_pipelines_need_an_opencv_with_gstreamer(module: Write, there: str, state: State) -> None:
    text = f"  Video I/O:\n    FFMPEG:                      YES\n    GStreamer:                   {there}\n"
    module("cv2", f"__version__ = '4.10.0'\ndef getBuildInformation(): return {text!r}")
    finding = media.opencv()
    assert finding.state is state and finding.found.startswith("4.10.0 with FFMPEG")


def test_dicom_codecs_that_are_missing_are_named(module: Write) -> None:
    names = ["JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLosslessSV1", "JPEGLSLossless", "JPEG2000", "RLELossless"]
    module("pydicom.__init__", "__version__ = '3.0.1'")
    module("pydicom.uid", "\n".join(f"{name} = {name!r}" for name in names))
    code = "from types import SimpleNamespace\ndef get_decoder(uid): return SimpleNamespace(is_available={})"
    pixels = module("pydicom.pixels", code.format("'LS' not in uid"))
    finding = media.dicom()
    assert absent(finding) and finding.means == "files cannot be read that are JPEG-LS"
    assert finding.fix == "pip install 'vivim-edge[dicom]'"
    pixels.write_text(code.format("True"))
    assert media.dicom().state is State.ok


def test_dicom_of_this_environment_is_whole() -> None:
    assert media.dicom().state is State.ok  # the extra is in `dev`


# --- cameras and display -------------------------------------------------------------------------------------------


@pytest.fixture
def camera(system: Write) -> Path:
    """One camera with two nodes, the second for metadata."""
    for index in (0, 1):
        system(f"sys/class/video4linux/video{index}/name", "USB Camera: USB Camera\n")
        system(f"sys/class/video4linux/video{index}/index", f"{index}\n")
        system(f"dev/video{index}")
    return hardware._ROOT / "dev/video0"


def test_a_camera_is_listed_once_by_its_name(camera: Path) -> None:
    finding = hardware.cameras()
    assert finding.state is State.ok and finding.found == f"{camera} (USB Camera: USB Camera)"


def test_a_camera_that_this_user_may_not_open_is_broken(camera: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != camera)  # root may open anything
    finding = hardware.cameras()
    assert finding.state is State.broken and "usermod -aG video" in str(finding.fix)


def test_no_camera_is_no_defect(system: Write) -> None:
    assert absent(hardware.cameras())
    system("sys/class/video4linux/video0/name", "of the host, not given to this container")
    assert absent(hardware.cameras())


def test_no_display_leads_to_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    assert absent(hardware.display()) and "http://" in str(hardware.display().fix)


@pytest.mark.parametrize(
    ("init", "state", "word"),
    [
        pytest.param("pass", State.ok, "x11", id="opens"),
        pytest.param("raise RuntimeError('x11 not available')", State.missing, "x11 not available", id="no server"),
    ],
)
def test_a_display_is_tried(module: Write, monkeypatch: pytest.MonkeyPatch, init: str, state: State, word: str) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    module(
        "pygame",
        f"class version: ver = '2.5.5'\nclass display:\n    def init(): {init}\n    def get_driver(): return 'x11'\n",
    )
    finding = hardware.display()
    assert finding.state is state and word in finding.found


def test_a_display_without_pygame_wants_its_extra(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    module("pygame", "raise ModuleNotFoundError(name='pygame')")
    assert absent(hardware.display()) and hardware.display().fix == "pip install 'vivim-edge[display]'"


# --- all together --------------------------------------------------------------------------------------------------


def test_a_probe_that_fails_keeps_nothing_back() -> None:
    def well() -> Finding:
        return Finding("well", State.ok, "here", "all")

    def failing() -> Finding:
        raise ZeroDivisionError("a defect")

    first, second, third = diagnose([well, failing, well])
    assert first == third == well()
    assert second.state is State.broken and second.found == "the probe failed: ZeroDivisionError: a defect"


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["vivim-doctor", *arguments])
    with pytest.raises(SystemExit) as caught:
        main("vivim-doctor", "vivim_runtime.commands.doctor")
    return int(caught.value.code or 0)


FINDINGS = [
    Finding("Python", State.ok, "3.11", "all [commands]"),
    Finding("NVIDIA GPU", State.missing, "none", "models run on the CPU", "vivim-run --device cpu " + "x" * 100),
    Finding("DICOM", State.broken, "cannot be imported", "needed for: DICOM", "pip install 'vivim-edge[dicom]'"),
]


@pytest.mark.parametrize(("count", "code"), [(2, 0), (3, 1)])
def test_exit_code_is_1_only_where_something_is_broken(
    count: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "diagnose", lambda: FINDINGS[:count])
    assert call(monkeypatch) == code
    assert call(monkeypatch, "--json") == code
    assert capsys.readouterr().err == ""


def test_a_finding_is_a_line_and_a_fix_a_whole_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "diagnose", lambda: FINDINGS)
    call(monkeypatch)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "ok      Python           3.11 - all [commands]",
        "missing NVIDIA GPU       none - models run on the CPU",
        f"                         fix: {FINDINGS[1].fix}",
        "broken  DICOM            cannot be imported - needed for: DICOM",
        "                         fix: pip install 'vivim-edge[dicom]'",
        "1 ok, 1 missing (optional), 1 broken",
    ]


def test_json_holds_the_same(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "diagnose", lambda: FINDINGS)
    call(monkeypatch, "--json")
    record = json.loads(capsys.readouterr().out)
    assert record["counts"] == {"ok": 1, "missing": 1, "broken": 1}
    assert [Finding(**{**f, "state": State(f["state"])}) for f in record["findings"]] == FINDINGS


def test_this_machine_is_described_without_a_failing_probe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(plugin.PLUGIN_VARIABLE, raising=False)
    code = call(monkeypatch, "--json")
    record = json.loads(capsys.readouterr().out)
    findings = record["findings"]
    assert [f for f in findings if "probe failed" in f["found"]] == []
    assert len({f["part"] for f in findings}) == len(doctor.PROBES) == len(findings)
    assert code == (1 if record["counts"]["broken"] else 0)
    states = {f["part"]: f["state"] for f in findings}
    assert [states[part] for part in ("Python", "ONNX Runtime", "PyTorch", "Video decoders", "Video encoders")] == [
        "ok"
    ] * 5


def test_fixes_name_extras_that_exist() -> None:
    text = "\n".join(path.read_text() for path in sorted(Path(doctor.__file__).parent.glob("*.py")))
    project = (ROOT / "pyproject.toml").read_text()
    extras = set(re.findall(r"install_words\([\"']([\w-]+)[\"']\)", text))
    assert {"cpu", "dicom", "display", "export", "gpu", "rtx", "trt"} <= extras
    assert [extra for extra in sorted(extras) if not re.search(rf"^{extra} = \[", project, re.M)] == []
