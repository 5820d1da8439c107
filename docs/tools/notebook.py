"""Writes docs/notebook.ipynb: from a checkpoint to masks to a report, in the words of the quickstart.

    python docs/tools/notebook.py

The notebook is kept without outputs; tests/test_notebook.py runs it as it is.
"""

from __future__ import annotations

import json
from pathlib import Path

CELLS: list[tuple[str, str]] = [
    (
        "markdown",
        "# From a checkpoint to masks to a report\n\nThe shipped weights `tiny` were trained on synthetic "
        "ultrasound: their masks have no clinical meaning. For your own weights, write their path instead of `tiny`.",
    ),
    (
        "code",
        "from pathlib import Path\n\nwork = Path('notebook')\nwork.mkdir(exist_ok=True)\nmodel = work / 'model.onnx'",
    ),
    (
        "markdown",
        "## Export\n\nThe file is compared with PyTorch on a clip, and is written only if it is within its budget.",
    ),
    (
        "code",
        "from vivim_export.onnx_export import OnnxOptions, export_onnx\n\ncomparison = export_onnx('tiny', model, "
        "OnnxOptions(), clips=['phantom:seed=11,frames=5,size=256'])\ncomparison.passed",
    ),
    (
        "markdown",
        "## Run\n\nEvery frame of a source gets masks at its own resolution. Videos, folders and DICOM loops are read in the same way.",
    ),
    (
        "code",
        "from vivim_runtime import RunOptions, open_session, open_source, run\n\nitems = []\n"
        "with open_source('phantom:seed=34,frames=20,size=240x320') as source, open_session(model, 'cpu') as session:\n"
        "    report = run(source, session, sinks=[], options=RunOptions(), on_frame=items.append)\n"
        "f'{report.frames} frames, {report.with_mask} with a mask'",
    ),
    ("markdown", "## Look\n\nPhantoms come with their true masks, so we can compute a Dice score."),
    (
        "code",
        "import numpy as np\nfrom vivim_runtime.judging import metrics\n\n"
        "truths = np.stack([item.frame.truth for item in items])\nmasks = np.stack([item.masks for item in items])\n"
        "dice = float(metrics.dice(masks.reshape(truths.shape), truths).mean())\nround(dice, 2)",
    ),
    (
        "code",
        "import cv2\n\npicture = np.concatenate([item.picture for item in items[::5]], axis=1)\n"
        "cv2.imwrite(str(work / 'masks.png'), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))\n"
        "try:\n    from IPython.display import Image\nexcept ModuleNotFoundError:\n    Image = Path\nImage(str(work / 'masks.png'))",
    ),
    (
        "markdown",
        "## Report\n\nCompare two models on the same clips, as `vivim-check` does; here the file with itself.",
    ),
    (
        "code",
        "from vivim_runtime.judging.parity import compare\nfrom vivim_runtime.judging.parity_report import html_report\n\n"
        "with open_session(model, 'cpu') as a, open_session(model, 'cpu') as b:\n"
        "    same = compare(a, b, ['phantom:seed=5,frames=10,size=256'])\n"
        "(work / 'parity.html').write_text(html_report(same))\nsame.passed",
    ),
]


def main() -> None:
    cells = [
        {
            "cell_type": kind,
            "id": f"cell-{number}",
            "metadata": {},
            "source": source.splitlines(keepends=True),
            **({"execution_count": None, "outputs": []} if kind == "code" else {}),
        }
        for number, (kind, source) in enumerate(CELLS)
    ]
    notebook = {
        "cells": cells,
        "metadata": {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path = Path(__file__).parents[1] / "notebook.ipynb"
    path.write_text(json.dumps(notebook, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
