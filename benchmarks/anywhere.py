"""Where the file runs: every runtime on one clip, against PyTorch, with its time; docs/anywhere.md is its output.

    python benchmarks/anywhere.py --folder FOLDER [--onnxruntime 1.18.1] [--web 1.30.0] [--runs 5]

FOLDER is where environments are made that are not there yet (pip and npm install into it, nothing else changes): the
oldest ONNX Runtime that we promise, OpenVINO, ONNX Runtime Web, and the TensorRT for RTX execution provider. What
cannot be had is a line that says so, and no row. The weights are `tiny`, one clip of 5 frames of 256x256, one thread.

A row's verdict is that of vivim-check: mask Dice at least 0.9999 and logits within 1e-4 of PyTorch's. Milliseconds are
the best of the runs; those of the processor hardly change on a busy machine. Exit code 1 where a row that should pass
does not, or where one passes that should not: bfloat16 in OpenVINO is here to be caught.
"""

from __future__ import annotations

import argparse
import http.server
import json
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine

from vivim_runtime.clips import Clip, cut_clips
from vivim_runtime.files import sha256_file
from vivim_runtime.judging.agreement import BUDGETS, Agreement, AgreementMeter, budget_failures
from vivim_runtime.sessions.native import native_library
from vivim_runtime.sources import open_source

CLIP = "phantom:?seed=11&frames=5&size=256x256"
FORMS = {"bodies": {}, "--cpu": {"cpu": True}, "lowered": {"form": "lowered"}}
SECONDS = 600  # of one runtime, at most

# What runs in the other environments: MODEL LIBRARY CLIP LOGITS RUNS, and one line of JSON.
ONNX_RUNTIME = """
import json, sys, time
import numpy as np
import onnxruntime
model, library, clip, logits, runs = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
options.intra_op_num_threads = 1
options.enable_mem_pattern = not onnxruntime.__version__.startswith("1.18.")  # docs/export.md
if library:
    options.register_custom_ops_library(library)
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
pixels, times = np.load(clip), []
for _ in range(int(runs) + 1):
    began, worked = time.perf_counter(), time.process_time()
    found = session.run(["logits"], {session.get_inputs()[0].name: pixels})[0]
    times.append((time.perf_counter() - began, time.process_time() - worked))
found.astype("<f4").tofile(logits)
print(json.dumps({"version": onnxruntime.__version__, "times": times[1:]}))
"""
OPENVINO = """
import json, sys, time
import numpy as np
import openvino
model, precision, clip, logits, runs = sys.argv[1:]
settings = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": "1"}
if precision:
    settings["INFERENCE_PRECISION_HINT"] = precision
compiled = openvino.Core().compile_model(model, "CPU", settings)
pixels, times = np.load(clip), []
for _ in range(int(runs) + 1):
    began, worked = time.perf_counter(), time.process_time()
    found = compiled([pixels])[0]
    times.append((time.perf_counter() - began, time.process_time() - worked))
found.astype("<f4").tofile(logits)
print(json.dumps({"version": openvino.__version__.partition("-")[0], "times": times[1:]}))
"""
RTX_PROVIDER = """
import sys
import onnxruntime
import onnxruntime_ep_nv_tensorrt_rtx as provider
name = "NvTensorRTRTXExecutionProvider"
onnxruntime.register_execution_provider_library(name, provider.get_library_path())
devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == name]
if not devices:
    sys.exit(f"{name} of onnxruntime {onnxruntime.__version__} finds no device")
options = onnxruntime.SessionOptions()
options.add_provider_for_devices(devices, {})
onnxruntime.InferenceSession(sys.argv[1], options)
"""
NODE = """
const ort = require(process.argv[2]);
const fs = require("fs");
const [model, clip, logits, runs] = process.argv.slice(3);
ort.env.wasm.numThreads = 1;
ort.env.logLevel = "fatal";
(async () => {
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  const frames = new ort.Tensor("uint8", new Uint8Array(fs.readFileSync(clip)), [1, 5, 256, 256, 3]);
  const times = [];
  let found;
  for (let run = 0; run <= Number(runs); run++) {
    const began = performance.now(), before = process.cpuUsage();
    found = (await session.run({ frames })).logits;
    const used = process.cpuUsage(before);
    times.push([(performance.now() - began) / 1e3, (used.user + used.system) / 1e6]);
  }
  fs.writeFileSync(logits, Buffer.from(found.data.buffer, found.data.byteOffset, found.data.byteLength));
  console.log(JSON.stringify({ version: ort.env.versions.web, times: times.slice(1) }));
})().catch((error) => { console.error(String(error)); process.exit(1); });
"""
PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
const say = (path, body) => fetch(path, { method: "POST", body });
try {
  const ort = await import("/dist/ort.wasm.min.mjs");
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  const [model, clip] = await Promise.all(["/model", "/clip"].map(async (p) => (await fetch(p)).arrayBuffer()));
  const session = await ort.InferenceSession.create(new Uint8Array(model), { executionProviders: ["wasm"] });
  const frames = new ort.Tensor("uint8", new Uint8Array(clip), [1, 5, 256, 256, 3]);
  const times = [];
  let found;
  for (let run = 0; run <= RUNS; run++) {
    const began = performance.now();
    found = (await session.run({ frames })).logits;
    times.push([(performance.now() - began) / 1e3, null]);
  }
  await say("/logits", found.data);
  await say("/done", JSON.stringify({ version: ort.env.versions.web, times: times.slice(1) }));
} catch (error) { await say("/done", JSON.stringify({ error: String(error) })); }
</script>"""


@dataclass(frozen=True)
class Cell:
    """One row: what ran, by what, and how it ended.

    Attributes:
        agreement: with PyTorch; None where the runtime refuses.
        refusal: its own words.
        should: whether the row is to pass.
    """

    runtime: str
    form: str
    computed_by: str
    agreement: Agreement | None
    times: Sequence[tuple[float, float | None]]
    refusal: str
    should: bool = True

    @property
    def failures(self) -> list[str]:
        if self.agreement is None:
            return [self.refusal]
        return list(budget_failures(self.agreement, BUDGETS["fp32"]))

    def line(self) -> str:
        if self.agreement is None:
            return f"| {self.runtime} | {self.form} | {self.computed_by} | refuses: {self.refusal} | | | | |"
        wall = min(1e3 * time[0] for time in self.times)
        worked = [1e3 * time[1] for time in self.times if time[1] is not None]
        dice = self.agreement.masks.dice
        cells = (
            self.runtime,
            self.form,
            self.computed_by,
            "**no**" if self.failures else "yes",
            f"{self.agreement.tensor.relative_l2:.1e}",
            "" if dice is None else f"{dice:.5f}",
            f"{wall:.0f}",
            f"{min(worked):.0f}" if worked else "",
        )
        return f"| {' | '.join(cells)} |"


class Matrix:
    """Runs runtimes on one clip and compares them with PyTorch."""

    def __init__(self, folder: Path, work: Path, runs: int) -> None:
        from vivim.checkpoint import load_checkpoint, read_training, resolve_weights
        from vivim.session import TorchSession
        from vivim_export.onnx_export import OnnxOptions, onnx_from_model, save_onnx

        self.folder, self._work, self._runs = folder, work, runs
        weights = resolve_weights("tiny")
        training = read_training(weights)
        network = load_checkpoint(weights, 5)
        self.files = {name: work / f"{name.strip('-')}.onnx" for name in FORMS}
        for name, options in FORMS.items():
            made = OnnxOptions(size=(256, 256), **options)  # type: ignore[arg-type]
            save_onnx(onnx_from_model(network, made, training=training), self.files[name])
        self.clip = self._read_clip()
        reference = TorchSession(network, (256, 256), weights, sha256_file(weights), training)
        self._expected = reference(self.clip.pixels[None])[0]
        np.save(work / "clip.npy", self.clip.pixels[None])
        (work / "clip.bin").write_bytes(self.clip.pixels.tobytes())

    @staticmethod
    def _read_clip() -> Clip:
        with open_source(CLIP) as source:
            return next(iter(cut_clips(source, 5, (256, 256))))

    def python(self, name: str, *requirements: str) -> Path | None:
        """The Python of an environment, which is made where it is not there."""
        python = self.folder / name / "bin" / "python"
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(self.folder / name)], check=True)
            install = [str(python), "-m", "pip", "install", "--quiet", "--only-binary", ":all:", *requirements]
            done = subprocess.run(install, capture_output=True, text=True)
            if done.returncode:
                shutil.rmtree(self.folder / name)
                print(f"{name} is left out: pip install {' '.join(requirements)}: {_last(done.stderr)}")
                return None
        return python

    def web(self, version: str) -> Path | None:
        """The folder of ONNX Runtime Web, which is fetched where it is not there."""
        package = self.folder / f"web-{version}" / "node_modules" / "onnxruntime-web"
        if not shutil.which("node") or not shutil.which("npm"):
            print("ONNX Runtime Web is left out: node and npm are not on the path")
            return None
        if not package.exists():
            package.parent.parent.mkdir(parents=True, exist_ok=True)
            install = ["npm", "install", "--ignore-scripts", "--silent", f"onnxruntime-web@{version}"]
            done = subprocess.run(install, cwd=package.parent.parent, capture_output=True, text=True)
            if done.returncode or not package.exists():
                print(f"ONNX Runtime Web is left out: npm install onnxruntime-web@{version}: {_last(done.stderr)}")
                return None
        return package

    def program(
        self, name: str, form: str, by: str, command: Sequence[str | Path], argument: str = "", should: bool = True
    ) -> Cell:
        """A program in a process of its own, given model, argument, clip, where logits go, and runs."""
        logits = self._work / "logits.bin"
        given = [self.files[form], argument, self._work / "clip.npy", logits, self._runs]
        done = _called([*command, *given])
        return self._cell(name, form, by, done, logits, should)

    def node(self, package: Path, form: str) -> Cell:
        script, logits = self._work / "run.cjs", self._work / "logits.bin"
        script.write_text(NODE)
        given = [package, self.files[form], self._work / "clip.bin", logits, self._runs]
        return self._cell("ONNX Runtime Web {} in Node", form, "bodies", _called(["node", script, *given]), logits)

    def browser(self, package: Path, browser: str, form: str) -> Cell:
        """In a headless browser, which fetches file and clip from here and sends the logits back."""
        logits = self._work / "logits.bin"
        with _server(package, self.files[form], self._work / "clip.bin", logits, self._runs) as (address, answer):
            profile = self._work / "profile"
            options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", address]
            with (self._work / "browser.log").open("w") as log:
                process = subprocess.Popen([browser, *options], stdout=log, stderr=log)
                try:
                    found = answer(SECONDS)
                finally:
                    process.terminate()
                    process.wait()
        done = subprocess.CompletedProcess([], int("error" in found), json.dumps(found), found.get("error", ""))
        return self._cell("ONNX Runtime Web {} in headless Chromium", form, "bodies", done, logits)

    def _cell(
        self, name: str, form: str, by: str, done: subprocess.CompletedProcess[str], logits: Path, should: bool = True
    ) -> Cell:
        by = "" if form == "lowered" and by == "bodies" else by
        if done.returncode:
            return Cell(name.replace(" {}", ""), form, by, None, (), _last(done.stderr), should)
        told = json.loads(done.stdout.strip().splitlines()[-1])
        found = np.fromfile(logits, "<f4").reshape(self._expected.shape)
        logits.unlink()
        meter = AgreementMeter()
        meter.add(self.clip, self._expected, found)
        return Cell(name.format(told["version"]), form, by, meter.value(), told["times"], "", should)


def _called(command: Sequence[Any]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess([], 1, "", f"more than {SECONDS} s")


def _last(text: str) -> str:
    """What an error comes down to: of OpenVINO's and Python's many lines the one that names it."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("[notice]")]
    telling = [line for line in lines if "No conversion rule" in line or "ERROR" in line or "Error:" in line]
    line = (telling or lines or ["no reason given"])[-1].removeprefix("-- ").rpartition(" with error: ")[2]
    return re.sub(r"/\S*/", "", line).replace("|", "/")[:200]  # of files their names: folders are of this machine


@contextmanager
def _server(package: Path, model: Path, clip: Path, logits: Path, runs: int) -> Iterator[tuple[str, Any]]:
    """Serves page, library, file and clip on loopback; gives its address, and what waits for the answer."""
    answered, answers = threading.Event(), []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            given = {"/": PAGE.replace("RUNS", str(runs)).encode(), "/model": model, "/clip": clip}.get(self.path)
            if given is None:
                super().do_GET()
                return
            content = given if isinstance(given, bytes) else given.read_bytes()
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if self.path == "/" else "application/octet-stream")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(204)
            self.end_headers()
            if self.path == "/logits":
                logits.write_bytes(content)
            else:
                answers.append(json.loads(content))
                answered.set()

        def log_message(self, *_: Any) -> None:
            pass

    Handler.extensions_map = {**Handler.extensions_map, ".mjs": "text/javascript", ".wasm": "application/wasm"}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(package)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def answer(seconds: float) -> dict[str, Any]:
        return answers[0] if answered.wait(seconds) else {"error": f"no answer in {seconds:g} s"}

    try:
        yield f"http://127.0.0.1:{server.server_port}/", answer
    finally:
        server.shutdown()
        server.server_close()


def cells(matrix: Matrix, oldest: str, web: str) -> Iterator[Cell]:
    """Every row, in the order of the table."""
    native = native_library()
    if native is None:
        print("the compiled operators are left out: they are not built: make native")
    for name, python in (("oldest", matrix.python(f"onnxruntime-{oldest}", f"onnxruntime=={oldest}", "numpy<2.5")),
                         ("newest", Path(sys.executable))):  # fmt: skip
        if python is None:
            continue
        title = f"ONNX Runtime {{}}, the {name}"
        for form, by in (("bodies", "bodies"), ("bodies", "library"), ("--cpu", "bodies"), ("--cpu", "library")):
            if by == "bodies" or native is not None:
                library = str(native.path) if by == "library" and native is not None else ""
                yield matrix.program(title, form, by, [python, "-c", ONNX_RUNTIME], library)
        yield matrix.program(title, "lowered", "bodies", [python, "-c", ONNX_RUNTIME])
    package = matrix.web(web)
    if package is not None:
        for form in FORMS:
            yield matrix.node(package, form)
        browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
        if browser is None:
            print("the browser is left out: chromium is not on the path")
        else:
            yield matrix.browser(package, browser, "bodies")
            yield matrix.browser(package, browser, "lowered")
    openvino = matrix.python("openvino", "openvino")
    if openvino is not None:
        command = [openvino, "-c", OPENVINO]
        yield matrix.program("OpenVINO {}", "bodies", "", command, "f32", should=False)
        yield matrix.program("OpenVINO {}, f32, as we ask it", "lowered", "", command, "f32")
        yield matrix.program("OpenVINO {}, by default", "lowered", "", command, should=False)
    rtx = matrix.python("rtx", "onnxruntime-ep-nv-tensorrt-rtx-cu13", "onnxruntime")
    if rtx is not None:
        title = "TensorRT for RTX execution provider, no GPU here"
        yield matrix.program(title, "lowered", "", [rtx, "-c", RTX_PROVIDER], should=False)


def main() -> int:
    parser = argparse.ArgumentParser(description="which runtimes run the file, with parity and time")
    parser.add_argument("--folder", type=Path, required=True, help="of environments, made where they are not there")
    parser.add_argument("--onnxruntime", default="1.18.1", help="the oldest; default 1.18.1")
    parser.add_argument("--web", default="1.30.0", help="version of onnxruntime-web; default 1.30.0")
    parser.add_argument("--runs", type=int, default=5, help="default 5, after a first one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    about = machine()
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with tempfile.TemporaryDirectory() as work:
        matrix = Matrix(folder, Path(work), arguments.runs)
        print(
            "\n| runtime | form | operators by | stands for PyTorch | rel-L2 | mask Dice | ms | ms of the processor |"
        )
        print("|---|---|---|---|---:|---:|---:|---:|")
        for cell in cells(matrix, arguments.onnxruntime, arguments.web):
            print(cell.line(), flush=True)
            found.append(cell)
    if arguments.json:
        rows = [{"runtime": c.runtime, "form": c.form, "by": c.computed_by, "failures": c.failures} for c in found]
        arguments.json.write_text(json.dumps({"machine": about, "rows": rows}, indent=2) + "\n")
    wrong = [cell for cell in found if bool(cell.failures) == cell.should]
    for cell in wrong:
        print(f"not as expected: {cell.runtime}, {cell.form}: {'; '.join(cell.failures) or 'passes'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
