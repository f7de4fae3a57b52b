"""Where a run reads features in place of images and texts: where an encoder is frozen, and as long as it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..feature_cache.encode import HalfFeatures, RowsToEncode, encode_images, encode_texts
from ..loading.dataset import PairDataset
from ..loading.loader import PairSource
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.console import Console
from .config import TrainConfig
from .optim import trains_from


@dataclass(eq=False)
class EpochRows:
    """The rows of a run to learn from and to measure by, the same in each epoch."""

    training: PairSource
    validation: PairSource

    def of(self, epoch: int) -> tuple[PairSource, PairSource]:
        """Rows to learn from and to measure by, from `epoch` on."""
        return self.training, self.validation


@dataclass(eq=False)
class FeatureReuse(EpochRows):
    """The rows of a run, with features from the cache in place of what a frozen encoder would compute again.

    Attributes:
        training: Rows to learn from. As long as their images are changed at random, these are encoded anew.
        model: Where it is to compute.
        folder: Of the cache.
        features: Of `images` and `texts`, those of the rows to learn from and of those to measure by.
    """

    training: PairDataset
    validation: PairDataset
    model: DiptychModel
    processor: DiptychProcessor
    config: TrainConfig
    folder: Path
    console: Console
    features: dict[str, list[HalfFeatures | None]] = field(default_factory=dict)

    @property
    def data(self) -> tuple[PairDataset, PairDataset]:
        """All of them."""
        return self.training, self.validation

    def of(self, epoch: int) -> tuple[PairSource, PairSource]:
        """Rows to learn from and to measure by, from `epoch` on; what the cache lacks is encoded now.

        Raises:
            ValueError: The cache cannot be written to, or the disk is too small.
            OSError: A chunk cannot be written.
        """
        model, config = self.model, self.config
        dropped = []
        for what, encoder, count, encode in (
            ("images", model.image_encoder, config.unfreeze_image, self._encode_images),
            ("texts", model.text_encoder, config.unfreeze_text, self._encode_texts),
        ):
            trains = trains_from(encoder, count, config)
            if trains is not None and epoch >= trains:
                dropped += [what] if any(self.features.get(what, ())) else []
                self.features[what] = [None, None]
            elif what not in self.features:
                self.features[what] = encode(epoch)
        if dropped:
            self.console.print(f"features: from epoch {epoch} on {' and '.join(dropped)} are encoded in every epoch")
        training, validation = (
            data.with_features(images, texts)
            for data, images, texts in zip(self.data, self.features["images"], self.features["texts"], strict=True)
        )
        return training, validation

    def _encode_texts(self, _: int) -> list[HalfFeatures | None]:
        wanted = [RowsToEncode(data.table, data.columns, data.rows) for data in self.data]
        found = encode_texts(self.model, self.processor, wanted, self.folder, console=self.console)
        return [*found] if found else [None, None]

    def _encode_images(self, epoch: int) -> list[HalfFeatures | None]:
        keeping = [data.augmentation is None or epoch < data.augment_from for data in self.data]
        if not keeping[0]:
            self.console.print("features: training images are changed at random, so they are encoded in every epoch")
        wanted = [
            RowsToEncode(data.table, data.columns, data.rows)
            for data, keep in zip(self.data, keeping, strict=True)
            if keep
        ]
        options: dict[str, Any] = {"workers": self.config.workers, "ids": any(data.ids for data in self.data)}
        found = encode_images(self.model, self.processor, wanted, self.folder, console=self.console, **options)
        features = iter(found or ())
        return [next(features, None) if keep else None for keep in keeping]
