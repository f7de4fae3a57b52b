"""Where a run reads features in place of images and texts: where an encoder is frozen, and as long as it is."""

from __future__ import annotations

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


class EpochRows:
    """The rows of a run, the same in each epoch.

    Args:
        training: Rows to learn from.
        validation: Rows to measure by.
    """

    def __init__(self, training: PairSource, validation: PairSource) -> None:
        self.training, self.validation = training, validation

    def of(self, epoch: int) -> tuple[PairSource, PairSource]:
        """Rows to learn from and to measure by, from `epoch` on."""
        return self.training, self.validation


class FeatureReuse(EpochRows):
    """The rows of a run, with features from the cache in place of what a frozen encoder would compute again.

    Args:
        training: Rows to learn from. As long as their images are changed at random, these are encoded anew.
        validation: Rows to measure by.
        model: Where it is to compute.
        processor: Of the model.
        config: Of the run.
        folder: Of the cache.
        console: Shows how it goes.
    """

    def __init__(
        self,
        training: PairDataset,
        validation: PairDataset,
        model: DiptychModel,
        processor: DiptychProcessor,
        config: TrainConfig,
        *,
        folder: Path,
        console: Console,
    ) -> None:
        super().__init__(training, validation)
        self.data = (training, validation)
        self.model, self.processor, self.config, self.folder, self.console = model, processor, config, folder, console
        self.images: list[HalfFeatures | None] | None = None
        self.texts: list[HalfFeatures | None] | None = None

    def of(self, epoch: int) -> tuple[PairSource, PairSource]:
        """Rows to learn from and to measure by, from `epoch` on; what the cache lacks is encoded now.

        Raises:
            ValueError: The cache cannot be written to, or the disk is too small.
            OSError: A chunk cannot be written.
        """
        dropped = []
        if not _is_frozen(trains_from(self.model.image_encoder, self.config.unfreeze_image, self.config), epoch):
            dropped += ["images"] if self.images and any(self.images) else []
            self.images = [None, None]
        elif self.images is None:
            self.images = self._encode_images(epoch)
        if not _is_frozen(trains_from(self.model.text_encoder, self.config.unfreeze_text, self.config), epoch):
            dropped += ["texts"] if self.texts and any(self.texts) else []
            self.texts = [None, None]
        elif self.texts is None:
            wanted = [RowsToEncode(data.table, data.columns, data.rows) for data in self.data]
            found = encode_texts(self.model, self.processor, wanted, self.folder, console=self.console)
            self.texts = [*found] if found else [None, None]
        if dropped:
            self.console.print(f"features: from epoch {epoch} on {' and '.join(dropped)} are encoded in every epoch")
        training, validation = self.data
        return (
            training.with_features(self.images[0], self.texts[0]),
            validation.with_features(self.images[1], self.texts[1]),
        )

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


def _is_frozen(trains: int | None, epoch: int) -> bool:
    """Whether nothing of an encoder trains in `epoch`, nor has before; `trains` is the first epoch in which it does."""
    return trains is None or epoch < trains
