"""Builds libvivim_ort.so with a C++17 compiler and nothing else. The one place that knows its sources and flags.

    python plugins/ort/build.py                          for this machine: plugins/build/native/libvivim_ort.so
    python plugins/ort/build.py --target aarch64         for another one, with zig (pip install ziglang)
    python plugins/ort/build.py --sanitize               with AddressSanitizer and UndefinedBehaviorSanitizer

Libraries of --target need glibc 2.17 or later and no libstdc++, so that they run on JetPack 6 and everything newer.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

__all__ = ["GLIBC", "LIBRARY", "TARGETS", "BuildError", "Toolchain", "build", "version"]

HERE = Path(__file__).parent
LIBRARY = "libvivim_ort.so"
BUILD_FOLDER = HERE.parent / "build" / "native"
TARGETS = ("x86_64", "aarch64")
GLIBC = "2.17"  # of manylinux2014, the oldest that zig is asked for

_WARNINGS = ["-Wall", "-Wextra", "-Wshadow"]
# Kernels: contraction makes multiply-adds; no errno and no traps, so that loops become vectors.
_MATH = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
_AVX2 = ["-mavx2", "-mfma", "-mf16c"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"]
_KERNELS = {
    "x86_64": {"cpu/baseline.cpp": _MATH, "cpu/avx2.cpp": [*_MATH, *_AVX2], "cpu/avx512.cpp": [*_MATH, *_AVX512]},
    "aarch64": {"cpu/baseline.cpp": _MATH},
}
_OTHERS = (
    "functions.cpp",
    "cpu/run.cpp",
    "cpu/s6.cpp",
    "cpu/gradients.cpp",
    "cuda/library.cpp",
    "runtime/context.cpp",
    "runtime/library.cpp",
    "runtime/operators.cpp",
    "runtime/processors.cpp",
)


class BuildError(Exception):
    """What is missing, or what the compiler said."""


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler.

    Attributes:
        command: the words that start it.
        machine: that it compiles for, of `TARGETS`.
        links_statically: the option that puts the C++ library inside.
    """

    command: tuple[str, ...]
    machine: str
    links_statically: tuple[str, ...] = ("-static-libstdc++", "-static-libgcc")

    @classmethod
    def of_this_machine(cls) -> Toolchain:
        """$CXX, or the first compiler on PATH; BuildError where there is none."""
        machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
        if sys.platform != "linux" or machine not in TARGETS:
            raise BuildError(f"{sys.platform} on {machine}; expected Linux on {' or '.join(TARGETS)}")
        named = shlex.split(os.environ.get("CXX", ""))
        found = named or [path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))][:1]
        if not found or not shutil.which(found[0]):
            raise BuildError(f"no C++ compiler{f' {found[0]}' if found else ''}; install one: apt install g++")
        return cls(tuple(found), machine)

    @classmethod
    def zig(cls, machine: str) -> Toolchain:
        """zig, which compiles for any machine; its C++ library is inside anyway."""
        return cls((sys.executable, "-m", "ziglang", "c++", "-target", f"{machine}-linux-gnu.{GLIBC}"), machine, ())


def version() -> str:
    """Of the distribution vivim-edge-native."""
    found = re.search(r'^version = "(.+)"$', (HERE / "pyproject.toml").read_text(encoding="utf-8"), re.M)
    if found is None:
        raise BuildError(f"{HERE / 'pyproject.toml'} has no version")
    return found[1]


def build(
    output: Path,
    toolchain: Toolchain,
    options: Sequence[str] = (),
    extra: Sequence[Path] = (),
    objects: Path | None = None,
) -> Path:
    """Compile the library to `output`, which appears whole; nothing happens where it is newer than all sources.

    Args:
        output: the file to write.
        toolchain: what compiles it.
        options: more options of every compilation, which outdo ours, and of the link.
        extra: more sources, with which the result is a program instead of a library.
        objects: a folder that keeps what single sources became, for other builds that need the same.

    Raises:
        BuildError: the compiler fails; the message is its own.
    """
    if output.exists() and output.stat().st_mtime > max(file.stat().st_mtime for file in _inputs(extra)):
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    common = ["-std=c++17", *_WARNINGS, "-fPIC", "-fvisibility=hidden", "-pthread"]
    common += ["-I", str(HERE.parent / "include"), f'-DVIVIM_VERSION="{version()}"']
    sources = {HERE / name: flags for name, flags in _KERNELS[toolchain.machine].items()}
    sources |= {HERE / name: ["-O2"] for name in _OTHERS} | {path: ["-O2"] for path in extra}
    with tempfile.TemporaryDirectory(dir=output.parent) as folder:
        if objects is not None:
            objects.mkdir(parents=True, exist_ok=True)
        jobs = [[*toolchain.command, *common, *flags, *options, "-c", str(source)] for source, flags in sources.items()]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            compiled = list(pool.map(lambda job: _compile(job, Path(folder), objects), jobs))
        made = Path(folder) / output.name
        exports = f"-Wl,--version-script,{HERE / 'exports.map'}"
        shape = [] if extra else ["-shared", exports, *toolchain.links_statically]
        if not options and not extra:
            shape += ["-Wl,--no-undefined", "-Wl,-s"]
        link = [*toolchain.command, *options, *shape, *map(str, compiled), "-o", str(made), "-pthread", "-ldl"]
        _call(link)
        made.replace(output)
    return output


def _compile(command: list[str], folder: Path, kept: Path | None) -> Path:
    """The object of one source, its last word: that of `kept` where sources and command are the same, or a new one."""
    digest = hashlib.sha256(repr(command).encode())
    for file in sorted(_inputs([Path(command[-1])])):
        digest.update(file.read_bytes())
    name = f"{digest.hexdigest()[:16]}.o"
    if kept is not None and (kept / name).exists():
        return kept / name
    made = folder / name
    _call([*command, "-o", str(made)])
    return made if kept is None else made.replace(kept / name)


def _inputs(extra: Sequence[Path]) -> list[Path]:
    own = [file for file in HERE.rglob("*") if file.suffix in (".cpp", ".h", ".inl", ".map", ".py", ".toml")]
    return [*own, *extra, *(HERE.parent / "include").glob("*.h")]


def _call(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stdout}")


def main() -> int:
    parser = argparse.ArgumentParser(description="build libvivim_ort.so")
    parser.add_argument("--target", choices=TARGETS, help="compile with zig for that processor; default: this machine")
    parser.add_argument("--out", type=Path, default=BUILD_FOLDER, help="folder; default plugins/build/native")
    parser.add_argument("--sanitize", action="store_true", help="for tests")
    arguments = parser.parse_args()
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g"] if arguments.sanitize else []
    try:
        toolchain = Toolchain.zig(arguments.target) if arguments.target else Toolchain.of_this_machine()
        print(build(arguments.out / LIBRARY, toolchain, sanitizers))
    except BuildError as error:
        print(f"libvivim_ort.so is not built: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
