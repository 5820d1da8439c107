"""Judging models: against each other on clips (docs/parity.md), and against true masks (docs/evaluation.md)."""

from vivim_runtime.errors import AccuracyError
from vivim_runtime.judging.agreement import BUDGETS, Agreement, AgreementMeter, Budget, budget_failures, budget_of
from vivim_runtime.judging.evaluation import Evaluation, EvaluationOptions, ModelFacts, VideoFigures, evaluate
from vivim_runtime.judging.figures import Bootstrap, Estimate
from vivim_runtime.judging.page import html_page
from vivim_runtime.judging.parity import Comparison, compare
from vivim_runtime.judging.records import csv_text, record
from vivim_runtime.judging.report import Report
from vivim_runtime.judging.tables import latex, markdown, terminal_tables

__all__ = [
    "BUDGETS",
    "AccuracyError",
    "Agreement",
    "AgreementMeter",
    "Bootstrap",
    "Budget",
    "Comparison",
    "Estimate",
    "Evaluation",
    "EvaluationOptions",
    "ModelFacts",
    "Report",
    "VideoFigures",
    "budget_failures",
    "budget_of",
    "compare",
    "csv_text",
    "evaluate",
    "html_page",
    "latex",
    "markdown",
    "record",
    "terminal_tables",
]
