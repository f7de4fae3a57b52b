"""Dynamic modality weights: for each row, how much the image counts and how much the text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..encoders.tokens import Tokens


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

    def forward(self, image: Tokens, text: Tokens) -> tuple[Tensor, Tensor]:
        """Weights (batch, 2) and the summaries (batch, 2, dim) they come from, image first, from unmixed tokens."""
        summaries = torch.stack([self.norm_image(image.mean()), self.norm_text(text.mean())], dim=1)
        present = torch.stack([image.present, text.present], dim=1)  # (batch, 2)
        weights = self.scores(summaries.flatten(1)).masked_fill(~present, float("-inf")).softmax(dim=-1)
        return torch.where(present, weights, 0.0), summaries  # a row without any half would be NaN


def balance_loss(weights: Tensor, present: Tensor) -> Tensor:
    """How far the batch's mean weights are from equal: KL((1/2, 1/2) || mean), in nats; 0 where they are.

    Only the mean is held, each row may still lean as far as it likes. Unlike the entropy of the
    weights, it pulls hardest at a gate that has closed: its gradient doesn't vanish with the weight.

    Args:
        weights: (batch, 2).
        present: (batch, 2), True where the row has that half; rows that have both count.
    """
    both = present.all(dim=1)
    if not bool(both.any()):
        return weights.sum() * 0.0
    mean = weights[both].mean(dim=0)
    return -(2 * mean).clamp(min=1e-30).log().mean()


def unimodal_loss(half_logits: Tensor, weights: Tensor, labels: Tensor, present: Tensor) -> Tensor:
    """What tells the gate directly which half knows the answer: each alone, and their mixture by its weights.

    The first term, each present half's own cross-entropy, teaches its head. The second is that of a
    mixture of experts, -log sum_m w_m p_m(label) (Jacobs et al., 1991), through which only the weights
    learn: they go to the half that gives the label more. (The loss of the fused logits moves them too.)

    Args:
        half_logits: (batch, 2, classes), from the unimodal summaries.
        weights: (batch, 2).
        labels: (batch,), class indices.
        present: (batch, 2), True where the row has that half.
    """
    index = labels.view(-1, 1, 1).expand(-1, 2, 1)
    log_p = half_logits.float().log_softmax(dim=-1).gather(2, index).squeeze(2)  # (batch, 2)
    own = -torch.where(present, log_p, 0.0).sum() / present.sum().clamp(min=1)
    mixed = log_p.detach() + weights.clamp(min=1e-6).log()
    rows = present.any(dim=1)
    mixture = -mixed.masked_fill(~present, float("-inf"))[rows].logsumexp(dim=1)
    return own + mixture.sum() / rows.sum().clamp(min=1)


def attention_gates(weights: Tensor, image: Tokens, text: Tokens) -> tuple[Tensor, Tensor]:
    """How strongly each half is let into the other by attention: (batch, 1, 1) each, image first.

    It is the half's weight; but the null token of an absent half, whose weight is 0, comes in
    ungated: it has to be able to say that there is nothing here.
    """
    image_gate = torch.where(image.present, weights[:, 0], 1.0)
    text_gate = torch.where(text.present, weights[:, 1], 1.0)
    return image_gate[:, None, None], text_gate[:, None, None]
