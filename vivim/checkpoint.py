"""Weights in and out: our safetensors, the authors' checkpoints, and SegFormer encoders to start training from."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vivim.config import PRESETS, VivimConfig
from vivim.model import Vivim
from vivim.pickled import network_entries, read_foreign
from vivim_runtime.confidence import CONFIDENCE_KEY, Confidence
from vivim_runtime.contract import CONTRACT_KEY, InputContract
from vivim_runtime.errors import CheckpointError, ConfigError
from vivim_runtime.files import atomic_path
from vivim_runtime.provenance import DATA_KEY, TrainingData, data_from_json, data_to_json

__all__ = [
    "SHIPPED",
    "Training",
    "from_segformer",
    "from_upstream",
    "load_checkpoint",
    "read_metadata",
    "read_training",
    "resolve_weights",
    "save_checkpoint",
    "upstream_key",
]

FORMAT = "vivim-edge/1"
# Names of the weights in vivim/weights that are networks.
SHIPPED = ("tiny", "tiny-stream")
_log = logging.getLogger("vivim")
_DIRECTIONS = (("", "forward"), ("_b", "backward"), ("_s", "spatial"))
# Present in upstream checkpoints, read by no forward pass (golden README, point 1).
_NEVER_USED = re.compile(r"encoder\.downsample_layers\.layer_norm\.\d\.|decoder\.classifier\.")


@dataclass(frozen=True)
class Training:
    """What weights say of how they were trained: pictures and clips, on which videos, and how sure they are since."""

    contract: InputContract
    data: tuple[TrainingData, ...] = ()
    confidence: Confidence | None = None

    def with_dice(self, dice: float) -> Training:
        """The same with the Dice that the weights have on the videos that validate."""
        own, *before = self.data or (None,)
        return self if own is None else replace(self, data=(replace(own, validation_dice=dice), *before))

    def metadata(self, prefix: str = "") -> dict[str, str]:
        """For the header of weights, and with the prefix `vivim.` for the description of a model file."""
        return {
            prefix + CONTRACT_KEY: self.contract.to_json(),
            **({prefix + DATA_KEY: data_to_json(self.data)} if self.data else {}),
            **({prefix + CONFIDENCE_KEY: self.confidence.to_json()} if self.confidence else {}),
        }


def save_checkpoint(path: str | Path, model: Vivim, metadata: Mapping[str, str] | None = None) -> None:
    """Write weights and configuration as safetensors, whole or not at all; `metadata` is stored beside them."""
    tensors = {k: v.detach().to("cpu").contiguous() for k, v in model.state_dict().items()}
    header = {**(metadata or {}), "format": FORMAT, "config": model.config.to_json()}
    data = safetensors.torch.save(tensors, metadata=header)  # save_file would give the file to its owner alone
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def resolve_weights(name: str | Path) -> Path:
    """The path itself, or the weights that the package ships under a name (`SHIPPED`).

    Raises:
        CheckpointError: when there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    if str(name) in SHIPPED:
        return Path(str(files("vivim"))) / "weights" / f"{name}.safetensors"
    if str(name) in PRESETS:
        raise CheckpointError(f"the package ships no weights for the preset {name}; give a checkpoint file")
    raise CheckpointError(
        f"there is no checkpoint {name}; expected a .safetensors, .pth, .pt, .ckpt or .pth.tar file, or "
        f"{' or '.join(SHIPPED)}"
    )


def load_checkpoint(path: str | Path, frames: int | None = None, ema: bool = False) -> Vivim:
    """The network in a checkpoint, in eval mode on the CPU.

    Args:
        path: our .safetensors (any with our configuration in its metadata), an authors' .pth/.pt/.ckpt (in whatever
            a training script wraps it, vivim.pickled; read with weights_only=True), or the name of shipped weights.
        frames: T to export for; default what the checkpoint says, 5 for upstream ones.
        ema: take the averaged weights of a foreign checkpoint that holds both; which were taken is said.

    Raises:
        CheckpointError: when the file is missing, damaged, or holds another network.
    """
    path = resolve_weights(path)
    if frames is not None and frames < 1:
        raise ConfigError(f"--frames is {frames}; expected at least 1")
    if path.suffix.lower() != ".safetensors":
        return from_upstream(_torch_state(path, ema), 5 if frames is None else frames)
    tensors, metadata = _read_safetensors(path)
    if "config" not in metadata or not metadata.get("format", "").startswith("vivim-edge/"):
        return from_upstream(tensors, 5 if frames is None else frames)
    try:
        config = VivimConfig.from_json(metadata["config"])
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if frames is not None:
        config = VivimConfig.from_json(json.dumps({**json.loads(config.to_json()), "frames": frames}))
    model = Vivim(config)
    _load(model, tensors, str(path))
    return model.eval()


def read_metadata(path: str | Path) -> dict[str, str]:
    """The metadata of a safetensors checkpoint; empty for other formats."""
    path = resolve_weights(path)
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def read_training(path: str | Path) -> Training:
    """How weights were trained. Those without a record, the authors' too: 256 x 256, and the T of their configuration.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
        ModelError: the record is damaged, or of a newer version.
    """
    metadata, name = read_metadata(path), str(path)
    if CONTRACT_KEY in metadata:
        contract = InputContract.from_json(metadata[CONTRACT_KEY], name)
    else:
        frames = VivimConfig.from_json(metadata["config"]).frames if "config" in metadata else 5
        contract = InputContract.assumed(frames)
    confidence = metadata.get(CONFIDENCE_KEY)
    return Training(
        contract,
        data_from_json(metadata.get(DATA_KEY, "[]"), name),
        None if confidence is None else Confidence.from_json(confidence, name),
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{path} is no readable safetensors file ({error}); is it complete?")


def _torch_state(path: Path, ema: bool = False) -> dict[str, Tensor]:
    """The state dict in a torch file; what was taken of several is said."""
    found = read_foreign(path, ema)
    for note in found.notes:
        _log.warning(note)
    return found.tensors


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    return ", ".join(keys[:3]) + rest


def _load(model: torch.nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy `tensors` into `model`; one CheckpointError that lists the first few problems and counts the rest."""
    expected = model.state_dict()
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    shapes = [
        f"{k} is {tuple(tensors[k].shape)}, expected {tuple(expected[k].shape)}"
        for k in expected.keys() & tensors.keys()
        if tensors[k].shape != expected[k].shape
    ]
    problems = [
        f"{len(found)} {what}: {_some(found)}"
        for what, found in (
            ("missing keys", missing),
            ("unexpected keys", unexpected),
            ("wrong shapes", shapes),
        )
        if found
    ]
    if problems:
        raise CheckpointError(f"{origin} does not fit the network: {'; '.join(problems)}")
    model.load_state_dict(dict(tensors))


# --- the authors' names -----------------------------------------------------------------------------------------


def upstream_key(key: str) -> str:
    """The authors' name of one of our parameters that is stored one to one (not stacked or merged)."""
    for pattern, replacement in _RULES:
        if pattern.match(key):
            return pattern.sub(replacement, key)
    raise KeyError(key)


def _rules() -> list[tuple[re.Pattern[str], str]]:
    segformer = r"^stages\.(\d)\.blocks\.(\d+)\."
    block = r"encoder.downsample_layers.block.\1.\2."
    mamba = r"^stages\.(\d)\.mamba\.(\d+)\."
    layer = r"encoder.stages.\1.\2.0."
    rules = {
        r"^stages\.(\d)\.patch_embed\.proj\.": r"encoder.downsample_layers.patch_embeddings.\1.proj.",
        r"^stages\.(\d)\.patch_embed\.norm\.": r"encoder.downsample_layers.patch_embeddings.\1.layer_norm.",
        segformer + r"norm(\d)\.": block + r"layer_norm_\3.",
        segformer + r"attention\.query\.": block + "attention.self.query.",
        segformer + r"attention\.out\.": block + "attention.output.dense.",
        segformer + r"attention\.reduce\.": block + "attention.self.sr.",
        segformer + r"attention\.reduce_norm\.": block + "attention.self.layer_norm.",
        segformer + r"mlp\.fc(\d)\.": block + r"mlp.dense\3.",
        segformer + r"mlp\.dwconv\.": block + "mlp.dwconv.dwconv.",
        mamba + r"mixer\.(in_proj|out_proj)\.": layer + r"mamba.\3.",
        mamba + r"mlp\.dwconv\.": layer + "mlp.dwconv.dwconv.",
        mamba + r"(norm\d|mlp\.fc\d)\.": layer + r"\3.",
        r"^decoder\.projections\.(\d)\.": r"decoder.linear_c.\1.proj.",
        r"^decoder\.fuse\.": "decoder.linear_fuse.",
        r"^decoder\.norm\.": "decoder.batch_norm.",
        r"^decoder\.classifier\.": "out.",
        r"^edge_head\.": "edgeocr_cls_head.",
    }
    return [(re.compile(pattern), to) for pattern, to in rules.items()]


_RULES = _rules()

# Our stacked parameter -> the authors' name of one direction's part ({} is "", "_b" or "_s").
_STACKED = {
    "conv_weight": "conv1d{}.weight",
    "conv_bias": "conv1d{}.bias",
    "x_proj": "x_proj{}.weight",
    "dt_weight": "dt_proj{}.weight",
    "dt_bias": "dt_proj{}.bias",
    "A_log": "A{}_log",
    "D": "D{}",
}
_MIXER = re.compile(r"^stages\.(\d)\.mamba\.(\d+)\.mixer\.(\w+)$")
_KEY_VALUE = re.compile(r"^(stages\.\d\.blocks\.\d+)\.attention\.key_value\.(\w+)$")


def _sources(key: str, config: VivimConfig) -> tuple[list[str], Callable[[list[Tensor]], Tensor]]:
    """The upstream entries that make up one of our parameters, and how they are joined."""
    if match := _KEY_VALUE.match(key):
        query = upstream_key(f"{match[1]}.attention.query.{match[2]}")
        return [query.replace("query", part) for part in ("key", "value")], torch.cat
    if (match := _MIXER.match(key)) and match[3] in _STACKED:
        suffixes = [suffix for suffix, name in _DIRECTIONS if name in config.directions]
        names = [_STACKED[match[3]].format(suffix) for suffix in suffixes]
        squeeze = match[3] == "conv_weight"  # Conv1d weights are (D, 1, taps)
        return (
            [f"encoder.stages.{match[1]}.{match[2]}.0.mamba.{name}" for name in names],
            lambda parts: torch.stack([p.squeeze(1) if squeeze and p.ndim == 3 else p for p in parts]),
        )
    return [upstream_key(key)], lambda parts: parts[0]


def _config_of(state: Mapping[str, Tensor], frames: int) -> VivimConfig:
    """The configuration of an upstream state dict, inferred from its shapes; KeyError where an entry is missing."""
    blocks = "encoder.downsample_layers.block"
    first = "encoder.stages.0.0.0.mamba."
    widths = tuple(state[f"encoder.downsample_layers.patch_embeddings.{i}.proj.weight"].shape[0] for i in range(4))
    depths = tuple(_count(state, rf"{re.escape(blocks)}\.{i}\.(\d+)\.") for i in range(4))
    reductions = tuple(
        state[sr].shape[-1] if (sr := f"{blocks}.{i}.0.attention.self.sr.weight") in state else 1 for i in range(4)
    )
    inner = state[first + "D"].shape[0]
    directions = tuple(name for suffix, name in _DIRECTIONS if f"{first}D{suffix}" in state)
    classes = state["out.weight"].shape[0]
    return VivimConfig(
        widths=widths,
        depths=depths,
        heads=_heads(widths),
        reductions=reductions,
        mamba_layers=_count(state, r"encoder\.stages\.0\.(\d+)\."),
        state=state[first + "A_log"].shape[1],
        conv=state[first + "conv1d.weight"].shape[-1],
        expand=inner // widths[0],
        directions=directions,  # type: ignore[arg-type]
        decoder_width=state["decoder.linear_fuse.weight"].shape[0],
        frames=frames,
        classes=("lesion",) if classes == 1 else tuple(f"class{i + 1}" for i in range(classes)),
        edge_head="conv1x1" if "edgeocr_cls_head.weight" in state else "none",
        mlp_ratio=state[f"{blocks}.0.0.mlp.dense1.weight"].shape[0] // widths[0],
    )


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers the group of `pattern` takes at the start of the keys."""
    return len({match[1] for key in state if (match := re.match(pattern, key))})


def _heads(widths: tuple[int, ...]) -> tuple[int, ...]:
    """Attention heads: in no tensor's shape, but SegFormer's head size is the first width (1, 2, 5, 8 heads)."""
    return tuple(max(1, width // widths[0]) for width in widths)


def _translated(state: dict[str, Tensor], model: Vivim, keys: Iterable[str], origin: str) -> dict[str, Tensor]:
    """Our parameters `keys` of `model`, from upstream entries; CheckpointError lists what is missing or left over."""
    wanted = {key: _sources(key, model.config) for key in keys}
    used = {name for names, _ in wanted.values() for name in names}
    missing = used - state.keys()
    left = {key for key in state.keys() - used if not _NEVER_USED.match(key)}
    if missing or left:
        problems = [
            f"{len(found)} {what}: {_some(found)}"
            for what, found in (("missing keys", missing), ("unexpected keys", left))
            if found
        ]
        raise CheckpointError(f"{origin} does not fit the network: {'; '.join(problems)}")
    expected = model.state_dict()
    translated = {}
    for key, (names, join) in wanted.items():
        parts = [state[name] for name in names]
        try:
            translated[key] = join(parts).to(expected[key].dtype)
        except RuntimeError:
            shapes = ", ".join(f"{n} {tuple(p.shape)}" for n, p in zip(names, parts, strict=True))
            raise CheckpointError(f"{origin}: these entries cannot be joined: {shapes}") from None
    return translated


def from_upstream(state_dict: Mapping[str, Tensor], frames: int = 5) -> Vivim:
    """The network of an authors' state dict, its configuration inferred from the shapes, in eval mode.

    Args:
        state_dict: transformers-4.x SegFormer names and Mamba v3 names; prefixes such as `module.` are stripped.
        frames: T to export for (no tensor tells it).

    Raises:
        CheckpointError: for missing, unexpected or misshaped entries: the first few, and how many more.
    """
    state = network_entries(state_dict).tensors
    try:
        config = _config_of(state, frames)
    except (KeyError, IndexError, ConfigError) as error:
        raise CheckpointError(
            f"these {len(state)} entries are not a Vivim checkpoint (no usable {error}); they begin with "
            f"{_some(list(state)[:3])}"
        ) from None
    model = Vivim(config)
    _load(
        model,
        _translated(state, model, model.state_dict(), "the upstream checkpoint"),
        "the upstream checkpoint",
    )
    return model.eval()


# --- SegFormer encoders -----------------------------------------------------------------------------------------


def from_segformer(source: str | Path | Mapping[str, Tensor], config: VivimConfig | None = None) -> Vivim:
    """A network to train whose SegFormer encoder comes from Hugging Face weights (transformers 4.x names).

    Args:
        source: a file (.safetensors, .bin, .pth), or a state dict, of SegformerModel or
            SegformerForSemanticSegmentation or -ForImageClassification. Of a decode head, the projections, the fusion
            and its norm are taken where they fit, as in the authors' code; how much that was is logged. What scores
            classes is not.
        config: the network; default the preset whose encoder has these widths and depths.

    Returns:
        The network in training mode, the Mamba layers newly initialised, and what the weights do not have.

    Raises:
        CheckpointError: when the encoder does not fit.
    """
    origin = "the SegFormer weights"
    if isinstance(source, Mapping):
        state = dict(source)
    else:
        path = resolve_weights(source)
        origin = str(path)
        state = _read_safetensors(path)[0] if path.suffix.lower() == ".safetensors" else _torch_state(path)
    encoder = {
        "encoder.downsample_layers." + key.split("encoder.", 1)[1]: value
        for key, value in state.items()
        if re.match(r"(segformer\.)?encoder\.(patch_embeddings|block)\.", key)
    }
    head = {"decoder." + key.partition(".")[2]: value for key, value in state.items() if key.startswith("decode_head.")}
    if config is None:
        config = _segformer_preset(encoder, origin)
    model = Vivim(config)
    ours = model.state_dict()
    keys = [key for key in ours if re.match(r"stages\.\d\.(patch_embed|blocks)\.", key)]
    taken = _translated(encoder, model, keys, origin)
    of_decoder = [key for key in ours if re.match(r"decoder\.(projections|fuse|norm)\.(?!num_)", key)]
    fitting = [key for key in of_decoder if _fits(key, ours[key], head, config)]
    if head:
        _log.info("%s: the encoder, and %d of %d entries of the decoder", origin, len(fitting), len(of_decoder))
        if len(fitting) < len(of_decoder):
            _log.warning(
                f"{origin}: {len(of_decoder) - len(fitting)} of {len(of_decoder)} entries of its decode head do not "
                f"fit a decoder of width {config.decoder_width}, and start from chance"
            )
        wanted = {name for key in fitting for name in _sources(key, config)[0]}
        taken |= _translated({name: head[name] for name in wanted}, model, fitting, origin)
    _load(model, {**ours, **taken}, origin)
    return model.train()


def _fits(key: str, ours: Tensor, head: Mapping[str, Tensor], config: VivimConfig) -> bool:
    names = _sources(key, config)[0]
    return all(name in head and head[name].shape == ours.shape for name in names)


def _segformer_preset(state: Mapping[str, Tensor], origin: str) -> VivimConfig:
    prefix = "encoder.downsample_layers."
    try:
        widths = tuple(state[f"{prefix}patch_embeddings.{i}.proj.weight"].shape[0] for i in range(4))
    except KeyError as error:
        raise CheckpointError(f"{origin} has no SegFormer encoder (no {error})") from None
    depths = tuple(_count(state, rf"{re.escape(prefix)}block\.{i}\.(\d+)\.") for i in range(4))
    for preset in PRESETS.values():
        if (preset.widths, preset.depths) == (widths, depths):
            return preset
    raise CheckpointError(f"{origin} has widths {widths} and depths {depths}, which is no preset; give a config")
