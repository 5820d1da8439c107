"""How Vivim is trained: the recipe of the paper, its losses, batches and metrics."""
