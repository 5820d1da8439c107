"""`vivim-plugins`: the TensorRT plugin, built where it will run. A thin layer over sessions.plugin_build."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vivim_runtime.commands.application import Application
from vivim_runtime.sessions.plugin import Plugin
from vivim_runtime.sessions.plugin_build import BuildOptions, build_plugin

__all__ = ["app"]

app = Application(no_args_is_help=True)


@app.callback()
def plugins() -> None:
    """The library that engines of TensorRT call: build it, or say which one is used."""


@app.command("build")
def build_command(
    arch: Annotated[
        str | None,
        typer.Option(help="Architecture of the GPU: 87 for compute capability 8.7; default: that of this GPU."),
    ] = None,
    tensorrt_include: Annotated[
        Path | None, typer.Option(help="Folder of TensorRT's NvInfer.h; default: the system's, if any (not required).")
    ] = None,
    tensorrt: Annotated[
        int | None, typer.Option(help="Major version that will load the plugin, 10 or 11; default: the one installed.")
    ] = None,
    verbose: Annotated[bool, typer.Option(help="Show what CMake and the compiler say.")] = False,
) -> None:
    """Build the plugin for this machine into the cache folder, where the other commands find it."""
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if verbose or len(said) == 1:
            typer.echo(line)

    plugin = build_plugin(BuildOptions(arch, tensorrt_include, tensorrt), say)
    typer.echo(f"{plugin.path}, kernels of revision {plugin.version}")


@app.command("show")
def show_command() -> None:
    """Say which plugin is used here."""
    plugin = Plugin.find()
    typer.echo(f"{plugin.path}, kernels of revision {plugin.version}")
