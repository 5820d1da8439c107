"""libvivim_ort.so beside this file: the operators of Vivim Edge, which vivim_runtime.sessions.native finds here.

Programs without vivim-edge register them themselves: options.register_custom_ops_library(vivim_native.library()).
"""

from pathlib import Path

__all__ = ["library"]


def library() -> str:
    """The path of libvivim_ort.so."""
    return str(Path(__file__).with_name("libvivim_ort.so"))
