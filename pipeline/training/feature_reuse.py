"""Where a run reads features in place of pictures and texts: where a trunk stands still, and as long as it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..feature_cache.encode import RowsToEncode, encode_images, encode_texts
from ..loading.dataset import PairDataset
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from .config import TrainConfig
from .optim import trains_from


def reuse_features(
    model: DiptychModel,
    processor: DiptychProcessor,
    config: TrainConfig,
    folder: Path,
    training: PairDataset,
    validation: PairDataset,
    epoch: int,
    *,
    say: Callable[[str], None],
    quiet: bool,
) -> None:
    """Let the cache stand in for each trunk that stands still in `epoch`; what the cache lacks is encoded now.

    Args:
        model: Where it is to compute.
        processor: Of the model.
        config: Of the run.
        folder: Of the cache.
        training: Rows to learn from. If their pictures are changed at random in `epoch`, these are not kept.
        validation: Rows to measure by.
        epoch: The first that is to come.
        say: What to do with each line that tells the user how it goes.
        quiet: Show no progress bar.

    Raises:
        ValueError: The cache cannot be written to, or the disk is too small.
        OSError: A chunk cannot be written.
    """
    options: dict[str, Any] = {"say": say, "quiet": quiet}
    image_still, text_still = _still(model, config, epoch)
    if image_still:
        data = [of for of in (training, validation) if of.augmentation is None or epoch < of.augment_from]
        if training not in data:
            say("features: training pictures are changed at random, so they are encoded in every epoch")
        wanted = [RowsToEncode(of.table, of.columns, of.rows) for of in data]
        images = encode_images(model, processor, wanted, folder, workers=config.workers, **options)
        for index, of in enumerate(data):
            of.image_features = images[index] if images else None
    if text_still:
        data = [training, validation]
        wanted = [RowsToEncode(of.table, of.columns, of.rows) for of in data]
        texts = encode_texts(model, processor, wanted, folder, **options)
        for index, of in enumerate(data):
            of.text_features = texts[index] if texts else None


def drop_features(
    model: DiptychModel,
    config: TrainConfig,
    training: PairDataset,
    validation: PairDataset,
    epoch: int,
    *,
    say: Callable[[str], None],
) -> None:
    """Have pictures and texts read again whose trunk trains from `epoch` on; args as for `reuse_features`."""
    image_still, text_still = _still(model, config, epoch)
    dropped = []
    for of in (training, validation):
        if of.image_features is not None and not image_still:
            of.image_features = None
            dropped.append("images")
        if of.text_features is not None and not text_still:
            of.text_features = None
            dropped.append("texts")
    if dropped:
        say(f"features: from epoch {epoch} on {' and '.join(sorted(set(dropped)))} are encoded in every epoch")


def _still(model: DiptychModel, config: TrainConfig, epoch: int) -> tuple[bool, bool]:
    """Whether nothing of the image trunk trains in `epoch`, nor has before; and of the text trunk."""
    image = trains_from(model.image_encoder, config.unfreeze_image, config)
    text = trains_from(model.text_encoder, config.unfreeze_text, config)
    return image is None or epoch < image, text is None or epoch < text
