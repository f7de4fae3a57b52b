"""Where a run reads features in place of images and texts: where an encoder is frozen, and as long as it is."""

from __future__ import annotations

from pathlib import Path

from ..feature_cache.encode import HalfFeatures, RowsToEncode, encode_images, encode_texts
from ..loading.dataset import PairDataset
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.console import Console
from .config import TrainConfig
from .optim import trains_from


class FeatureReuse:
    """The rows of each epoch, with features from the cache in place of what a frozen encoder would encode again.

    Args:
        model: Where it is to compute.
        processor: Of the model.
        config: Of the run.
        folder: Of the cache.
        training: Rows to learn from. As long as their images are changed at random, these are encoded anew.
        validation: Rows to measure by.
        console: Shows how it goes.
    """

    def __init__(
        self,
        model: DiptychModel,
        processor: DiptychProcessor,
        config: TrainConfig,
        folder: Path,
        training: PairDataset,
        validation: PairDataset,
        console: Console,
    ) -> None:
        self.model, self.processor, self.config, self.folder, self.console = model, processor, config, folder, console
        self.data = (training, validation)
        self.images: list[HalfFeatures | None] | None = None
        self.texts: list[HalfFeatures | None] | None = None

    def rows(self, epoch: int) -> tuple[PairDataset, PairDataset]:
        """Rows to learn from and to measure by as of `epoch`; what the cache lacks is encoded now.

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
        options = {"workers": self.config.workers}
        found = encode_images(self.model, self.processor, wanted, self.folder, console=self.console, **options)
        features = iter(found or [None] * len(wanted))
        return [next(features) if keep else None for keep in keeping]


def _is_frozen(trains: int | None, epoch: int) -> bool:
    """Whether nothing of an encoder trains in `epoch`, nor has before; `trains` is the first epoch in which it does."""
    return trains is None or epoch < trains
