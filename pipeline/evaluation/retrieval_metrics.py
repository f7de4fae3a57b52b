"""Metrics of retrieval: how well one modality finds the other, and labels without training on them.

All start from similarities, higher = closer, and assume no model. Ties never flatter: what is wrong and
scores the same comes first, or a model that gives everything the same score would find everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb

import torch
from torch import Tensor


def recall_at(similarity: Tensor, positives: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """Share of queries that have at least one positive candidate among their k best, for every k.

    Args:
        similarity: (queries, candidates).
        positives: (queries, candidates), True where the candidate is right for the query.
        ks: How many candidates count, each at least 1.

    Raises:
        ValueError: The shapes differ, there are no queries, a query has no positive candidate, a
            similarity is NaN, or a k is below 1.
    """
    if similarity.shape != positives.shape:
        raise ValueError(
            f"similarity is {tuple(similarity.shape)} and positives {tuple(positives.shape)}; they must be alike"
        )
    _check(positives, ks)
    if bool(similarity.isnan().any()):
        raise ValueError("similarity has NaN in it; nothing can be ranked by that")
    best = similarity.masked_fill(~positives, float("-inf")).amax(dim=1, keepdim=True)  # (queries, 1)
    before = (~positives & (similarity >= best)).sum(dim=1)  # (queries,): wrong candidates ahead of the first right one
    return {k: (before < k).double().mean().item() for k in ks}


def chance_recall_at(positives: Tensor, ks: Sequence[int]) -> dict[int, float]:
    """What `recall_at` gives on average if candidates come in random order.

    Of n candidates, p of them positive, k drawn: 1 - C(n - p, k) / C(n, k); the mean over queries.

    Args:
        positives: (queries, candidates), True where the candidate is right for the query.
        ks: How many candidates count, each at least 1.

    Raises:
        ValueError: There are no queries, a query has no positive candidate, or a k is below 1.
    """
    _check(positives, ks)
    queries, candidates = positives.shape
    counts = Counter(positives.sum(dim=1).tolist())
    chances = {}
    for k in ks:
        drawn = min(k, candidates)
        missed = sum(rows * (comb(candidates - p, drawn) / comb(candidates, drawn)) for p, rows in counts.items())
        chances[k] = 1 - missed / queries
    return chances


def zero_shot_accuracy(similarity: Tensor, labels: Tensor) -> float:
    """Share of rows that are closest to their own class; by chance 1 / classes.

    Args:
        similarity: (rows, classes), to the classes' names.
        labels: (rows,), class indices.

    Raises:
        ValueError: There are no rows, there is not one label for each, a label is no class, or a
            similarity is NaN.
    """
    rows, classes = similarity.shape
    if labels.shape != (rows,):
        raise ValueError(f"labels is {tuple(labels.shape)}; it must be ({rows},), one for each row of similarity")
    if rows and not bool(((labels >= 0) & (labels < classes)).all()):
        raise ValueError(f"labels go from {int(labels.min())} to {int(labels.max())}; they must be in [0, {classes})")
    own = labels.unsqueeze(1) == torch.arange(classes, device=labels.device)  # (rows, classes)
    return recall_at(similarity, own, [1])[1]


def _check(positives: Tensor, ks: Sequence[int]) -> None:
    if any(k < 1 for k in ks):
        raise ValueError(f"k is {min(ks)}; it must be at least 1")
    queries, _ = positives.shape
    if not queries:
        raise ValueError("there are no queries to rank candidates for")
    without = (~positives.any(dim=1)).nonzero().flatten().tolist()
    if without:
        raise ValueError(f"query {without[0]} has no positive candidate; leave such queries out")
