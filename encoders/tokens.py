"""`Tokens`: what an encoder gives and a fusion takes. The contract between the two.

Shapes are written in words, (batch, tokens, dim): `batch` rows, at most `tokens` tokens a row,
`dim` numbers a token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .draws import row_uniform, some_rows


@dataclass(frozen=True)
class Tokens:
    """One modality of a batch. Real tokens come first in a row, padding last.

    Attributes:
        states: (batch, tokens, dim).
        mask: (batch, tokens), True where a token is real. (`nn.MultiheadAttention` means the
            opposite by its `key_padding_mask`: invert it where, and only where, you call that.)
        present: (batch,), False where the row has no such half; its states are then meaningless.
        grid: Height and width in regions if the tokens are an image's, row by row from the top
            left; None for words, whose position is their index.
        ids: (batch, words), the word pieces of a text, if its encoder keeps them; None otherwise.
    """

    states: Tensor
    mask: Tensor
    present: Tensor
    grid: tuple[int, int] | None = None
    ids: Tensor | None = None

    def mean(self) -> Tensor:
        """Mean over the real tokens of each row, (batch, dim); 0 for a row without any."""
        weights = self.mask.unsqueeze(-1).to(self.states.dtype)
        total = (self.states * weights).sum(dim=1)
        return total / weights.sum(dim=1).clamp(min=1)


class NullTokens(nn.Module):
    """One learned token per modality that stands where a half is absent.

    It takes the place of the absent half's tokens, so that attention finds something to attend to
    that says "there is nothing here". Missing halves at inference are learned by dropping halves
    in training, never both (Neverova et al., ModDrop, 2016).

    Args:
        dim: Width of a token.
        dropout: Probability, per row and in training only, that a row which has both halves loses
            one of them, either with the same chance.
    """

    def __init__(self, dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"modality_dropout is {dropout}; it must be at least 0 and below 1")
        self.image = nn.Parameter(torch.randn(dim) * 0.02)
        self.text = nn.Parameter(torch.randn(dim) * 0.02)
        self.dropout = dropout

    def forward(self, image: Tokens, text: Tokens) -> tuple[Tokens, Tokens]:
        """Both modalities, (batch, regions, dim) and (batch, words, dim), absent halves filled."""
        image_present, text_present = image.present, text.present
        if self.training and self.dropout > 0:
            draw = row_uniform(len(image_present), image_present.device)
            both = image_present & text_present
            image_present = image_present & ~(both & (draw < self.dropout / 2))
            text_present = text_present & ~(both & (draw > 1 - self.dropout / 2))
        return fill_absent(image, image_present, self.image), fill_absent(text, text_present, self.text)


def fill_absent(tokens: Tokens, present: Tensor, null: Tensor) -> Tokens:
    """Put `null` (dim,) first, and padding after it, in the rows where `present` (batch,) is False."""
    first = torch.zeros_like(tokens.mask)
    first[:, 0] = True
    row = present.unsqueeze(-1)  # (batch, 1)
    filler = torch.where(first.unsqueeze(-1), null.to(tokens.states.dtype), 0.0)
    states = torch.where(row.unsqueeze(-1), tokens.states, filler)
    return replace(tokens, states=states, mask=torch.where(row, tokens.mask, first), present=present)


def widen(tensor: Tensor) -> Tensor:
    """At least 32 bits: half types become float32, the others stay as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def all_present(present: Tensor | None, *, like: Tensor | None) -> Tensor:
    """`present` (batch,), or that every row of `like` is there if it is not given.

    Raises:
        ValueError: There are no rows to be there.
    """
    if like is None:
        if present is None or bool(present.any()):
            raise ValueError("an encoder needs its input or, in place of it, its features: give one of them")
        return present
    return torch.ones(len(like), dtype=torch.bool, device=like.device) if present is None else present


def encode_present(
    encode: Callable[..., Tensor],
    present: Tensor,
    shape: tuple[int, ...],
    *inputs: Tensor | None,
    always: bool = False,
) -> Tensor:
    """Encode the rows that are there, and only those: an absent half never enters a trunk.

    Args:
        encode: From the rows of `inputs` to their features.
        present: (batch,), True where the row is there.
        shape: Shape of one row's smallest features, for a batch in which no row is there.
        inputs: Tensors of `batch` rows.
        always: Whether to encode even if no row is there, as where processes wait for each other in it.

    Returns:
        Features of `batch` rows, 0 in absent ones.
    """
    with some_rows(present, scope=len(shape)):
        if len(present) and bool(present.all()):
            return encode(*inputs)
        if not always and not bool(present.any()):  # or no row at all
            return torch.zeros(len(present), *shape, device=present.device)
        encoded = encode(*(tensor[present] for tensor in inputs if tensor is not None))
    features = encoded.new_zeros(len(present), *encoded.shape[1:])
    features[present] = encoded
    return features
