"""The distributions as they are released: vivim-edge, and vivim-edge-native for every machine.

    python plugins/ort/wheels.py [--out dist]            needs: pip install ziglang

A checkout's extra `cpu` does not ask for vivim-edge-native: the name is on no index, and whoever took it there would be
asked for code. A release's does, by its version: this is the one place that says so. Both are tried with
pip install --find-links dist 'vivim-edge[cpu]'.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from build import HERE, TARGETS, version

__all__ = ["main", "released"]

ROOT = HERE.parents[1]
# The extra of a checkout, which a release extends.
_CPU = re.compile(r'^cpu = \["(onnxruntime[^"]*)"\]$', re.M)


def released(pyproject: str, native_version: str) -> str:
    """The project's description with the extra `cpu` of a release; ValueError where the checkout's is not in it."""
    # Elsewhere there is no wheel of it, and the bodies run.
    marker = "sys_platform == 'linux' and platform_machine in 'x86_64 aarch64'"
    extended, count = _CPU.subn(rf'cpu = ["\1", "vivim-edge-native=={native_version}; {marker}"]', pyproject)
    if count != 1:
        raise ValueError("pyproject.toml has no extra cpu with onnxruntime alone, which a release extends")
    return extended


def _wheel(source: Path, out: Path, **environment: str) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", str(source)]
    subprocess.run([*command, "--wheel-dir", str(out)], check=True, env={**os.environ, **environment})


def _copy(source: Path, target: Path) -> Path:
    """The tracked files below a folder, so that no build leaves anything in the checkout."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=source, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source / name).read_bytes())
    return target


def main() -> int:
    parser = argparse.ArgumentParser(description="build the wheels of a release")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="folder; default dist/")
    out = parser.parse_args().out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        edge = _copy(ROOT, Path(folder) / "edge")
        description = edge / "pyproject.toml"
        description.write_text(released(description.read_text(encoding="utf-8"), version()), encoding="utf-8")
        _wheel(edge, out)
        for target in TARGETS:
            # The sources of each target in a folder of their own: setuptools would reuse the other's library.
            plugins = _copy(HERE.parent, Path(folder) / target / "plugins")
            _wheel(plugins / "ort", out, VIVIM_TARGET=target)
    print("\n".join(sorted(str(wheel) for wheel in out.glob("vivim_edge*.whl"))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
