"""The training loop, over Accelerate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn
from tqdm.auto import tqdm

from ..evaluation.evaluate import measure
from ..evaluation.retrieval import measure_ranking
from ..loading.dataset import PairDataset
from ..loading.loader import Batches, Collate
from ..loading.plan import Plan
from ..loading.stream import PairStream, StreamBatches
from ..model.folder import save_model
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.seeds import draw_seed
from ..runtime.signals import StopSignals
from .checkpoints import Checkpoints, Progress
from .config import MULTI_LABEL_BEST, OBJECTIVES, TrainConfig
from .feature_reuse import drop_features, reuse_features
from .interrupts import Interrupts
from .optim import parameter_groups, schedule, unfreeze
from .tracking import Tracking


class Fit:
    """The training loop: Accelerate places the model and shares the batches, one process per device.

    Args:
        model: To be trained in place.
        processor: Saved beside it.
        config: How the run goes.
        folder: Where the best epoch's model is kept.
        cache: Where the features of frozen trunks are kept; None encodes anew in every epoch.
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
        cache: Path | None = None,
        say: Callable[[str], None],
        quiet: bool,
    ) -> None:
        self.model, self.processor, self.config, self.folder = model, processor, config, folder
        self.cache, self.say, self.quiet = cache, say, quiet
        AcceleratorState._reset_state()  # else a process keeps the precision of its first run
        # a batch in which no row has an image gives the image encoder no gradient
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            mixed_precision=config.precision,
            log_with=config.tracker,
            project_dir=folder.parent / "logs",
            kwargs_handlers=[unused],
        )
        self.measure = measure_ranking if config.objective == "align" else measure
        self.best = MULTI_LABEL_BEST if model.config.multi_label else OBJECTIVES[config.objective]
        self.measuring = {"quiet": quiet, **({"choose_thresholds": True} if model.config.multi_label else {})}
        self.progress = Progress()

    def run(
        self,
        training: PairDataset | PairStream,
        validation: PairDataset | PairStream,
        *,
        resume: bool = False,
        identity: dict[str, Any] | None = None,
        note: Callable[[], None] = lambda: None,
        after_epoch: Callable[[dict[str, Any]], None] = lambda epoch: None,
    ) -> list[dict[str, Any]]:
        """Train for all epochs; what each one cost and gave.

        Args:
            training: Rows to learn from.
            validation: Rows to choose the best epoch by.
            resume: Go on from the newest whole checkpoint, if there is one.
            identity: What must be the same for that, by name.
            note: Called whenever there is something new to record.
            after_epoch: Called with the figures of each epoch; what it raises ends the run.

        Raises:
            Interrupted: A signal came; where the run stands is saved.
            ValueError: The options don't fit together, or a loss or gradient is not finite.
            OSError: A checkpoint or the model cannot be written.
        """
        accelerator, config = self.accelerator, self.config
        plan = self._plan(training)
        optimizer = torch.optim.AdamW(
            parameter_groups(self.model, config), weight_decay=config.weight_decay, fused=True
        )
        model, optimizer = accelerator.prepare(self.model, optimizer)
        steps = config.epochs * plan.steps
        rates = schedule(optimizer, steps=steps, warmup=config.warmup, epochs=config.epochs)
        self.tracking = Tracking(accelerator, asdict(config))
        checkpoints = Checkpoints(
            self.folder.parent / "checkpoints",
            accelerator,
            identity=identity or {},
            model=model,
            optimizer=optimizer,
            schedule=rates,
            keep=config.keep,
            say=self.say,
        )
        progress = self.progress = (checkpoints.load() if resume else None) or Progress()
        if self.cache is not None and isinstance(training, PairDataset) and isinstance(validation, PairDataset):
            quiet = self.quiet or not accelerator.is_main_process
            place = (self.model, self.processor, config, self.cache)
            reuse_features(*place, training, validation, progress.epoch, say=self.say, quiet=quiet)
        batches, validating = self._batches(training, seed=config.seed), self._batches(validation)
        with StopSignals(processes=accelerator.num_processes) as signals:
            watch = Interrupts(
                accelerator,
                checkpoints,
                signals,
                steps=config.checkpoint_steps,
                minutes=config.checkpoint_minutes,
            )
            if not progress.start:
                progress.start = self.measure(model, validating, accelerator, **self.measuring)
            self.say(f"before training: {self.best} {progress.start[self.best]:.4f}")
            note()
            for epoch in range(progress.epoch, config.epochs + 1):
                if unfreeze(self.model, config, epoch):
                    self.say(f"epoch {epoch}: the chosen parts of pretrained trunks train from here on")
                    if isinstance(training, PairDataset) and isinstance(validation, PairDataset):
                        drop_features(self.model, config, training, validation, epoch, say=self.say)
                    batches, validating = self._batches(training, seed=config.seed), self._batches(validation)
                loss = self._epoch(model, optimizer, rates, batches, watch)
                metrics = self.measure(model, validating, accelerator, **self.measuring)
                seconds = round(progress.seconds, 1)
                progress.end_epoch({"epoch": epoch, "train_loss": loss, "seconds": seconds, **metrics})
                self._close(model, metrics)
                note()
                after_epoch(progress.history[-1])
                if epoch < config.epochs:
                    if out_of_patience(progress.history, self.best, config):
                        self.say(f"stopped after epoch {epoch}: {config.patience} without a better one (--patience)")
                        break
                    watch.agree()  # a signal may have come while the epoch was measured
                    watch.checkpoint(progress)
        self.tracking.end()
        if progress.problems:
            counts = ", ".join(f"{count} {status}" for status, count in progress.problems.items())
            self.say(f"rows that were not whole, in all epochs together: {counts}")
        return progress.history

    def _plan(self, data: PairDataset | PairStream) -> Plan:
        return Plan(
            len(data),
            self.config.batch_size,
            accumulate=self.config.accumulate,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )

    def _batches(self, data: PairDataset | PairStream, *, seed: int | None = None) -> Batches:
        """This process's batches of `data`; to train on if there is a seed."""
        plan, place = self._plan(data), {"device": self.accelerator.device, "workers": self.config.workers}
        if isinstance(data, PairStream):
            return StreamBatches(data, plan, Collate(self.processor), **place)
        return Batches(data, plan, Collate(self.processor, data), seed=seed, **place)

    def _epoch(self, model: nn.Module, optimizer: Any, rates: Any, batches: Batches, watch: Interrupts) -> float:
        """The steps of an epoch that are left; the mean loss of all its steps."""
        accelerator, config, progress, plan = self.accelerator, self.config, self.progress, batches.plan
        model.train()
        started = time.monotonic() - progress.seconds
        done = progress.epoch_step * config.accumulate
        bar = tqdm(
            batches.epoch(progress.epoch, skip=done),
            desc=f"epoch {progress.epoch}/{config.epochs}",
            unit="batch",
            initial=done,
            total=len(plan),
            leave=False,
            disable=True if self.quiet or not accelerator.is_main_process else None,
        )
        total = torch.tensor(sum(progress.losses), device=accelerator.device)
        rows: list[int] = []  # of this step
        step_loss, finite = torch.zeros((), device=accelerator.device), True
        for batch in bar:
            here = batch.pop("rows")
            rows += here
            for _, status, _ in batch.pop("problems"):
                progress.count(status)
            # what dropout draws follows from its place in the run, not from what was drawn before
            torch.manual_seed(draw_seed(config.seed, "dropout", progress.epoch, done, accelerator.process_index))
            ends_step, share = plan.ends_step(done), plan.share(done)
            done += 1
            with contextlib.nullcontext() if ends_step else accelerator.no_sync(model):
                loss = model(**batch).loss
                lost = not bool(loss.isfinite())
                if watch.agree(lost=lost):
                    finite = self._not_finite("loss", here if lost else [])
                loss = loss * share  # those of a step's passes add up to its mean over the rows
                step_loss = step_loss + loss.detach()
                accelerator.backward(loss)
            if not ends_step:
                continue
            if finite:
                norm = accelerator.clip_grad_norm_(model.parameters(), config.clip)
                # with fp16 gradients overflow now and then, and the scaler of the loss sees to it
                if accelerator.scaler is None and norm is not None and not bool(norm.isfinite()):
                    finite = self._not_finite("gradient", rows)
            if finite:
                optimizer.step()
                total, progress.batches = total + step_loss, progress.batches + 1
            optimizer.zero_grad()
            rates.step()
            self.tracking.step(step_loss, rates.last_epoch)
            progress.step, progress.epoch_step = progress.step + 1, progress.epoch_step + 1
            progress.skipped += not finite
            progress.losses, progress.seconds = [float(total)], time.monotonic() - started
            rows, step_loss, finite = [], torch.zeros_like(step_loss), True
            if done < len(plan):  # after the last step the epoch is measured first
                watch.checkpoint(progress)
        return float(accelerator.reduce(total, "mean")) / max(1, progress.batches)

    def _close(self, model: nn.Module, metrics: dict[str, Any]) -> None:
        """Tell how the last epoch was, and keep its model if no other was better."""
        history = self.progress.history
        self.say(_table_row(history[-1], heading=len(history) == 1))
        self.tracking.epoch(history[-1], self.progress.step)
        # of two epochs that score the same the one of the lower loss
        before = max((epoch_score(epoch, self.best) for epoch in history[:-1]), default=(-1.0, 0.0))
        if epoch_score(history[-1], self.best) > before:
            if self.model.config.multi_label:
                self.model.config.set_thresholds(metrics["thresholds"])
            if self.accelerator.is_main_process:
                save_model(self.accelerator.unwrap_model(model), self.processor, self.folder)
        self.accelerator.wait_for_everyone()

    def _not_finite(self, what: str, rows: list[int]) -> bool:
        """False where such steps are left out; otherwise the end of the run, in all processes.

        Raises:
            ValueError: With the numbers of the rows that any process has seen it in.
        """
        if not self.config.skip_nonfinite:
            numbers = ", ".join(map(str, sorted(gather_object(rows))))
            raise ValueError(
                f"the {what} of step {self.progress.step + 1}, in epoch {self.progress.epoch}, is not finite; its "
                f"rows: {numbers}. Look at them, lower the learning rate, or leave such steps out with --skip-nonfinite"
            )
        return False


def epoch_score(epoch: dict[str, Any], best: str) -> tuple[float, float]:
    """By what epochs are compared: the figure `best`, then the loss."""
    return epoch[best], -epoch.get("loss", epoch["train_loss"])


def out_of_patience(history: list[dict[str, Any]], best: str, config: TrainConfig) -> bool:
    """Whether `patience` epochs have passed without a better one, not counting those before `unfreeze_at`."""
    if config.patience is None:
        return False
    top = max(range(len(history)), key=lambda index: epoch_score(history[index], best))
    return len(history) - max(top + 1, config.unfreeze_at - 1) >= config.patience


def _table_row(epoch: dict[str, Any], *, heading: bool) -> str:
    """One line of the table of epochs, under its heading the first time."""
    columns = ["epoch", "train_loss", "loss", "accuracy", "macro_f1", "auroc", "image_weight", "seconds"]
    if MULTI_LABEL_BEST in epoch:
        columns[3:6] = ["micro_f1", "macro_f1", MULTI_LABEL_BEST]
    elif "accuracy" not in epoch:
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
