"""`python -m vivim_runtime` is `vivim-run`."""

from vivim_runtime.commands.entry import run

if __name__ == "__main__":
    run()
