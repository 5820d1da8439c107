"""A clip of a video for Polygraphy: polygraphy run MODEL.onnx --onnxrt --data-loader-script THIS_FILE.

Environment: VIVIM_MODEL, the ONNX file (which says the clips' size and length), and VIVIM_SOURCE, whatever vivim-run
takes as SOURCE.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import cv2
import numpy as np

from vivim_runtime import open_session, open_source


def load_data() -> Iterator[dict[str, np.ndarray]]:
    """The first clip of the source, as the model takes it."""
    with open_session(os.environ["VIVIM_MODEL"], "cpu") as session:
        info = session.info
    height, width = info.size
    with open_source(os.environ["VIVIM_SOURCE"]) as source:
        frames = [frame.image for frame, _ in zip(source, range(info.frames), strict=False)]
    clip = [cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA) for image in frames]
    yield {"frames": np.stack(clip)[None]}
