"""Networks made of other networks' weights."""

from __future__ import annotations

import dataclasses

import torch

from vivim.config import STREAMING_DIRECTIONS, Direction
from vivim.model import Vivim
from vivim_runtime.errors import ConfigError

__all__ = ["streaming_from"]

# The direction of a clip network whose parameters a streaming one begins with.
_NEAREST: dict[str, Direction] = {
    "forward": "forward",
    "frame_forward": "forward",
    "frame_backward": "backward",
    "frame_columns": "spatial",
}


@torch.no_grad()
def streaming_from(source: Vivim, directions: tuple[Direction, ...] = STREAMING_DIRECTIONS) -> Vivim:
    """A streaming network with the weights of a clip network, as near as they come; it is to be trained on.

    A direction begins with the parameters of the nearest one that `source` has (forward, backward, spatial). The taps
    of DSF's convolution stay with the frame that they met; that of the frame ahead is added to the newest.

    Raises:
        ConfigError: `source` streams already, has no ST-Mamba, or lacks the direction that one is to begin with.
    """
    config = source.config
    if config.streaming or config.st_module != "st_mamba":
        raise ConfigError("expected weights of a clip network with ST-Mamba, to make a streaming one of them")
    model = Vivim(dataclasses.replace(config, streaming=True, directions=directions, frames=1))
    model.to(next(source.parameters()).dtype)
    missing = [name for name in directions if _NEAREST[name] not in config.directions]
    if missing:
        raise ConfigError(f"{', '.join(missing)} cannot begin with one of {config.directions!r}")
    taken = [config.directions.index(_NEAREST[name]) for name in directions]
    own = {name for name, _ in source.named_parameters() if ".mixer." in name and "proj.weight" not in name}
    weights = {}
    for name, value in source.state_dict().items():
        if name in own:  # stacked by directions
            value = value[taken]
        if ".mamba." in name and name.endswith("dwconv.weight"):
            before, now, ahead = value.unbind(2)
            value = torch.stack((torch.zeros_like(now), before, now + ahead), dim=2)
        weights[name] = value
    model.load_state_dict(weights)
    return model.train(source.training)
