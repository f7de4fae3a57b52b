"""How faithful an explanation is: what the score loses without the places and words that it names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..model.model import DiptychModel
from ..model.scores import scores
from .removal import CELLS, Attribution, Pair, variants

SHARE = 0.2
"""Of the cells of the picture and of the words: so many are removed, at least one of each."""
DRAWS = 5
"""Random removals of the same size to compare with."""
STEPS = (0.0, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
"""Shares that are removed one after another for the deletion and insertion curves."""


@dataclass(frozen=True)
class Faithfulness:
    """What the predicted score loses without the top fifth of places and words, and without random ones.

    Attributes:
        score: With everything there.
        without_top: Without what the explanation names first.
        without_random: Mean over `DRAWS` random removals of the same size.
        cells: Cells of the picture that were greyed, of 49.
        words: Words that were masked.
    """

    score: float
    without_top: float
    without_random: float
    cells: int
    words: int

    @property
    def low(self) -> bool:
        """Whether random removals cost as much: then nothing should be read into the explanation."""
        return self.without_top >= self.without_random

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"low": self.low}


def measure_faithfulness(
    model: DiptychModel, pair: Pair, attribution: Attribution, groups: list[list[int]], label: int, *, seed: int = 0
) -> Faithfulness:
    """Remove what an explanation names first, and as much at random.

    Args:
        model: In eval mode.
        groups: Word pieces of each word, as indices into `pair.words`: a word goes as a whole.
        label: Class whose score is looked at.
        seed: Of the random removals.
    """
    order = Order.of(pair, attribution, groups)
    rng = torch.Generator().manual_seed(seed)
    plans = [order, *(order.shuffled(rng) for _ in range(DRAWS))]
    removed = [plan.removed(SHARE) for plan in plans]
    kept = score_of(model, pair, [order.removed(0.0), *removed], label)
    cells, words = order.counts(SHARE)
    return Faithfulness(float(kept[0]), float(kept[1]), float(kept[2:].mean()), cells, words)


def curves(
    model: DiptychModel,
    pair: Pair,
    attributions: Mapping[str, Attribution],
    groups: list[list[int]],
    label: int,
    *,
    seed: int,
) -> dict[str, dict[str, float]]:
    """Means over `STEPS` of the score: `deletion` (lower is better) and `insertion` (higher), and of a random order.

    Of each of `attributions`, by name; the random order is one for all. Else as of `measure_faithfulness`. After
    Petsiuk et al., RISE, 2018.
    """
    orders = [Order.of(pair, attribution, groups) for attribution in attributions.values()]
    orders.append(orders[0].shuffled(torch.Generator().manual_seed(seed)))
    ends, between = [orders[0].removed(share) for share in (0.0, 1.0)], STEPS[1:-1]  # the ends are the same for all
    plans = [order.removed(share, last=last) for order in orders for last in (False, True) for share in between]
    kept = score_of(model, pair, [*ends, *plans], label)
    means = (kept[2:].view(-1, 2, len(between)).sum(dim=2) + kept[:2].sum()) / len(STEPS)  # (orders, 2)
    chance = dict(zip(("random deletion", "random insertion"), means[-1].tolist(), strict=True))
    return {
        name: dict(zip(("deletion", "insertion"), both.tolist(), strict=True)) | chance
        for name, both in zip(attributions, means, strict=False)
    }


@dataclass(frozen=True)
class Order:
    """In which order the cells of a picture and the words of a text are removed.

    Attributes:
        cells: Indices of cells, the first to go first; empty without an image.
        words: Indices of words, likewise.
        groups: Word pieces of each word.
    """

    cells: list[int]
    words: list[int]
    groups: list[list[int]]

    @classmethod
    def of(cls, pair: Pair, attribution: Attribution, groups: list[list[int]]) -> Order:
        """What an explanation names first goes first."""
        cells: list[int] = []
        words: list[int] = []
        if pair.has_image and attribution.heat is not None:
            means = F.adaptive_avg_pool2d(attribution.heat[None, None], (CELLS, CELLS)).flatten()
            cells = means.argsort(descending=True).tolist()
        if pair.has_text and attribution.words is not None:
            sums = torch.stack([attribution.words[group].sum() for group in groups])
            words = sums.argsort(descending=True).tolist()
        return cls(cells, words, groups)

    def shuffled(self, rng: torch.Generator) -> Order:
        """A random order of the same cells and words."""
        cells, words = (torch.randperm(len(items), generator=rng).tolist() for items in (self.cells, self.words))
        return Order(cells, words, self.groups)

    def counts(self, share: float) -> tuple[int, int]:
        """Cells and words that go at this share."""
        return math.ceil(share * len(self.cells)), math.ceil(share * len(self.words))

    def removed(self, share: float, *, last: bool = False) -> tuple[Tensor, Tensor]:
        """Which cells (CELLS, CELLS) and word pieces (pieces,) are gone at this share; with `last` all others are."""
        cells = torch.zeros(CELLS * CELLS, dtype=torch.bool)
        pieces = torch.zeros(sum(map(len, self.groups)), dtype=torch.bool)
        count, words = self.counts(share)
        cells[self.cells[:count]] = True
        pieces[[piece for word in self.words[:words] for piece in self.groups[word]]] = True
        if last:
            cells, pieces = ~cells, ~pieces
        return cells.view(CELLS, CELLS), pieces


def score_of(model: DiptychModel, pair: Pair, removed: list[tuple[Tensor, Tensor]], label: int) -> Tensor:
    """Scores (variants,) of a class, each without some cells and word pieces."""
    cells, pieces = (torch.stack(items) for items in zip(*removed, strict=True))
    parts = [variants(model, pair, c, p) for c, p in zip(cells.split(16), pieces.split(16), strict=True)]
    logits = torch.cat(parts)
    return scores(logits, model.config, pair.modalities.expand(len(logits)))[:, label]
