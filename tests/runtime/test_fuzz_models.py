"""A few model files of chance; `python -m tests.runtime.fuzz_models 5000` tries many."""

from __future__ import annotations

from tests.runtime.fuzz_models import main


def test_model_files_of_chance_run_or_are_refused_in_one_line() -> None:
    assert main(200) == 0
