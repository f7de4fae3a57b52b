"""Real tokens without the padding between them: what passes over each token need not pass over padding."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..encoders.draws import packed_tokens


class Packing:
    """Where the real tokens of a batch stand.

    On a CPU padding costs what a token costs. Elsewhere its cost is hidden and finding the real tokens would hold
    up the device, so there, and where a graph is compiled or every token is real, nothing is moved: what is
    packed is the states as they are, (batch, tokens, dim). Any function of single tokens takes both.

    Args:
        mask: (batch, tokens), True where a token is real.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        moves = mask.device.type == "cpu" and not torch.compiler.is_compiling() and not bool(mask.all())
        self.places = mask.flatten().nonzero()[:, 0] if moves else None  # (real,)

    def pack(self, states: Tensor) -> Tensor:
        """The real tokens (real, dim) of states (batch, tokens, dim)."""
        return states if self.places is None else states.flatten(0, 1).index_select(0, self.places)

    def draws(self) -> AbstractContextManager[None]:
        """For functions of packed states: so that dropout in them is drawn for each row by itself."""
        return packed_tokens(self.places, self.shape[1])

    def pad(self, packed: Tensor) -> Tensor:
        """States (batch, tokens, dim) from the real tokens (real, dim), 0 elsewhere."""
        if self.places is None:
            return packed
        states = packed.new_zeros(self.shape.numel(), packed.shape[-1])
        return states.index_copy_(0, self.places, packed).unflatten(0, self.shape)
