"""What int8 costs when its ranges are learnt from the wrong clips, and with each method: the tables of docs/int8.md.

    python benchmarks/int8_clips.py tiny.onnx --thyroid FOLDER_OF_FRAMES

The cine loop is pydicom's example; the thyroid video (frames in a folder, such as VTUS's Train/0002) is optional.
Judged by the arithmetic of the file, on two clips of each source that ranges were not learnt from.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pydicom.examples

from vivim_calibration.calibration import learn_ranges
from vivim_calibration.clips import ClipSet, whole_clips
from vivim_calibration.float_model import load_float_model
from vivim_calibration.histogram import METHODS
from vivim_calibration.quantise import quantise_layers
from vivim_calibration.verdict import agreement_of, logits_of_clips
from vivim_runtime.sessions.onnx import OnnxSession


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--thyroid")
    options = parser.parse_args()
    model = load_float_model(options.model)
    frames, size = model.info.frames, model.info.size

    def clips(names: list[str], numbers: list[int]) -> ClipSet:
        """Clips of sources, by their numbers over all of these."""
        whole = whole_clips(names, frames, size)
        return ClipSet(tuple(whole.chosen[number] for number in numbers), whole.videos, frames, whole.framing)

    phantoms = [f"phantom:seed={seed},frames={frames},size={size[0]}x{size[1]}" for seed in range(1_000_000, 1_000_008)]
    cine = str(pydicom.examples.get_path("ybr_color"))
    judged = {"phantoms": clips(phantoms[6:], [0, 1]), "cine loop": clips([cine], [3, 5])}
    learnt = {"4 phantoms": clips(phantoms[:4], [0, 1, 2, 3])}
    learnt["2 phantoms, 2 of the loop"] = clips([*phantoms[:2], cine], [0, 1, 2, 3])
    if options.thyroid:
        judged["thyroid video"] = clips([options.thyroid], [12, 16])
        learnt["2 phantoms, 2 of the thyroid video"] = clips([*phantoms[:2], options.thyroid], [0, 1, 3, 7])
    with OnnxSession(options.model, "cpu", 1, fused=False) as session:
        reference = {name: logits_of_clips(session, chosen) for name, chosen in judged.items()}
    print(f"| learnt from | method | {' | '.join(judged)} |")
    print("|---" * (2 + len(judged)) + "|")
    for name, chosen in learnt.items():
        for method in METHODS if name == "4 phantoms" else ("mse",):
            ranges = learn_ranges(model.proto, model.info, model.sha256, chosen, method, 1).ranges
            with TemporaryDirectory() as folder:
                path = Path(folder) / "int8.onnx"
                onnx.save(quantise_layers(model.proto, ranges), path)
                with OnnxSession(path, "cpu", 1, fused=False) as session:
                    found = [agreement_of(session, judged[of], reference[of]) for of in judged]
            cells = [
                f"{a.tensor.relative_l2:.3f}, " + ("no mask" if a.masks.dice is None else f"{a.masks.dice:.3f}")
                for a in found
            ]
            print(f"| {name} | {method} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
