"""One pair with parts of it removed, and what the model then scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from ...encoders.tokens import Tokens
from ..model import contributions
from ..model.calibration import modalities_of
from ..model.model import DiptychModel

CELLS = 7
"""Cells to a side into which a picture is cut where parts of it are greyed."""


@dataclass(frozen=True)
class Pair:
    """What a model reads of one pair, and what stands for it where something is removed.

    Attributes:
        batch: As the processor gives it, of one row.
        mask_id: The word piece that stands for a removed one.
        words: Positions of the word pieces that are no special tokens.
    """

    batch: dict[str, Tensor]
    mask_id: int
    words: list[int]

    @property
    def has_image(self) -> bool:
        """Whether there is an image."""
        return bool(self.batch["image_present"][0])

    @property
    def has_text(self) -> bool:
        """Whether there is a text with a word in it."""
        return bool(self.batch["text_present"][0]) and bool(self.words)

    @property
    def modalities(self) -> Tensor:
        """What the row has, (1,), as `scores` takes it."""
        return modalities_of(self.batch["image_present"], self.batch["text_present"])

    def greyed(self, cells: Tensor) -> Tensor:
        """Pixel values (variants, 3, height, width) with cells grey: the mean colour of what the encoder was made for.

        Args:
            cells: (variants, CELLS, CELLS), True where a cell is removed.
        """
        pixels = self.batch["pixel_values"]
        size = pixels.shape[-2:]
        hidden = F.interpolate(cells[:, None].float(), size=size, mode="nearest").bool()
        return torch.where(hidden, torch.zeros((), dtype=pixels.dtype), pixels)

    def masked(self, removed: Tensor) -> Tensor:
        """Input ids (variants, words) with word pieces replaced by `mask_id`.

        Args:
            removed: (variants, len(words)), True where a word piece is removed.
        """
        ids = self.batch["input_ids"].repeat(len(removed), 1)
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[:, self.words] = removed
        return ids.masked_fill(where, self.mask_id)


@dataclass(frozen=True)
class Attribution:
    """What speaks for a class (above 0) and against it (below 0), in log-odds.

    Attributes:
        heat: (height, width) of the pixels that the encoder sees; None without an image.
        words: (len(pair.words),); None without a text.
        total: What all attributions sum to, where the method promises the score difference; else None.
    """

    heat: Tensor | None
    words: Tensor | None
    total: float | None = None


Target = Callable[[Tensor], Tensor]
"""From logits (batch, classes) to what is explained, (batch,)."""


def log_odds(model: DiptychModel, label: int, against: int | None = None) -> Target:
    """Of a class against all others, or against another class; of a multi-label model its own logit."""

    def score(logits: Tensor) -> Tensor:
        if against is not None:
            return logits[:, label] - logits[:, against]
        if model.config.multi_label:
            return logits[:, label]
        return contributions.log_odds(logits, torch.full_like(logits[:, 0], label, dtype=torch.long))

    return score


def variants(model: DiptychModel, pair: Pair, cells: Tensor | None, removed: Tensor | None) -> Tensor:
    """Logits (variants, classes) of a pair with parts of it removed.

    Args:
        model: In eval mode.
        cells: As of `Pair.greyed`; None leaves the image as it is.
        removed: As of `Pair.masked`; None leaves the text as it is.
    """
    count = len(cells if cells is not None else removed)  # type: ignore[arg-type]
    batch = {name: value.expand(count, *value.shape[1:]) for name, value in pair.batch.items()}
    with torch.no_grad():
        if cells is not None and pair.has_image:
            batch["pixel_values"] = pair.greyed(cells)
        elif pair.has_image:
            features = model.image_encoder.encode(pair.batch["pixel_values"])
            batch["image_features"] = features.expand(count, *features.shape[1:])
        if removed is not None and pair.has_text:
            batch["input_ids"] = pair.masked(removed)
        elif pair.has_text:
            features = model.text_encoder.encode(pair.batch["input_ids"], pair.batch["attention_mask"])
            batch["text_features"] = features.expand(count, *features.shape[1:])
        return logits_of(model, *model.encode(batch))


def baseline(model: DiptychModel, pair: Pair) -> dict[str, Tensor]:
    """The batch of a grey picture and a text of masked words."""
    everything = torch.ones(1, len(pair.words), dtype=torch.bool)
    return pair.batch | {
        "pixel_values": torch.zeros_like(pair.batch["pixel_values"]),
        "input_ids": pair.masked(everything),
    }


def logits_of(model: DiptychModel, image: Tokens, text: Tokens, *, maps: bool = False) -> Tensor:
    """Logits (batch, classes) of tokens (batch, regions, dim) and (batch, words, dim), of a model with classes."""
    return cast(Tensor, model.fuse(image, text, output_attentions=maps).logits)
