"""vivim_runtime/sessions/toolkit.py for the tools of this folder, which run where the package is not installed."""

import importlib.util
from pathlib import Path

_PATH = Path(__file__).resolve().parents[2] / "runtime" / "vivim_runtime" / "sessions" / "toolkit.py"
_SPEC = importlib.util.spec_from_file_location("cuda_toolkit", _PATH)
assert _SPEC and _SPEC.loader
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)

compute_capability = _MODULE.compute_capability
find_tool = _MODULE.find_tool
is_jetson = _MODULE.is_jetson
