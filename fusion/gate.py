"""Dynamic modality weights: for each row, how much the image counts and how much the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..encoders.tokens import Tokens


class ModalityGate(nn.Module):
    """Weights (image, text) of each row: a softmax over two scores, read off the unimodal summaries.

    The summaries are taken before anything is mixed, so that each half speaks for itself (after the
    gated multimodal unit, Arevalo et al., 2017). Weights are non-negative and sum to 1; an absent
    half gets exactly 0, and a row without any half gets (0, 0). The scores start at 0, so that both halves start with
    equal weights.

    Models of formats 1 to 3 have this gate. It learns from the fusion's loss, so its weights say how the fusion mixes,
    not what a modality knows: later models take theirs from `Experts`.

    Args:
        dim: Width of the tokens.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_image = nn.LayerNorm(dim)
        self.norm_text = nn.LayerNorm(dim)
        last = nn.Linear(dim // 2, 2)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.scores = nn.Sequential(nn.Linear(2 * dim, dim // 2), nn.GELU(), last)

    def forward(self, image: Tokens, text: Tokens) -> Tensor:
        """Weights (batch, 2), image first, from tokens that are not mixed yet."""
        summaries = torch.cat([self.norm_image(image.mean()), self.norm_text(text.mean())], dim=-1)  # (batch, 2 * dim)
        return _softmax(self.scores(summaries), image, text)


class EqualWeights(nn.Module):
    """In place of the gate where it is switched off: 1/2 each, or all for the half that is there."""

    def forward(self, image: Tokens, text: Tokens) -> Tensor:
        """Weights (batch, 2), image first."""
        return _softmax(image.states.new_zeros(len(image.present), 2), image, text)


def modality_gate(dim: int, gated: bool) -> ModalityGate | EqualWeights:
    """What gives the weights of a fusion over tokens of width `dim`, learned or not."""
    return ModalityGate(dim) if gated else EqualWeights()


def _softmax(scores: Tensor, image: Tokens, text: Tokens) -> Tensor:
    """Softmax of the scores (batch, 2) over the halves that are there."""
    present = torch.stack([image.present, text.present], dim=1)  # (batch, 2)
    weights = scores.masked_fill(~present, float("-inf")).softmax(dim=-1)
    return torch.where(present, weights, 0.0)  # a row without any half would be NaN


def attention_gates(weights: Tensor, image: Tokens, text: Tokens) -> tuple[Tensor, Tensor]:
    """How strongly each half is let into the other by attention: (batch, 1, 1) each, image first.

    It is the half's weight; but the null token of an absent half, whose weight is 0, comes in
    ungated: it has to be able to say that there is nothing here.
    """
    image_gate = torch.where(image.present, weights[:, 0], 1.0)
    text_gate = torch.where(text.present, weights[:, 1], 1.0)
    return image_gate[:, None, None], text_gate[:, None, None]
