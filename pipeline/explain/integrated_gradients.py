"""Integrated gradients through the fusion, taken back to the pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
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
    (image_slope, text_slope, word_slope), total = _path_gradients(model, *ends, target)
    (base_image, base_text), (image, text) = ends
    regions = ((image.states - base_image.states)[0] * image_slope).sum(dim=-1)  # (regions,)
    pieces = ((text.states - base_text.states)[0] * text_slope).sum(dim=-1)  # (words,)
    if word_slope is not None:  # what the expert for words reads are not the states but the word pieces themselves
        _, step = _word_scores(model, *ends)
        pieces = pieces + (step * word_slope).sum(dim=-1)
    heat = words = None
    if pair.has_image:
        heat = _to_pixels(model, pair, image_slope, float(regions.sum()))
    if pair.has_text:
        words = pieces[pair.words] if len(pieces) > 1 else _to_words(model, pair, base, text_slope)
        words = words + (pieces.sum() - words.sum()) / len(words)  # the special tokens' share, evenly
    return Attribution(heat, words, total)


def _word_scores(
    model: DiptychModel, start: tuple[Tokens, Tokens], end: tuple[Tokens, Tokens]
) -> tuple[Tensor, Tensor]:
    """The scores of the masked words, (words, classes), and how far those of the words are from them."""
    assert model.experts is not None
    assert model.experts.words is not None
    with torch.no_grad():
        first, last = (model.experts.words(text.ids)[0] for _, text in (start, end))
    return first, last - first


def _path_gradients(
    model: DiptychModel, start: tuple[Tokens, Tokens], end: tuple[Tokens, Tokens], target: Target
) -> tuple[tuple[Tensor, Tensor, Tensor | None], float]:
    """Mean gradients of the score over the straight path of tokens, and their sum.

    Those of regions and words are (regions, dim) and (words, dim); of the scores of word pieces, where the model has
    any, (words, classes).
    """
    firsts = [tokens.states for tokens in start]
    steps = [(e.states - s.states)[0] for s, e in zip(start, end, strict=True)]
    has_words = model.experts is not None and model.experts.words is not None and end[1].ids is not None
    hook = None
    if has_words:
        first, step = _word_scores(model, start, end)
        firsts, steps = [*firsts, first.unsqueeze(0)], [*steps, step]
    current: list[Tensor] = []

    def at(points: Tensor) -> tuple[Tokens, Tokens]:
        current[:] = [
            (first + points[:, None, None] * step).requires_grad_() for first, step in zip(firsts, steps, strict=True)
        ]
        both = []
        for tokens, states in zip(end, current, strict=False):
            mask, present = tokens.mask.expand(len(points), -1), tokens.present.expand(len(points))
            both.append(replace(tokens, states=states, mask=mask, present=present))
        return both[0], both[1]

    def values(points: list[float]) -> list[float]:
        with torch.no_grad():
            scores = [target(logits_of(model, *at(some))) for some in torch.tensor(points).split(_BATCH)]
            return [float(score) for score in torch.cat(scores)]

    if has_words and model.experts is not None and model.experts.words is not None:
        hook = model.experts.words.register_forward_hook(lambda *_: current[2])
    try:
        mean, total = _integrate(at, current, values, steps, lambda *both: target(logits_of(model, *both)))
    finally:
        if hook is not None:
            hook.remove()
    return (mean[0], mean[1], mean[2] if has_words else None), total


def _integrate(
    at: Callable[[Tensor], tuple[Tokens, Tokens]],
    current: list[Tensor],
    values: Callable[[list[float]], list[float]],
    steps: list[Tensor],
    score: Callable[..., Tensor],
) -> tuple[list[Tensor], float]:
    """Mean gradients of `score` over a path, in intervals that are halved until they sum to its difference.

    Those that miss it most are halved, as long as what all miss together is more than `TOLERANCE` allows.

    Args:
        at: What lies at points (points,) of the path; `current` are then its leaves.
        current: Changed by `at`.
        values: The scores at points.
        steps: From the path's start to its end, of each leaf.
        score: Of what `at` gives, (points,).
    """
    nodes, shares = np.polynomial.legendre.leggauss(_NODES)
    edges = [index / _INTERVALS for index in range(_INTERVALS + 1)]
    known = dict(zip(edges, values(edges), strict=True))
    allowed = TOLERANCE * max(abs(known[1.0] - known[0.0]), 1.0)
    pending, total = list(itertools.pairwise(edges)), 0.0
    mean = [torch.zeros_like(step) for step in steps]
    for turn in range(_ROUNDS):
        found: list[tuple[float, float, tuple[float, float], list[Tensor]]] = []
        for intervals in _chunks(pending, _BATCH // _NODES):
            points = torch.tensor([a + (b - a) * (x + 1) / 2 for a, b in intervals for x in nodes]).float()
            weights = torch.tensor([(b - a) * w / 2 for a, b in intervals for w in shares]).float()
            both = at(points)
            slopes = torch.autograd.grad(score(*both).sum(), current, allow_unused=True)
            parts = [
                torch.zeros_like(leaf) if slope is None else slope * weights[:, None, None]
                for leaf, slope in zip(current, slopes, strict=True)
            ]
            sums = torch.stack([(part * step).sum(dim=(1, 2)) for part, step in zip(parts, steps, strict=True)]).sum(0)
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
        known |= dict(zip(middles, values(middles), strict=True))
        pending = [half for (a, b), m in zip(again, middles, strict=True) for half in ((a, m), (m, b))]
    return mean, total


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
