"""Heads over cached trunks: encode a table once, then train as many fusions over it as you like.

For `ablation.py`. The encoders are frozen and the pictures not augmented, so
each picture and each text passes its trunk once; the projections, the fusion and the head train.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diptych import DiptychConfig, DiptychModel, DiptychProcessor
from diptych.encoders import Tokens
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.labels import label_ids, label_names
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.loader import Collate
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import get_cosine_schedule_with_warmup


@dataclass(frozen=True)
class Features:
    """What the trunks put out for n rows.

    Attributes:
        image: (n, width, rows, columns), half precision.
        text: (n, words, width), half precision.
        words: (n, words), 1 = a real word.
        labels: Class indices (n,), by column.
    """

    image: Tensor
    text: Tensor
    words: Tensor
    labels: dict[str, Tensor]

    def tokens(self, model: DiptychModel, rows: Tensor, only: str | None = None) -> tuple[Tokens, Tokens]:
        """Projected tokens of these rows; `only` leaves the other half out."""
        there = torch.ones(len(rows), dtype=torch.bool)
        words = self.words[rows]
        longest = int(words.sum(dim=1).max())
        image = model.image_encoder.project(self.image[rows].float(), there & (only != "text"))
        states = self.text[
            rows, :longest, : model.text_encoder.feature_width
        ].float()  # with the word pieces, or without
        text = model.text_encoder.project(states, words[:, :longest], there & (only != "image"))
        return image, text


@torch.inference_mode()
def encode(
    model: DiptychModel, processor: DiptychProcessor, data: Path, label_columns: list[str]
) -> tuple[dict[str, Features], dict[str, list[str]]]:
    """Features of every split, and the class names of every label column."""
    tables = load_tables(data)
    names = {column: label_names(tables["train"], column) for column in label_columns}
    found = {}
    for split, table in tables.items():
        columns = find_columns(table, need_label=False)
        loader = DataLoader(PairDataset(table, columns, None, processor), batch_size=64, collate_fn=Collate(processor))
        images, texts, masks = [], [], []
        for batch in loader:
            images.append(model.image_encoder.encode(batch["pixel_values"]).half())
            texts.append(model.text_encoder.encode(batch["input_ids"], batch["attention_mask"]).half())
            masks.append(batch["attention_mask"])
        longest = max(mask.shape[1] for mask in masks)
        texts = [torch.nn.functional.pad(text, (0, 0, 0, longest - text.shape[1])) for text in texts]
        masks = [torch.nn.functional.pad(mask, (0, longest - mask.shape[1])) for mask in masks]
        labels = {column: torch.tensor(label_ids(table, column, names[column])) for column in label_columns}
        found[split] = Features(torch.cat(images), torch.cat(texts), torch.cat(masks), labels)
    return found, names


def make_heads(trunks: DiptychModel, names: list[str], **fields: Any) -> DiptychModel:
    """A model for the features of `trunks`, of as many regions and words, everything in it random."""
    fields = {"region_grid": trunks.config.region_grid, "pool_words": trunks.config.pool_words} | fields
    return DiptychModel(
        DiptychConfig(
            image_encoder=trunks.config.image_encoder,
            text_config=trunks.config.text_config.to_dict(),
            id2label=dict(enumerate(names)),
            label2id={name: index for index, name in enumerate(names)},
            **fields,
        )
    )


def train_heads(
    model: DiptychModel,
    features: Features,
    labels: Tensor,
    *,
    epochs: int,
    only: str | None = None,
    learning_rate: float = 5e-4,
    batch_size: int = 64,
) -> float:
    """Train all but the trunks; order and dropout follow torch's seed. Returns CPU seconds per epoch."""
    for trunk in (model.image_encoder.trunk, model.text_encoder.trunk):
        trunk.requires_grad_(False)
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": 0.01},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    steps = epochs * -(-len(labels) // batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    started = time.process_time()
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(batch_size):
            loss = model.fuse(*features.tokens(model, rows, only), labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
    return (time.process_time() - started) / epochs


@torch.inference_mode()
def predict(model: DiptychModel, features: Features, only: str | None = None) -> tuple[Tensor, float | None]:
    """Predicted class of every row, (n,), and the mean image weight."""
    model.eval()
    found, weights = [], []
    for rows in torch.arange(len(features.image)).split(128):
        output = model.fuse(*features.tokens(model, rows, only))
        found.append(output.logits.argmax(1))
        if output.modality_weights is not None:
            weights.append(output.modality_weights[:, 0])
    return torch.cat(found), float(torch.cat(weights).mean()) if weights else None
