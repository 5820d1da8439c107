"""A film through a model that Triton serves: masks as PNG files, as `vivim-run` writes them.

    pip install 'tritonclient[grpc]' vivim-edge
    vivim-export triton model.onnx -o repository/
    tritonserver --model-repository $PWD/repository           # or its container, with the folder at /models
    python examples/triton_client.py clip.mp4 masks/ --model model

What the model wants is asked of the server: it says so in the configuration that vivim-export wrote.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import tritonclient.grpc as triton

from vivim_runtime.clips import resized, windows
from vivim_runtime.sources import open_source


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("masks", type=Path)
    parser.add_argument("--model", default="model")
    parser.add_argument("--url", default="localhost:8001")
    given = parser.parse_args()
    given.masks.mkdir(parents=True, exist_ok=True)
    client = triton.InferenceServerClient(given.url)
    config = client.get_model_config(given.model).config
    dims = [*config.input[0].dims] if config.max_batch_size == 0 else [1, *config.input[0].dims]
    _, frames, height, width, _ = dims
    hop = int(config.parameters["vivim_hop"].string_value)
    streams = config.HasField("sequence_batching")
    with open_source(given.source) as source:
        for number, window in enumerate(windows(source, frames, hop, "newest")):
            pixels = np.stack([resized(frame.image, (height, width)) for frame in window.frames])[None]
            tensor = triton.InferInput(config.input[0].name, list(pixels.shape), "UINT8")
            tensor.set_data_from_numpy(pixels)
            sequence = {"sequence_id": 1, "sequence_start": number == 0} if streams else {}
            answer = client.infer(given.model, [tensor], **sequence)
            logits = answer.as_numpy("logits")
            assert logits is not None
            for position in range(window.used.start, window.used.stop):
                frame = window.frames[position]
                rows, columns = frame.image.shape[:2]
                at_size = cv2.resize(logits[0, position, 0], (columns, rows), interpolation=cv2.INTER_LINEAR)
                cv2.imwrite(str(given.masks / f"{frame.index:06d}.png"), (at_size > 0).astype(np.uint8) * 255)


if __name__ == "__main__":
    main()
