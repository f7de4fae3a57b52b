"""Measure a model on labelled data."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from .batches import Collate, PairDataset
from .build import load_model
from .columns import find_columns, label_ids
from .data import load_tables, pick_split
from .metrics import classification_metrics
from .scores import scores


def evaluate(
    model: Any,
    data: Any,
    *,
    split: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
    quiet: bool = False,
) -> dict[str, Any]:
    """Accuracy, macro-F1, AUROC and mean modality weights of a saved model.

    Args:
        model: A run's or a model's folder, or a Hub id.
        data: Whatever `load_tables` takes.
        split: Which split; `test` if there are several and none is named.
        image_column: The image column, if it cannot be told by name.
        text_column: The text column, likewise.
        label_column: The label column, likewise.
        batch_size: Rows per forward pass and device.
        quiet: Show no progress bar.

    Raises:
        ValueError: The model or the data is not usable; the message says why.
    """
    classifier, processor = load_model(model)
    tables = load_tables(data)
    table = pick_split(tables, split, default="test")
    columns = find_columns(table, image=image_column, text=text_column, label=label_column)
    labels = label_ids(table, str(columns.label), classifier.config.labels)
    accelerator = Accelerator()
    dataset = PairDataset(table, columns, labels, processor)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=Collate(processor))
    classifier, loader = accelerator.prepare(classifier, loader)
    measured = measure(classifier, loader, accelerator, quiet=quiet)
    return {"rows": len(dataset), "columns": str(columns), **measured}


@torch.inference_mode()
def measure(model: Any, loader: Any, accelerator: Accelerator, *, quiet: bool = True) -> dict[str, Any]:
    """Metrics over all rows of `loader`, each counted once however many processes share them.

    Rows that have neither half get no prediction: they are counted in `without_prediction`, and
    in no metric.
    """
    was_training = model.training
    model.eval()
    config = accelerator.unwrap_model(model).config
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    weights: list[Tensor] = []
    present: list[Tensor] = []
    for batch in tqdm(loader, desc="evaluate", unit="batch", disable=True if quiet else None, leave=False):
        batch.pop("problems")
        target = batch.pop("labels")
        output = model(**batch)
        halves = torch.stack([batch["image_present"], batch["text_present"]], dim=1)
        modality_weights = output.modality_weights
        if modality_weights is None:
            modality_weights = torch.full(halves.shape, float("nan"), device=halves.device)
        gathered = accelerator.gather_for_metrics((output.logits.float(), target, modality_weights.float(), halves))
        for kept, part in zip((logits, labels, weights, present), gathered, strict=True):
            kept.append(part.cpu())
    model.train(was_training)
    if not logits:
        raise ValueError("there are no rows to measure")
    halves = torch.cat(present)
    usable = halves.any(dim=1)
    metrics: dict[str, Any] = classification_metrics(
        scores(torch.cat(logits)[usable], config).numpy(), torch.cat(labels)[usable].numpy()
    )
    mean_weights = torch.cat(weights)[usable].mean(dim=0)
    has_weights = bool(torch.isfinite(mean_weights).all())
    metrics["image_weight"] = float(mean_weights[0]) if has_weights else None
    metrics["text_weight"] = float(mean_weights[1]) if has_weights else None
    metrics["without_prediction"] = int((~usable).sum())
    return metrics
