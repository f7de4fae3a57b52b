"""Was the image worth it? What a model gets right with both modalities, with each, and without their interaction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from sklearn.metrics import precision_recall_fscore_support
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ...encoders.tokens import Tokens
from ..model.model import DiptychModel
from ..runtime.console import SILENT, Console

PARTNERS = 32
"""Random images that each text meets, and texts that each image meets, in the additive projection."""
MOST_ROWS = 500
"""Rows that images are swapped among and that are projected, unless all pairs are asked for."""
_BATCH = 256


@torch.inference_mode()
def measure_worth(
    model: DiptychModel,
    batches: Iterable[Mapping[str, Any]],
    accelerator: Accelerator,
    console: Console = SILENT,
    *,
    exact: bool = False,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Logits of rows that have both modalities: as they are, with images swapped, and of the additive projection.

    The projection (EMAP: Hessel and Lee, 2020) is the best model of the form f(text) + g(image): the mean over other
    images, plus the mean over other texts, less the mean over both. What is lost is what they say only together.

    Args:
        model: With one label a row, in eval mode.
        batches: Of all rows, of one process.
        exact: Project by all pairs of all rows in place of `PARTNERS` for each of `MOST_ROWS`.
        seed: Of the rows, the partners and the swaps.

    Returns:
        `both`, `swapped` and `additive` (rows, classes), and `labels` (rows,).
    """
    image, text, labels = _tokens(model, batches, accelerator)
    rng = torch.Generator().manual_seed(seed)
    if not exact and len(labels) > MOST_ROWS:
        chosen = torch.randperm(len(labels), generator=rng)[:MOST_ROWS].sort().values
        image, text, labels = _of(image, chosen), _of(text, chosen), labels[chosen]
    count = len(labels)
    if count < 2:
        return {}
    everyone = torch.arange(count)
    shift = everyone.roll(1)
    order = torch.randperm(count, generator=rng)
    swap = torch.empty(count, dtype=torch.long)
    swap[order] = order[shift]  # one round through all rows: nobody keeps its own image
    # the same partners for all rows: what is additive is then projected exactly, however few they are
    partners = everyone if exact else torch.randperm(count, generator=rng)[:PARTNERS]
    of_texts = torch.zeros(count, model.config.num_labels)
    of_images = torch.zeros_like(of_texts)
    with console.progress(partners.tolist(), desc="image worth", unit="partner") as bar:
        for partner in bar:
            other = torch.full_like(everyone, partner)
            of_texts += _logits(model, image, text, other, everyone) / len(partners)
            of_images += _logits(model, image, text, everyone, other) / len(partners)
    return {
        "both": _logits(model, image, text, everyone, everyone),
        "swapped": _logits(model, image, text, swap, everyone),
        "additive": of_texts + of_images - of_texts[partners].mean(0),
        "labels": labels,
    }


def _tokens(
    model: DiptychModel, batches: Iterable[Mapping[str, Any]], accelerator: Accelerator
) -> tuple[Tokens, Tokens, Tensor]:
    """Tokens of all rows that have both modalities, and their labels."""
    parts: list[tuple[Tokens, Tokens]] = []
    labels: list[Tensor] = []
    for batch in batches:
        with accelerator.autocast():
            image, text = model.encode(batch)
        both = (image.present & text.present).nonzero()[:, 0]
        parts.append((_of(image, both), _of(text, both)))
        labels.append(batch["labels"][both].cpu())
    return _joined([image for image, _ in parts]), _joined([text for _, text in parts]), torch.cat(labels)


def _of(tokens: Tokens, rows: Tensor) -> Tokens:
    rows = rows.to(tokens.states.device)
    ids = None if tokens.ids is None else tokens.ids[rows]
    return replace(tokens, states=tokens.states[rows], mask=tokens.mask[rows], present=tokens.present[rows], ids=ids)


def _joined(parts: list[Tokens]) -> Tokens:
    """Tokens of several batches, padded to the longest row."""
    states = pad_sequence([row for part in parts for row in part.states.float()], batch_first=True)
    mask = pad_sequence([row for part in parts for row in part.mask], batch_first=True)
    present = torch.cat([part.present for part in parts])
    ids = None
    if parts[0].ids is not None:
        ids = pad_sequence([row for part in parts if part.ids is not None for row in part.ids], batch_first=True)
    return Tokens(states, mask, present, grid=parts[0].grid, ids=ids)


def _logits(model: DiptychModel, image: Tokens, text: Tokens, images: Tensor, texts: Tensor) -> Tensor:
    """Logits (rows, classes) of these images with these texts."""
    parts = []
    for some, others in zip(images.split(_BATCH), texts.split(_BATCH), strict=True):
        words = _of(text, others)
        longest = int(words.mask.sum(1).max())  # no padding that no row of the batch needs
        ids = None if words.ids is None else words.ids[:, :longest]
        words = replace(words, states=words.states[:, :longest], mask=words.mask[:, :longest], ids=ids)
        logits = model.fuse(_of(image, some), words).logits
        parts.append(logits.float().cpu() if logits is not None else torch.empty(0))
    return torch.cat(parts)


def worth_report(right: Mapping[str, Tensor], sampled: Mapping[str, Tensor]) -> dict[str, Any]:
    """Accuracies with 95 % intervals (Wilson), paired differences, and one sentence.

    Args:
        right: Whether each row is right: with `both`, `text_only`, `image_only`, and by the `majority` class.
        sampled: The same of the rows that images were swapped among: with `both`, `swapped`, `additive`.
    """
    others = {name: hits for name, hits in sampled.items() if name != "both"}
    accuracy = {
        name: [float(hits.float().mean()), *wilson(int(hits.sum()), len(hits))]
        for name, hits in {**right, **others}.items()
    }
    differences = {
        f"both - {name}": paired(right["both"], right[name]) for name in ("majority", "text_only", "image_only")
    }
    differences |= {f"both - {name}": paired(sampled["both"], hits) for name, hits in others.items()}
    gain, low, high = differences["both - text_only"]
    certain = "more than chance" if low > 0 else "a loss" if high < 0 else "which may be chance"
    sentence = (
        f"was the image worth it? with it {accuracy['both'][0]:.1%} are right, without it "
        f"{accuracy['text_only'][0]:.1%}: {100 * gain:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), {certain}"
    )
    return {
        "rows": len(right["both"]),
        "sampled_rows": len(next(iter(sampled.values()))) if sampled else 0,
        "accuracy": accuracy,
        "differences": differences,
        "sentence": sentence,
    }


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson, 1927)."""
    if not rows:
        return 0.0, 1.0
    z, share = 1.96, hits / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(one: Tensor, other: Tensor) -> tuple[float, float, float]:
    """The mean difference of two sides that judge the same rows, and its 95 % interval."""
    gains = one.float() - other.float()
    mean = float(gains.mean())
    half = 1.96 * float(gains.std()) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return mean, mean - half, mean + half


def by_class(predicted: Tensor, labels: Tensor, names: list[str]) -> dict[str, dict[str, float]]:
    """Rows, precision, recall and F1 of each class, of (rows,) indices, or (rows, classes) of several labels."""
    multi = labels.dim() == 2
    values = precision_recall_fscore_support(
        labels.numpy(), predicted.numpy(), labels=None if multi else range(len(names)), average=None, zero_division=0.0
    )
    return {
        name: {"rows": int(rows), "precision": float(p), "recall": float(r), "f1": float(f)}
        for name, p, r, f, rows in zip(names, *values, strict=True)
    }
