"""The web viewer: a page with the live picture, for machines that have no display, on the standard library alone."""

from vivim_runtime.live.screens.web.viewer import WebViewer

__all__ = ["WebViewer"]
