"""The commands of `vivim-train`, and the only modules of this package that import typer."""
