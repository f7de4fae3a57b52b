"""Contrastive alignment: an image and its text lie close together, an image and another's text don't."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..encoders.tokens import Tokens, widen
from .processes import gather_rows, times_processes

START = math.log(1 / 0.07)
LARGEST = 4.605  # exp gives 99.98: log(100) rounded down, so that no rounding of the exponential passes 100


class Alignment(nn.Module):
    """One space for both halves, in which a pair's image and text are close (Radford et al., CLIP, 2021).

    The mean of a half's tokens, normed and projected, is its embedding; the loss is `contrastive_loss`
    with a learned temperature.

    Args:
        dim: Width of the tokens, and of the embeddings.

    Attributes:
        logit_scale: Scalar; minus the log of the temperature.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.text = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim))
        self.logit_scale = nn.Parameter(torch.tensor(START))

    @property
    def scale(self) -> Tensor:
        """What cosines are multiplied with, 1 / temperature; a scalar, at most 100, so that training stays stable."""
        # subtracted as a constant: at and beyond its end a clamp has no gradient, and the scale would never come back
        excess = (self.logit_scale.detach() - LARGEST).clamp(min=0)
        return (self.logit_scale - excess).exp()

    def embed_image(self, image: Tokens) -> Tensor:
        """Embeddings (batch, dim) of length 1, at least float32; those of absent images mean nothing."""
        return _embed(self.image, image)

    def embed_text(self, text: Tokens) -> Tensor:
        """Embeddings (batch, dim) of length 1, at least float32; those of absent texts mean nothing."""
        return _embed(self.text, text)

    def forward(
        self, image: Tokens, text: Tokens, *, image_ids: Tensor | None = None, text_ids: Tensor | None = None
    ) -> Tensor:
        """The loss of a batch of pairs, of which those that have both halves count; see `contrastive_loss`.

        Args:
            image: (batch, regions, dim).
            text: (batch, words, dim).
            image_ids: (batch,), int64; equal for equal images.
            text_ids: (batch,), int64; equal for equal texts.

        Raises:
            ValueError: Ids are of another shape or type.
        """
        if self.training:
            with torch.no_grad():  # or it would drift ever further out, and as far to come back
                self.logit_scale.clamp_(max=LARGEST)
        return contrastive_loss(
            self.embed_image(image),
            self.embed_text(text),
            self.scale,
            present=image.present & text.present,
            image_ids=image_ids,
            text_ids=text_ids,
        )


def contrastive_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    scale: Tensor,
    *,
    present: Tensor,
    image_ids: Tensor | None = None,
    text_ids: Tensor | None = None,
) -> Tensor:
    """Symmetric InfoNCE: each image tells its text from the batch's others, each text its image.

    Mean over pairs of the two cross-entropies, halved (van den Oord et al., 2018). Pairs that share an
    image or a text are not told apart: nothing says that the one's text is false of the other's image.

    With several processes a pair is told from those of all of them, and each process gives the loss of all
    pairs in one batch; gradients that are averaged over processes, as DistributedDataParallel does, are those
    of that one batch. Every process has to call this equally often; their batches may differ in size. Nothing
    is sent on the way back, where it would cross what DistributedDataParallel sends.

    Args:
        image_embeds: (batch, dim), of length 1.
        text_embeds: (batch, dim), of length 1.
        scale: Scalar that cosines are multiplied with: the inverse of the temperature.
        present: (batch,), True in rows that have both halves; the others take no part at all.
        image_ids: (batch,), int64; equal for equal images. All are taken to differ if not given.
        text_ids: (batch,), int64, likewise.

    Returns:
        A scalar, in nats, at least float32; 0, with gradients of 0, if no row takes part.

    Raises:
        ValueError: Ids are of another shape or type.
    """
    ids = [present.long()]
    for name, given in (("image_ids", image_ids), ("text_ids", text_ids)):
        if given is None:
            continue
        if given.shape != present.shape or given.dtype != torch.int64:
            raise ValueError(
                f"{name} is {tuple(given.shape)} of {given.dtype}; it must be {tuple(present.shape)} of torch.int64"
            )
        ids.append(given)
    with torch.autocast(image_embeds.device.type, enabled=False):
        pairs = widen(torch.stack([image_embeds, text_embeds], dim=1))  # (batch, 2, dim)
        pairs = torch.where(present[:, None, None], pairs, 0.0)  # whatever stands in absent rows stays out
        marks = torch.stack(ids, dim=1)  # (batch, 1 to 3): present, then the ids
        pairs, marks = gather_rows(pairs), gather_rows(marks)  # of all processes from here on
        scale = times_processes(widen(scale), -1)
        there, own = marks[:, 0].bool(), torch.arange(len(pairs), device=pairs.device)

        apart = there & there.unsqueeze(1) & ~(marks[:, None, 1:] == marks[None, :, 1:]).any(dim=-1)
        apart[own, own] = True  # (all, all): a pair and what it is told from
        scores = (scale * pairs[:, 0] @ pairs[:, 1].T).masked_fill(~apart, float("-inf"))
        losses = F.cross_entropy(scores, own, reduction="none") + F.cross_entropy(scores.T, own, reduction="none")
        loss = torch.where(there, losses / 2, 0.0).sum() / there.sum().clamp(min=1)
        return times_processes(loss)


def _embed(project: nn.Sequential, tokens: Tokens) -> Tensor:
    with torch.autocast(tokens.states.device.type, enabled=False):
        dtype = next(project.parameters()).dtype  # float32, unless the whole model was converted
        return F.normalize(widen(project(tokens.mean().to(dtype))), dim=-1)
