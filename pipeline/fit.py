"""The training loop, over Accelerate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import get_cosine_schedule_with_warmup

from .batches import Collate, PairDataset
from .build import save_model
from .evaluate import measure
from .model import DiptychModel
from .processor import DiptychProcessor
from .rank import measure_ranking

PRECISIONS = ("no", "fp16", "bf16")
OBJECTIVES = {"classify": "accuracy", "align": "image_to_text_recall_at_10"}
"""What is trained for, and the figure by which the best epoch is chosen."""


@dataclass(frozen=True)
class TrainConfig:
    """How a run goes; saved in its folder. The architecture is saved with the model instead.

    Attributes:
        objective: `classify` by labels, or `align` each image with its text, without any.
        epochs: Passes over the training rows.
        batch_size: Rows per optimizer step, over all devices and accumulated batches together.
        accumulate: Forward passes per optimizer step, for batches that don't fit in memory.
        learning_rate: Peak, of all that starts from random weights.
        encoder_learning_rate: Peak, of pretrained trunks.
        weight_decay: Of matrices; biases and norms have none.
        warmup: Share of the steps in which the learning rate rises; it then falls as a cosine.
        clip: Largest norm of the gradient.
        unfreeze_image: Parts of a pretrained image trunk that train, counted from the top; None
            for all.
        unfreeze_text: Likewise of the text trunk.
        flip: Mirror training pictures; None mirrors unless the texts speak of left or right.
        crop: Cut training pictures at random.
        colour: Change brightness, contrast and saturation of training pictures.
        precision: `no` (32 bits), `bf16` or `fp16`.
        seed: Of weights, order, augmentation and dropout.
        validation_share: Of the training rows, held out where the data has no validation split.
        workers: Processes per device that read and prepare rows; 0 reads in the training process.
    """

    objective: str = "classify"
    epochs: int = 5
    batch_size: int = 64
    accumulate: int = 1
    learning_rate: float = 5e-4
    encoder_learning_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup: float = 0.1
    clip: float = 1.0
    unfreeze_image: int | None = 0
    unfreeze_text: int | None = 0
    flip: bool | None = None
    crop: bool = True
    colour: bool = True
    precision: str = "no"
    seed: int = 0
    validation_share: float = 0.1
    workers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("accumulate", 1), ("workers", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        for name in ("learning_rate", "encoder_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("warmup", "validation_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 0 and below 1")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}; choose one of {', '.join(OBJECTIVES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision is {self.precision!r}; choose one of {', '.join(PRECISIONS)}")


class Fit:
    """The training loop: Accelerate places the model and shares the batches, one process per device.

    Args:
        model: To be trained in place.
        processor: Saved beside it.
        config: How the run goes.
        folder: Where the best epoch's model is kept.
        say: What to do with each line that tells how it goes.
        quiet: Show no progress bar.
    """

    def __init__(
        self,
        model: DiptychModel,
        processor: DiptychProcessor,
        config: TrainConfig,
        folder: Path,
        *,
        say: Callable[[str], None],
        quiet: bool,
    ) -> None:
        self.model, self.processor, self.config, self.folder = model, processor, config, folder
        self.say, self.quiet = say, quiet
        AcceleratorState._reset_state()  # else a process keeps the precision of its first run
        # a batch in which no row has an image gives the image encoder no gradient
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            gradient_accumulation_steps=config.accumulate,
            kwargs_handlers=[unused],
        )
        self.measure = measure_ranking if config.objective == "align" else measure
        self.best = OBJECTIVES[config.objective]
        self.problems: dict[str, int] = {}
        self.start: dict[str, Any] = {}

    def run(self, training: PairDataset, validation: PairDataset) -> list[dict[str, Any]]:
        """Train for all epochs; what each one cost and gave."""
        accelerator, config = self.accelerator, self.config
        share = config.accumulate * accelerator.num_processes
        if config.batch_size % share:
            raise ValueError(
                f"batch_size is {config.batch_size}; it must be a multiple of {share} "
                f"({accelerator.num_processes} processes x {config.accumulate} accumulated batches)"
            )
        options: dict[str, Any] = {"collate_fn": Collate(self.processor), "num_workers": config.workers}
        options |= {"batch_size": config.batch_size // share, "persistent_workers": config.workers > 0}
        order = torch.Generator().manual_seed(config.seed)
        loader = DataLoader(training, shuffle=True, generator=order, **options)
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, config), weight_decay=config.weight_decay, fused=True
        )
        model, optimizer, loader, validation_loader = accelerator.prepare(
            self.model, optimizer, loader, DataLoader(validation, **options)
        )
        steps = config.epochs * -(-len(loader) // config.accumulate)
        schedule = get_cosine_schedule_with_warmup(optimizer, round(config.warmup * steps), steps)
        self.start = self.measure(model, validation_loader, accelerator, quiet=self.quiet)
        self.say(f"before training: {self.best} {self.start[self.best]:.4f}")
        history: list[dict[str, Any]] = []
        best = (-1.0, 0.0)  # of two epochs that score the same the one of the lower loss
        for epoch in range(1, config.epochs + 1):
            started = time.perf_counter()
            try:
                loss = self._epoch(model, optimizer, schedule, loader, epoch)
            except KeyboardInterrupt:
                if history:
                    self.say(f"interrupted in epoch {epoch}; the best epoch before it is in {self.folder}")
                raise
            seconds = time.perf_counter() - started
            metrics = self.measure(model, validation_loader, accelerator, quiet=self.quiet)
            history.append({"epoch": epoch, "train_loss": loss, "seconds": round(seconds, 1), **metrics})
            self.say(_table_row(history[-1], heading=epoch == 1))
            if rank_epoch(history[-1], self.best) > best:
                best = rank_epoch(history[-1], self.best)
                if accelerator.is_main_process:
                    save_model(accelerator.unwrap_model(model), self.processor, self.folder)
            accelerator.wait_for_everyone()
        if self.problems:
            counts = ", ".join(f"{count} {status}" for status, count in self.problems.items())
            self.say(f"rows that were not whole, in all epochs together: {counts}")
        return history

    def _epoch(self, model: nn.Module, optimizer: Any, schedule: Any, loader: Any, epoch: int) -> float:
        """One pass over the training rows; the mean loss."""
        accelerator, config = self.accelerator, self.config
        model.train()
        total, count = torch.zeros((), device=accelerator.device), 0
        bar = tqdm(
            loader,
            desc=f"epoch {epoch}/{config.epochs}",
            unit="batch",
            leave=False,
            disable=True if self.quiet or not accelerator.is_main_process else None,
        )
        for batch in bar:
            for _, status, _ in batch.pop("problems"):
                self.problems[status] = self.problems.get(status, 0) + 1
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), config.clip)
                optimizer.step()
                optimizer.zero_grad()
                if accelerator.sync_gradients:
                    schedule.step()
            total, count = total + loss.detach(), count + 1
        return float(accelerator.reduce(total, "mean")) / count


def rank_epoch(epoch: dict[str, Any], best: str) -> tuple[float, float]:
    """By what epochs are compared: the figure `best`, then the loss."""
    return epoch[best], -epoch.get("loss", epoch["train_loss"])


def parameter_groups(model: DiptychModel, config: TrainConfig) -> list[dict[str, Any]]:
    """What trains, grouped by part of the model and by whether its weights decay.

    Pretrained trunks learn at `encoder_learning_rate`, everything else at `learning_rate`.
    """
    pretrained = {"image": model.image_encoder.pretrained, "text": model.text_encoder.pretrained}
    groups = []
    for name, modules in model.parts():
        rate = config.encoder_learning_rate if pretrained.get(name.split(".")[0]) else config.learning_rate
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        for is_matrix in (True, False):
            chosen = [p for p in parameters if (p.dim() > 1) == is_matrix]
            decay = config.weight_decay if is_matrix else 0.0
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay, "name": name})
    return groups


def _table_row(epoch: dict[str, Any], *, heading: bool) -> str:
    """One line of the table of epochs, under its heading the first time."""
    columns = ["epoch", "train_loss", "loss", "accuracy", "macro_f1", "auroc", "image_weight", "seconds"]
    if "accuracy" not in epoch:
        columns = ["epoch", "train_loss", *(key for key in epoch if key.endswith("recall_at_10")), "seconds"]
    cells = []
    for column in columns:
        value = epoch[column]
        text = (
            "-" if value is None else f"{value:.4f}" if isinstance(value, float) and column != "seconds" else str(value)
        )
        cells.append(text.rjust(max(8, len(column))))
    row = "  ".join(cells)
    return "  ".join(column.rjust(max(8, len(column))) for column in columns) + "\n" + row if heading else row
