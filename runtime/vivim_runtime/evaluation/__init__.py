"""Models on annotated videos: the paper's figures, with intervals, in its tables (docs/evaluation.md)."""

from vivim_runtime.errors import AccuracyError
from vivim_runtime.evaluation.evaluation import Evaluation, EvaluationOptions, ModelFacts, VideoFigures, evaluate
from vivim_runtime.evaluation.figures import Bootstrap, Estimate
from vivim_runtime.evaluation.page import html_page
from vivim_runtime.evaluation.records import csv_text, record
from vivim_runtime.evaluation.report import Report
from vivim_runtime.evaluation.tables import latex, markdown, terminal_tables

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
