"""The one description of a Vivim network: everything that its shape depends on, and nothing else."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vivim_runtime.contract import IMAGENET_MEAN, IMAGENET_STD
from vivim_runtime.errors import ConfigError
from vivim_runtime.text import parse_json

__all__ = [
    "ABLATIONS",
    "MEAN",
    "PRESETS",
    "STD",
    "STREAMING_DIRECTIONS",
    "Direction",
    "EdgeHead",
    "SpatioTemporalModule",
    "TrainedEdgeHead",
    "VivimConfig",
]

# What networks are trained with; one of other weights is in their input contract.
MEAN, STD = IMAGENET_MEAN, IMAGENET_STD

Direction = Literal["forward", "backward", "spatial", "frame_forward", "frame_backward", "frame_columns"]
# Of a streaming network where nobody asks for others: as near to a clip network as two scans come (docs/streaming.md).
STREAMING_DIRECTIONS: tuple[Direction, ...] = ("forward", "frame_backward")
TrainedEdgeHead = Literal["conv1x1", "conv3", "decoder"]
EdgeHead = Literal["none", TrainedEdgeHead]
SpatioTemporalModule = Literal["st_mamba", "self_attention", "window_attention", "factorized_attention", "identity"]

STAGES = 4
# Scan orders over the grid of T rows and H*W columns, as `vivim.scan.operators` numbers them.
_ORDER = {"forward": 0, "backward": 1, "spatial": 2}
# And of a streaming network, over the grid of H rows and W columns of one frame. `forward` alone goes on from the frame
# before; the others stay within theirs.
_STREAMING_ORDER = {"forward": 0, "frame_forward": 0, "frame_backward": 1, "frame_columns": 2}
# A configuration comes out of files of others; a network of these sizes is far beyond every published one, and beyond
# them a file of a few bytes would take all memory.
_MOST = {
    "widths": 8192,
    "depths": 256,
    "heads": 256,
    "reductions": 256,
    "mamba_layers": 64,
    "state": 1024,
    "conv": 64,
    "expand": 16,
    "decoder_width": 8192,
    "frames": 4096,
    "mlp_ratio": 16,
}
_MOST_WEIGHTS = 1 << 31  # of the blocks together; B5 has 8e7


@dataclass(frozen=True)
class VivimConfig:
    """Shape of a network. Tuples of four are per stage.

    Attributes:
        widths: channels C of the stages' tokens.
        depths: SegFormer blocks a stage.
        heads: attention heads a stage; must divide the width.
        reductions: sequence-reduction ratio of the attention a stage (keys and values are pooled by it).
        mamba_layers: Temporal Mamba layers a stage (2 in the paper's code); 0 leaves SegFormer, frame by frame.
        state: N, states a channel of the scan.
        conv: taps of the causal convolution before the scan.
        expand: inner width D of the scan over C.
        directions: scans to average, a non-empty subset in this order (`ABLATIONS` has those of Table III); of a
            streaming network a subset of forward, frame_forward, frame_backward, frame_columns.
        st_module: what looks over the whole clip in a Temporal Mamba layer: ST-Mamba, or one of its rivals in Table IV
            (vivim.rivals), which have the heads of their stage and for which state, conv, expand and directions mean
            nothing; "identity" mixes nothing, so that only the norms and the 3x3x3 convolutions of the layers are left.
        decoder_width: channels of the decoder.
        frames: T, frames of a clip for which the network is exported; `forward` takes any T >= 1. 1 of a streaming
            network.
        classes: names of the K output classes, each an independent sigmoid.
        edge_head: boundary head on the first stage ("conv1x1" is the authors', "conv3" the paper's), or the paper's on
            what the decoder classifies ("decoder"), which knows lesions from what looks like one. For training alone.
        mlp_ratio: hidden width of the feed-forward parts over C.
        drop_path: largest stochastic depth of the SegFormer blocks, in training (grows linearly from 0).
        dropout: dropout of the decoder, in training.
        streaming: it looks back only and takes a film frame by frame, with what it remembers (vivim.streaming).
    """

    widths: tuple[int, ...] = (64, 128, 320, 512)
    depths: tuple[int, ...] = (3, 4, 18, 3)
    heads: tuple[int, ...] = (1, 2, 5, 8)
    reductions: tuple[int, ...] = (8, 4, 2, 1)
    mamba_layers: int = 2
    state: int = 16
    conv: int = 4
    expand: int = 2
    directions: tuple[Direction, ...] = ("forward", "backward", "spatial")
    st_module: SpatioTemporalModule = "st_mamba"
    decoder_width: int = 768
    frames: int = 5
    classes: tuple[str, ...] = ("lesion",)
    edge_head: EdgeHead = "none"
    mlp_ratio: int = 4
    drop_path: float = 0.1
    dropout: float = 0.1
    streaming: bool = False

    def __post_init__(self) -> None:
        for name in ("widths", "depths", "heads", "reductions"):
            values = getattr(self, name)
            most = _MOST[name]
            if len(values) != STAGES or any(not _is_count(v, 1, most) for v in values):
                raise ConfigError(f"{name} is {values!r}; expected {STAGES} integers of 1 to {most}")
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads or width % 4:
                raise ConfigError(f"width {width} with {heads} heads: expected a multiple of the heads and of 4")
        if not _is_count(self.mamba_layers, 0, _MOST["mamba_layers"]):
            raise ConfigError(f"mamba_layers is {self.mamba_layers!r}; expected 0 to {_MOST['mamba_layers']}")
        for name in ("state", "conv", "expand", "decoder_width", "frames", "mlp_ratio"):
            if not _is_count(getattr(self, name), 1, _MOST[name]):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected 1 to {_MOST[name]}")
        weights = sum(
            width**2 * (depth * (4 + 2 * self.mlp_ratio) + self.mamba_layers * (6 * self.expand + 2 * self.mlp_ratio))
            for width, depth in zip(self.widths, self.depths, strict=True)
        )
        if weights > _MOST_WEIGHTS:
            raise ConfigError(f"widths {self.widths!r} and depths {self.depths!r} are {weights:.1e} weights; too many")
        if self.streaming not in (True, False):
            raise ConfigError(f"streaming is {self.streaming!r}; expected true or false")
        order = self._order
        if not self.directions or tuple(d for d in order if d in self.directions) != self.directions:
            raise ConfigError(f"directions are {self.directions!r}; expected a non-empty subset of {tuple(order)}")
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes are {self.classes!r}; expected at least one name, each once")
        for name, choices in (("edge_head", get_args(EdgeHead)), ("st_module", get_args(SpatioTemporalModule))):
            if getattr(self, name) not in choices:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected {' or '.join(map(repr, choices))}")
        if self.streaming and (self.st_module != "st_mamba" or self.frames != 1):
            raise ConfigError(
                f"a streaming network has st_module {self.st_module!r} and {self.frames} frames; expected 'st_mamba', "
                "which alone goes on from frame to frame, and 1"
            )

    @property
    def _order(self) -> dict[str, int]:
        return _STREAMING_ORDER if self.streaming else _ORDER

    @property
    def carries(self) -> bool:
        """Whether a scan goes on from frame to frame; a streaming network without one remembers two frames in DSF."""
        return self.streaming and "forward" in self.directions

    @classmethod
    def preset(cls, name: str, **changes: Any) -> VivimConfig:
        """A named configuration: `tiny` (demo), `b0` .. `b5` (SegFormer's sizes); `b3` is the paper's."""
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}; expected one of {', '.join(PRESETS)}")
        return dataclasses.replace(PRESETS[name], **changes)

    @property
    def preset_name(self) -> str:
        """The preset whose network this is (frames, classes, edge head and directions aside), or `custom`."""
        for name, preset in PRESETS.items():
            same = dataclasses.replace(
                preset,
                frames=self.frames,
                classes=self.classes,
                edge_head=self.edge_head,
                directions=self.directions,
                drop_path=self.drop_path,
                dropout=self.dropout,
                streaming=self.streaming,
            )
            if same == self:
                return name
        return "custom"

    @property
    def direction_codes(self) -> tuple[int, ...]:
        """The directions as `vivim.scan.operators` numbers them (DESIGN section 4)."""
        return tuple(self._order[d] for d in self.directions)

    def dt_rank(self, stage: int) -> int:
        """R, rank of the time-step projection: ceil(C / 16), as in Mamba."""
        return math.ceil(self.widths[stage] / 16)

    def to_json(self) -> str:
        """One line of JSON that `from_json` takes."""
        values = dataclasses.asdict(self)
        if not self.streaming:  # as files of before had it, to the byte
            del values["streaming"]
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> VivimConfig:
        """The configuration that `to_json` wrote; ConfigError when it is not one."""
        try:
            values: dict[str, Any] = parse_json(text)
            known = {f.name for f in dataclasses.fields(cls)}
            unknown = sorted(set(values) - known)
            if unknown:
                raise ConfigError(f"the configuration has unknown fields {', '.join(unknown)}; update vivim-edge")
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            return cls(**fields)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"not a network configuration: {error}") from None


def _is_count(value: Any, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _segformer(widths: tuple[int, ...], depths: tuple[int, ...], decoder_width: int) -> VivimConfig:
    return VivimConfig(widths=widths, depths=depths, decoder_width=decoder_width)


PRESETS: dict[str, VivimConfig] = {
    # Small enough to train on two CPU cores and to run on any laptop.
    "tiny": VivimConfig(
        widths=(16, 32, 64, 128),
        depths=(1, 1, 2, 1),
        heads=(1, 1, 2, 4),
        mamba_layers=1,
        decoder_width=64,
        drop_path=0.0,
        dropout=0.0,
    ),
    "b0": _segformer((32, 64, 160, 256), (2, 2, 2, 2), 256),
    "b1": _segformer((64, 128, 320, 512), (2, 2, 2, 2), 256),
    "b2": _segformer((64, 128, 320, 512), (3, 4, 6, 3), 768),
    "b3": _segformer((64, 128, 320, 512), (3, 4, 18, 3), 768),
    "b4": _segformer((64, 128, 320, 512), (3, 8, 27, 3), 768),
    "b5": _segformer((64, 128, 320, 512), (3, 6, 40, 3), 768),
}

# The networks of Table III, as changes to a configuration. Ours is C3 trained with the boundary-aware constraint.
ABLATIONS: dict[str, dict[str, Any]] = {
    "basic": {"mamba_layers": 0},
    "C1": {"directions": ("forward",)},
    "C2": {"directions": ("forward", "backward")},
    "C3": {"directions": ("forward", "backward", "spatial")},
}
