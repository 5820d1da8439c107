"""The order in which each direction visits the tokens: 0 rows forward, 1 rows backward, 2 columns forward, 3 backward.

Tokens form a grid of `rows` rows, row-major (Vivim: rows = T frames). `vivim.scan.reference.token_of_step` says the
same token by token.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["from_order", "to_order"]


def to_order(x: Tensor, rows: int, direction: int) -> Tensor:
    """(B, L, D) at token positions -> (B, L, D) in the order in which a direction visits them."""
    if direction >= 2:
        batch, length, width = x.shape
        x = x.reshape(batch, rows, length // rows, width).transpose(1, 2).reshape(batch, length, width)
    return x.flip(1) if direction % 2 else x


def from_order(x: Tensor, rows: int, direction: int) -> Tensor:
    """The inverse of `to_order`."""
    if direction % 2:
        x = x.flip(1)
    if direction >= 2:
        batch, length, width = x.shape
        x = x.reshape(batch, length // rows, rows, width).transpose(1, 2).reshape(batch, length, width)
    return x
