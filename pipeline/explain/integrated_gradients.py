"""Integrated gradients through the fusion, taken back to the pixels."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from ...encoders.tokens import Tokens
from ..model.model import DiptychModel
from .removal import Attribution, Pair, Target, baseline, logits_of

TOLERANCE = 0.01
"""Of the larger of the score difference and one logit: by how much integrated gradients may miss it."""
_NODES = 4  # of Gauss-Legendre quadrature in each interval of the path
_INTERVALS = 8  # that the path begins with
_ROUNDS = 7  # of halving those that are not exact enough
_BATCH = 64  # points of the path that pass through the fusion at a time
_PIXEL_POINTS = 4  # of the way from the grey picture, at which attributions are taken back to the pixels


def integrated_gradients(model: DiptychModel, pair: Pair, target: Target) -> Attribution:
    """Integrated gradients (Sundararajan et al., 2017) of the tokens, from those of a grey picture and masked words.

    The path runs through the fusion alone, in intervals that are halved until their sum is the score difference. What
    the regions' tokens get is then taken back to the pixels, by the gradients of the image encoder on the way from
    the grey picture, and summed over a neighbourhood: the map is finer than the regions, and its sum is theirs.
    """
    base = baseline(model, pair)
    with torch.no_grad():
        path = _Path(model, model.encode(base), model.encode(pair.batch), target)
    slopes, total = _integrate(path)
    regions, pieces, *scores = ((step * slope).sum(dim=-1) for step, slope in zip(path.steps, slopes, strict=True))
    pieces = sum(scores, start=pieces)  # (words,)
    heat = words = None
    if pair.has_image:
        heat = _to_pixels(model, pair, slopes[0], float(regions.sum()))
    if pair.has_text:
        words = pieces[pair.words] if len(pieces) > 1 else _to_words(model, pair, base, slopes[1])
        words = words + (pieces.sum() - words.sum()) / len(words)  # the special tokens' share, evenly
    return Attribution(heat, words, total)


class _Path:
    """The straight path from the tokens of a baseline to those of a pair.

    Attributes:
        steps: From its start to its end: of regions (regions, dim), of words (words, dim), and where the model has an
            expert for words, which reads the word pieces themselves, of their scores (words, classes).
    """

    def __init__(
        self, model: DiptychModel, start: tuple[Tokens, Tokens], end: tuple[Tokens, Tokens], target: Target
    ) -> None:
        self.model, self.end, self.target = model, end, target
        self.words = None if model.experts is None or end[1].ids is None else model.experts.words
        self.firsts, lasts = ([tokens.states for tokens in both] for both in (start, end))
        if self.words is not None:
            self.firsts.append(self.words(start[1].ids))
            lasts.append(self.words(end[1].ids))
        self.steps = [(last - first)[0] for first, last in zip(self.firsts, lasts, strict=True)]

    def score(self, points: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The scores at points (points,) from 0 to 1, and what they come from: leaves, one for each of `steps`."""
        leaves = [
            (first + points[:, None, None] * step).requires_grad_()
            for first, step in zip(self.firsts, self.steps, strict=True)
        ]
        image, text = (
            replace(
                tokens,
                states=states,
                mask=tokens.mask.expand(len(points), -1),
                present=tokens.present.expand(len(points)),
            )
            for tokens, states in zip(self.end, leaves, strict=False)
        )
        hook = None if self.words is None else self.words.register_forward_hook(lambda *_: leaves[2])
        try:
            return self.target(logits_of(self.model, image, text)), leaves
        finally:
            if hook is not None:
                hook.remove()

    def scores(self, points: list[float]) -> dict[float, float]:
        """The scores at points, by point."""
        with torch.no_grad():
            found = torch.cat([self.score(some)[0] for some in torch.tensor(points).split(_BATCH)])
        return dict(zip(points, found.tolist(), strict=True))


def _integrate(path: _Path) -> tuple[list[Tensor], float]:
    """Mean gradients of the score over a path, and their sum, in intervals that are halved until it is the difference.

    Those that miss it most are halved, as long as what all miss together is more than `TOLERANCE` allows.
    """
    nodes, shares = np.polynomial.legendre.leggauss(_NODES)
    edges = [index / _INTERVALS for index in range(_INTERVALS + 1)]
    known = path.scores(edges)
    allowed = TOLERANCE * max(abs(known[1.0] - known[0.0]), 1.0)
    pending, total = list(itertools.pairwise(edges)), 0.0
    mean = [torch.zeros_like(step) for step in path.steps]
    size = _BATCH // _NODES
    for turn in range(_ROUNDS):
        found: list[tuple[float, float, tuple[float, float], list[Tensor]]] = []
        for intervals in (pending[start : start + size] for start in range(0, len(pending), size)):
            points = torch.tensor([a + (b - a) * (x + 1) / 2 for a, b in intervals for x in nodes]).float()
            weights = torch.tensor([(b - a) * w / 2 for a, b in intervals for w in shares]).float()
            score, leaves = path.score(points)
            slopes = torch.autograd.grad(score.sum(), leaves, allow_unused=True)
            parts = [
                torch.zeros_like(leaf) if slope is None else slope * weights[:, None, None]
                for leaf, slope in zip(leaves, slopes, strict=True)
            ]
            gains = [(part * step).sum(dim=(1, 2)) for part, step in zip(parts, path.steps, strict=True)]
            sums = torch.stack(gains).sum(dim=0)  # (points,)
            for index, (a, b) in enumerate(intervals):
                rows = slice(index * _NODES, (index + 1) * _NODES)
                gained = float(sums[rows].sum())
                wrong = abs(gained - (known[b] - known[a]))
                found.append((wrong, gained, (a, b), [part[rows].detach().sum(dim=0) for part in parts]))
        found.sort(key=lambda each: each[0])
        left, again = allowed / 2, list[tuple[float, float]]()  # what later rounds miss must fit in as well
        for wrong, gained, interval, parts in found:
            if wrong > left and turn < _ROUNDS - 1:
                again.append(interval)
                continue
            left, allowed = left - wrong, allowed - wrong
            total += gained
            mean = [kept + part for kept, part in zip(mean, parts, strict=True)]
        if not again:
            break
        middles = [(a + b) / 2 for a, b in again]
        known |= path.scores(middles)
        pending = [half for (a, b), m in zip(again, middles, strict=True) for half in ((a, m), (m, b))]
    return mean, total


def _to_pixels(model: DiptychModel, pair: Pair, slope: Tensor, total: float) -> Tensor:
    """What the tokens of regions get, (regions, dim), taken back to the pixels: (height, width), summing to `total`."""
    pixels = pair.batch["pixel_values"]
    nodes, shares = np.polynomial.legendre.leggauss(_PIXEL_POINTS)
    heat = torch.zeros(pixels.shape[-2:])
    for x, w in zip(nodes, shares, strict=True):
        point = (pixels * ((x + 1) / 2)).float().requires_grad_()
        tokens = model.image_encoder(point, pair.batch["image_present"])
        (gradient,) = torch.autograd.grad((tokens.states[0] * slope).sum(), point)
        heat += (gradient[0] * pixels[0] * (w / 2)).sum(dim=0)
    heat = _smooth(heat)
    # by a factor where that is safe; else the rest evenly, for a sum near 0 says nothing of the places
    whole = float(heat.sum())
    if abs(whole) > 0.1 * float(heat.abs().sum()) and total * whole > 0:
        return heat * (total / whole)
    return heat + (total - whole) / heat.numel()


def _smooth(heat: Tensor) -> Tensor:
    """A map (height, width), each place a mean over its neighbourhood: a Gaussian of 4.5 % of the shorter side."""
    sigma = max(0.045 * min(heat.shape), 0.5)
    return torch.from_numpy(gaussian_filter(heat.numpy(), sigma, mode="constant", truncate=3.0))


def _to_words(model: DiptychModel, pair: Pair, base: dict[str, Tensor], slope: Tensor) -> Tensor:
    """What the one token of a pooled text gets, (1, dim), taken back to its word pieces, (len(pair.words),)."""
    table: Any = model.text_encoder.trunk.get_input_embeddings()
    with torch.no_grad():
        first, last = table(base["input_ids"]), table(pair.batch["input_ids"])
    nodes, shares = np.polynomial.legendre.leggauss(_PIXEL_POINTS)
    places = torch.tensor((nodes + 1) / 2, dtype=torch.float32)[:, None, None]
    states = (first + places * (last - first)).requires_grad_()
    hook = table.register_forward_hook(lambda *_: states)
    try:
        ids, mask = (pair.batch[name].expand(_PIXEL_POINTS, -1) for name in ("input_ids", "attention_mask"))
        tokens = model.text_encoder(ids, mask)
    finally:
        hook.remove()
    (gradient,) = torch.autograd.grad((tokens.states * slope).sum(), states)
    weights = torch.tensor(shares / 2, dtype=torch.float32)[:, None, None]
    return ((gradient * weights).sum(dim=0) * (last - first)[0]).sum(dim=-1)[pair.words].detach()
