"""Dynamic modality weights: for each row, how much the image counts and how much the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..encoders.tokens import Tokens
from .processes import mean_over_processes


class ModalityGate(nn.Module):
    """Weights (image, text) of each row: a softmax over two scores, read off the unimodal summaries.

    The summaries are taken before anything is mixed, so that each half speaks for itself (after the
    gated multimodal unit, Arevalo et al., 2017). Weights are non-negative and sum to 1; an absent
    half gets exactly 0, and a row without any half gets (0, 0).

    The scores start at 0, so that both halves start with equal weights; `balance_loss` keeps the half
    that is easier to learn from from shutting out the other in the first epochs.

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


def balance_loss(weights: Tensor, present: Tensor) -> Tensor:
    """How far the batch's mean weights are from equal: KL((1/2, 1/2) || mean), in nats; 0 where they are.

    Only the mean is held, over all processes that share the batch; each row may still lean as far as it likes.
    Unlike the entropy of the weights, it pulls hardest at a gate that has closed: its gradient doesn't vanish with
    the weight.

    Args:
        weights: (batch, 2).
        present: (batch, 2), True where the row has that half; rows that have both count.
    """
    both = present.all(dim=1, keepdim=True).to(weights)
    sums = mean_over_processes(torch.cat([(weights * both).sum(dim=0), both.sum(dim=0)]))
    if not bool(sums[2] > 0):
        return weights.sum() * 0.0
    return -(2 * sums[:2] / sums[2]).clamp(min=1e-30).log().mean()


def attention_gates(weights: Tensor, image: Tokens, text: Tokens) -> tuple[Tensor, Tensor]:
    """How strongly each half is let into the other by attention: (batch, 1, 1) each, image first.

    It is the half's weight; but the null token of an absent half, whose weight is 0, comes in
    ungated: it has to be able to say that there is nothing here.
    """
    image_gate = torch.where(image.present, weights[:, 0], 1.0)
    text_gate = torch.where(text.present, weights[:, 1], 1.0)
    return image_gate[:, None, None], text_gate[:, None, None]
