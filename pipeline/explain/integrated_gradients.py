"""Integrated gradients through the fusion, taken back to the pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

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
        ends = model.encode(base), model.encode(pair.batch)
    (image_slope, text_slope), total = _path_gradients(model, *ends, target)
    (base_image, base_text), (image, text) = ends
    regions = ((image.states - base_image.states)[0] * image_slope).sum(dim=-1)  # (regions,)
    pieces = ((text.states - base_text.states)[0] * text_slope).sum(dim=-1)  # (words,)
    heat = words = None
    if pair.has_image:
        heat = _to_pixels(model, pair, image_slope, float(regions.sum()))
    if pair.has_text:
        words = pieces[pair.words] if len(pieces) > 1 else _to_words(model, pair, base, text_slope)
        words = words + (pieces.sum() - words.sum()) / len(words)  # the special tokens' share, evenly
    return Attribution(heat, words, total)


def _path_gradients(
    model: DiptychModel, start: tuple[Tokens, Tokens], end: tuple[Tokens, Tokens], target: Target
) -> tuple[tuple[Tensor, Tensor], float]:
    """Mean gradients of the score over the straight path of tokens, (regions, dim) and (words, dim), and their sum."""
    nodes, shares = np.polynomial.legendre.leggauss(_NODES)
    steps = [(e.states - s.states)[0] for s, e in zip(start, end, strict=True)]

    def at(points: Tensor) -> tuple[Tokens, Tokens]:
        halves = []
        for tokens, step, first in zip(end, steps, start, strict=True):
            states = (first.states + points[:, None, None] * step).requires_grad_()
            mask, present = tokens.mask.expand(len(points), -1), tokens.present.expand(len(points))
            halves.append(replace(tokens, states=states, mask=mask, present=present))
        return halves[0], halves[1]

    def values(points: list[float]) -> list[float]:
        with torch.no_grad():
            return [
                float(v) for some in torch.tensor(points).split(_BATCH) for v in target(logits_of(model, *at(some)))
            ]

    edges = [index / _INTERVALS for index in range(_INTERVALS + 1)]
    known = dict(zip(edges, values(edges), strict=True))
    tolerance = TOLERANCE * max(abs(known[1.0] - known[0.0]), 1.0)
    pending, total = list(itertools.pairwise(edges)), 0.0
    mean = [torch.zeros_like(step) for step in steps]
    for turn in range(_ROUNDS):
        points = torch.tensor([a + (b - a) * (x + 1) / 2 for a, b in pending for x in nodes], dtype=torch.float32)
        weights = torch.tensor([(b - a) * w / 2 for a, b in pending for w in shares], dtype=torch.float32)
        again = []
        size = _NODES * (_BATCH // _NODES)
        for some, part, intervals in zip(
            points.split(size), weights.split(size), _chunks(pending, _BATCH // _NODES), strict=True
        ):
            halves = at(some)
            slopes = torch.autograd.grad(target(logits_of(model, *halves)).sum(), [half.states for half in halves])
            slopes = tuple(slope * part[:, None, None] for slope in slopes)
            sums = sum((slope * step).sum(dim=(1, 2)) for slope, step in zip(slopes, steps, strict=True))
            for index, (a, b) in enumerate(intervals):
                rows = slice(index * _NODES, (index + 1) * _NODES)
                gained = float(sums[rows].sum())  # type: ignore[index]
                wrong = abs(gained - (known[b] - known[a]))
                if wrong > tolerance * (b - a) * 2 and turn < _ROUNDS - 1:
                    again.append((a, b))
                    continue
                total += gained
                mean = [kept + slope[rows].sum(dim=0) for kept, slope in zip(mean, slopes, strict=True)]
        if not again:
            break
        middles = [(a + b) / 2 for a, b in again]
        known |= dict(zip(middles, values(middles), strict=True))
        pending = [half for (a, b), m in zip(again, middles, strict=True) for half in ((a, m), (m, b))]
    return (mean[0].detach(), mean[1].detach()), total


def _chunks(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


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
    heat = smooth(heat)
    # by a factor where that is safe; else the rest evenly, for a sum near 0 says nothing of the places
    whole = float(heat.sum())
    if abs(whole) > 0.1 * float(heat.abs().sum()) and total * whole > 0:
        return heat * (total / whole)
    return heat + (total - whole) / heat.numel()


def smooth(heat: Tensor, share: float = 0.045) -> Tensor:
    """A map (height, width), each place a mean over its neighbourhood: a Gaussian of `share` of the shorter side."""
    sigma = max(share * min(heat.shape), 0.5)
    reach = int(3 * sigma) + 1
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    line = line / line.sum()
    padded = F.pad(heat[None, None], (reach, reach, reach, reach))
    by_row = F.conv2d(padded, line[None, None, None, :])
    return F.conv2d(by_row, line[None, None, :, None])[0, 0]


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
