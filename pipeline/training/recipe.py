"""Recipes: how long a run is where nobody says, in steps, and what it will cost."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ...encoders.trainable import evaluating
from ..loading.loader import Batches
from ..model.model import DiptychModel
from .config import TrainConfig
from .optim import trains_from


@dataclass(frozen=True)
class Recipe:
    """How long a run is at least: small sets get the steps, large ones the epochs.

    Attributes:
        steps: Optimizer steps.
        epochs: Passes over the rows, over frozen encoders.
        encoder_epochs: Passes where a part of an encoder trains.
    """

    steps: int
    epochs: int
    encoder_epochs: int


RECIPE = {
    "fast": Recipe(steps=150, epochs=2, encoder_epochs=3),
    "balanced": Recipe(steps=300, epochs=8, encoder_epochs=8),
    "best": Recipe(steps=1000, epochs=16, encoder_epochs=12),
}
MOST_EPOCHS = 50
"""However few the rows are: from then on they are learned by heart."""
MEASURED = 10
"""Epochs of a long run that are measured; the others are passed by."""


def with_length(config: TrainConfig, model: DiptychModel, rows: int) -> tuple[TrainConfig, str]:
    """The configuration with its number of epochs, and a line that says how it came about.

    Args:
        config: Of the run; its own `epochs` stay.
    """
    steps = -(-rows // config.batch_size)  # of an epoch
    if config.epochs is not None:
        return config, f"length: {config.epochs} epochs of {steps} steps, as asked"
    recipe = RECIPE[config.recipe]
    encoders = ((model.image_encoder, config.unfreeze_image), (model.text_encoder, config.unfreeze_text))
    trained = any(trains_from(encoder, count, config) is not None for encoder, count in encoders)
    least = recipe.encoder_epochs if trained else recipe.epochs
    epochs = max(least, min(MOST_EPOCHS, -(-recipe.steps // steps)), config.unfreeze_at)
    why = f"at least {least} epochs{' as an encoder trains' if trained else ''} and {recipe.steps} steps"
    return replace(config, epochs=epochs), (
        f"length: {epochs} epochs of {steps} steps (--recipe {config.recipe}: {why}, at most {MOST_EPOCHS} epochs)"
    )


def measures(epoch: int, epochs: int | None) -> bool:
    """Whether a run of so many epochs measures the model after `epoch`."""
    return epochs is None or epoch == epochs or epoch % max(1, epochs // MEASURED) == 0


def step_seconds(model: nn.Module, batches: Batches) -> float:
    """About how long one step takes: one is timed, of the first row over and over, and nothing is learned from it."""
    batch = batches.first()
    for name in ("rows", "problems"):
        batch.pop(name)
    rows = min(batches.plan.batch_size, batches.plan.rows)
    batch = {
        name: value.to(batches.device).repeat(rows, *[1] * (value.dim() - 1))
        for name, value in batch.items()
        if isinstance(value, Tensor)
    }
    with evaluating(model):  # batch norms stay as they are
        started = time.perf_counter()
        loss = model(**batch).loss
        if loss is not None and loss.requires_grad:
            loss.backward()
        seconds = time.perf_counter() - started
    model.zero_grad(set_to_none=True)
    return seconds


def duration(seconds: float) -> str:
    """Seconds, for people."""
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )
