"""Models on annotated videos: the paper's figures, with intervals, in its tables (docs/evaluation.md)."""

from vivim_runtime.errors import AccuracyError
from vivim_runtime.judging.evaluation import Evaluation, EvaluationOptions, ModelFacts, VideoFigures, evaluate
from vivim_runtime.judging.figures import Bootstrap, Estimate
from vivim_runtime.judging.page import html_page
from vivim_runtime.judging.records import csv_text, record
from vivim_runtime.judging.report import Report
from vivim_runtime.judging.tables import latex, markdown, terminal_tables

__all__ = [
    "AccuracyError",
    "Bootstrap",
    "Estimate",
    "Evaluation",
    "EvaluationOptions",
    "ModelFacts",
    "Report",
    "VideoFigures",
    "csv_text",
    "evaluate",
    "html_page",
    "latex",
    "markdown",
    "record",
    "terminal_tables",
]
