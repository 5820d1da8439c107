"""`python -m vivim.cli`, for torchrun: the commands of `vivim-train`, which live in `vivim.commands.train`."""

from vivim.commands.train import app as app
from vivim_runtime.commands.entry import main

if __name__ == "__main__":
    main("vivim-train", "vivim.commands.train")
