"""Other people's networks from their own code: `package.module:builder`, its weights, and whose line a failure is.

A failure of their code becomes one sentence with the file and line of theirs, for whoever has to change it.
"""

from __future__ import annotations

import importlib
import linecache
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vivim.pickled import read_foreign
from vivim_runtime.errors import CheckpointError, ModelError, UsageError
from vivim_runtime.text import parse_json, parse_number

__all__ = ["blamed", "build_arguments", "input_shape", "line_of", "load_network", "place_of"]

_CUDA = ("Torch not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs", "CUDA driver")


def load_network(
    name: str,
    folders: Iterable[str | Path] = (),
    arguments: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    on_cpu: bool = False,
) -> nn.Module:
    """Import and build a network; call it within `stand_ins(folders)`.

    Args:
        name: "package.module:builder", a function or class that gives a torch.nn.Module.
        folders: of the network's code.
        arguments: of the builder, by name.
        weights: safetensors, or a checkpoint that torch.load reads with weights_only.
        on_cpu: what their code sends to a GPU while it is imported and built stays on the CPU.

    Raises:
        UsageError: no such builder.
        ModelError: their code fails; the message says where.
        CheckpointError: weights of another network.
    """
    module_name, _, builder_name = name.partition(":")
    if not module_name or not builder_name:
        raise UsageError(f"--model is {name}; expected package.module:builder, such as vmamba:vmamba_tiny_s1l8")
    missing = [str(folder) for folder in folders if not Path(folder).is_dir()]
    if missing:
        raise UsageError(f"--path {missing[0]} is no folder; expected the one that {module_name} is imported from")
    where: Any = _OnCpu() if on_cpu else nullcontext()
    with blamed(f"importing {module_name}", folders, module_name), where, redirect_stdout(sys.stderr):
        module = importlib.import_module(module_name)
    builder: Any = module
    for part in builder_name.split("."):
        builder = getattr(builder, part, None)
    if not callable(builder):
        known = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        some = ", ".join(known[:12])
        raise UsageError(f"{module_name} has no {builder_name}; it has {some}{', ...' if len(known) > 12 else ''}")
    with blamed(f"building {name}", folders), where, redirect_stdout(sys.stderr):
        network = builder(**(arguments or {}))
    if not isinstance(network, nn.Module):
        raise UsageError(f"{name} gives a {type(network).__name__}; expected a torch.nn.Module")
    if weights is not None:
        _load_weights(network, Path(weights))
    return network.eval().requires_grad_(False)


class _OnCpu(TorchFunctionMode):
    """A GPU in a network's code is the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.Tensor.cuda:
            return args[0]
        named = {key: _cpu(value) for key, value in (kwargs or {}).items()}
        return func(*(_cpu(value) for value in args), **named)


def _cpu(value: Any) -> Any:
    is_gpu = isinstance(value, str | torch.device) and str(value).partition(":")[0] == "cuda"
    return torch.device("cpu") if is_gpu else value


def _load_weights(network: nn.Module, path: Path) -> None:
    state = _state(path)
    wanted = network.state_dict()
    for prefix in ("", "module.", "model.", "backbone."):
        if prefix and state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    missing, extra = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    shapes = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    for what, keys in (("lacks", missing), ("has besides", extra), ("has in another shape", sorted(shapes))):
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise CheckpointError(
                f"{path} {what} {', '.join(keys[:3])}{more}, for {type(network).__name__}; "
                "build the network with the arguments of its training: --build-args"
            )
    network.load_state_dict(state)


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"there is no {path}; expected the weights, safetensors or a PyTorch checkpoint")
    if path.suffix == ".safetensors":
        try:
            return dict(safetensors.torch.load_file(path))
        except Exception as error:  # safetensors' own
            raise CheckpointError(f"{path} cannot be read ({error}); expected safetensors") from None
    return dict(read_foreign(path).tensors)


def build_arguments(text: str | None) -> dict[str, Any]:
    """What `--build-args` says: a JSON object; UsageError where it is none."""
    try:
        value = parse_json(text or "{}")
    except ValueError as error:
        raise UsageError(
            f"--build-args cannot be read ({error}); expected JSON, such as '{{\"classes\": 9}}'"
        ) from None
    if not isinstance(value, dict):
        raise UsageError(f"--build-args is {text}; expected a JSON object, such as '{{\"classes\": 9}}'")
    return value


def input_shape(text: str) -> tuple[int, ...]:
    """1x3x224x224 -> (1, 3, 224, 224); UsageError where it is none."""
    parts = text.lower().replace("×", "x").split("x")
    sizes = [parse_number(part.strip()) for part in parts]
    if len(parts) < 2 or not all(sizes):
        raise UsageError(f"--input is {text}; expected sizes, batch first, such as 1x3x224x224")
    return tuple(size for size in sizes if size)


@contextmanager
def blamed(what: str, folders: Iterable[str | Path] = (), module: str = "") -> Iterator[None]:
    """Turn a failure of a network's code into one ModelError that says where it is.

    Args:
        what: is being done, as a participle.
        folders: of the network's code.
        module: that is being imported; where that alone is missing, the folder is wrong.
    """
    try:
        yield
    except (ModelError, UsageError, CheckpointError, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as error:
        if module and error.name and (module == error.name or module.startswith(f"{error.name}.")):
            raise UsageError(f"there is no module {module} ({error}); name the folder that holds it: --path") from None
        place = place_of(error, folders)
        package = (error.name or "").partition(".")[0]
        raise ModelError(
            f"{what} needs the package {error.name} ({place}); install it beside vivim-edge, or say --absent {package} "
            "where the network itself does not compute with it"
        ) from None
    except BaseException as error:  # of code that we do not know; some calls exit()
        first = (str(error).strip().splitlines() or [""])[0][:300]
        reason = f"{type(error).__name__}: {first}" if first else type(error).__name__
        place = place_of(error, folders)
        if any(words in str(error) for words in _CUDA):
            raise ModelError(
                f"{what} asks for a GPU at {place}; there is none here, and none is needed: add --on-cpu to keep on "
                "the CPU what is sent to one, or take that line out"
            ) from None
        raise ModelError(f"{what} fails at {place}: {reason}") from None


def place_of(error: BaseException, folders: Iterable[str | Path] = ()) -> str:
    """file:line `code` of the innermost line of theirs in a traceback; of anybody's where none is theirs."""
    frames = traceback.extract_tb(error.__traceback__)
    roots = [Path(folder).resolve() for folder in folders]
    theirs = [frame for frame in frames if any(Path(frame.filename).is_relative_to(root) for root in roots)]
    own = Path(__file__).parents[1]
    others = [frame for frame in frames if not Path(frame.filename).is_relative_to(own)]
    chosen = (theirs or others or list(frames))[-1:]
    if not chosen:
        return "a place that is not known"
    return line_of(chosen[0].filename, chosen[0].lineno or 0, roots)


def line_of(file: str, line: int, roots: Iterable[Path] = ()) -> str:
    """file:line `code`, the file as seen from its folder's parent."""
    path = Path(file)
    for root in roots:
        if path.is_relative_to(root):
            path = path.relative_to(root.parent)
            break
    code = linecache.getline(file, line).strip()
    return f"{path}:{line}" + (f" `{code[:100]}`" if code else "")
