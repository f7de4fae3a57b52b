"""Rank texts for an image and images for a text, and say how well a model does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ...encoders.trainable import evaluating
from ..data.labels import label_ids, label_names
from ..data.options import Reading
from ..data.read import read_data
from ..data.splits import pick_split
from ..loading.dataset import PairDataset
from ..loading.loader import batches_once
from ..loading.plan import gather_parts
from ..model.embed import embed_texts
from ..model.folder import load_model
from ..runtime.console import SILENT, Console
from ..runtime.options import sort_options
from .retrieval_metrics import chance_recall_at, recall_at, zero_shot_accuracy

KS = (1, 5, 10)


def rank_table(
    model: Any,
    data: Any,
    *,
    split: str | None = None,
    batch_size: int = 64,
    say: Callable[[str], None] = lambda line: None,
    quiet: bool = False,
    **reading: Any,
) -> dict[str, Any]:
    """How well each image of a table finds its text among all distinct ones, and each text its image.

    Args:
        model: The folder of a model trained with alignment, or a Hub id.
        data: Whatever `load_tables` takes.
        split: Which split; `test` if there are several and none is named.
        batch_size: Rows per forward pass and device.
        say: What to do with each line that says how the data is read.
        quiet: Show no progress bar.
        **reading: Fields of `Reading`. If `label_column` is given, each image is also classified by which label's
            name is closest to it.

    Returns:
        `image_to_text_recall_at_10` and its like, in shares, each with `..._chance` beside it; with
        labels `zero_shot_accuracy` and `zero_shot_chance`, 1 / classes.

    Raises:
        ValueError: The model or the data is not usable; the message says why.
    """
    network, processor = load_model(model)
    pick = partial(pick_split, split=split, default="test")
    known = network.config.columns
    read = read_data(data, *sort_options(reading, Reading), pick=pick, need_label=False, known=known, say=say)
    table, columns = read.table, read.columns
    names = label_names(table, columns.label) if columns.label else []
    labels = label_ids(table, columns.label, names) if columns.label else None
    accelerator = Accelerator()
    dataset = PairDataset(table, columns, labels, processor, ids=True)
    batches = batches_once(dataset, accelerator, batch_size=batch_size)
    embedded = _embed(network.to(accelerator.device), batches, accelerator, Console(bars=not quiet))
    metrics = {"rows": len(dataset), "columns": str(columns), **_recalls(embedded)}
    if names:
        aligned = accelerator.unwrap_model(network)
        classes = torch.cat([part.cpu() for part in embed_texts(aligned, processor, names, batch_size=batch_size)])
        seen = embedded["image_present"]
        metrics["classes"] = len(names)
        metrics["zero_shot_accuracy"] = zero_shot_accuracy(
            embedded["images"][seen] @ classes.T, embedded["labels"][seen]
        )
        metrics["zero_shot_chance"] = 1 / len(names)
    return metrics


def measure_ranking(
    model: Any, batches: Iterable[dict[str, Any]], accelerator: Accelerator, console: Console = SILENT
) -> dict[str, Any]:
    """Recall at 1, 5 and 10 in both directions over all rows of `batches`, beside chance."""
    with evaluating(model):
        return _recalls(_embed(model, batches, accelerator, console))


@torch.inference_mode()
def _embed(
    model: Any, batches: Iterable[dict[str, Any]], accelerator: Accelerator, console: Console
) -> dict[str, Tensor]:
    """Both halves' embeddings, ids and presence of all rows, each once however many processes share them."""
    aligned = accelerator.unwrap_model(model)
    parts: list[dict[str, Tensor]] = []
    rows: list[int] = []
    for batch in console.progress(batches, desc="embed", unit="batch"):
        image, text = aligned.encode(batch)
        embedded = {
            "images": aligned.require_alignment().embed_image(image).float(),
            "texts": aligned.require_alignment().embed_text(text).float(),
            **{key: batch[key] for key in ("image_ids", "text_ids", "image_present", "text_present")},
            **({"labels": batch["labels"]} if "labels" in batch else {}),
        }
        parts.append({name: tensor.cpu() for name, tensor in embedded.items()})
        rows += batch["rows"]
    return gather_parts(parts, rows, accelerator)


def _recalls(embedded: dict[str, Tensor]) -> dict[str, Any]:
    """Recall in both directions, over rows that have both halves; equal images are one, equal texts too."""
    both = embedded["image_present"] & embedded["text_present"]
    if not bool(both.any()):
        raise ValueError("no row has both an image and a text: there is nothing to rank")
    images, image_of = _distinct(embedded["images"][both], embedded["image_ids"][both])
    texts, text_of = _distinct(embedded["texts"][both], embedded["text_ids"][both])
    belong = torch.zeros(len(images), len(texts), dtype=torch.bool)
    belong[image_of, text_of] = True
    similarity = images @ texts.T  # (images, texts)
    metrics: dict[str, Any] = {"images": len(images), "texts": len(texts)}
    for direction, scores, right in (
        ("image_to_text", similarity, belong),
        ("text_to_image", similarity.T, belong.T),
    ):
        recalls, chances = recall_at(scores, right, KS), chance_recall_at(right, KS)
        for k in KS:
            metrics[f"{direction}_recall_at_{k}"] = recalls[k]
            metrics[f"{direction}_recall_at_{k}_chance"] = chances[k]
    return metrics


def _distinct(embeds: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """One embedding for each distinct id, and for each row which one is its."""
    _, which = ids.unique(return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(ids)).scatter_reduce(0, which, torch.arange(len(ids)), "amin")
    return embeds[first], which
