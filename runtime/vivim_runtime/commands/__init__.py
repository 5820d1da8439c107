"""The commands: thin layers over the runtime, and the only modules that import typer."""
