"""The training loop, over Accelerate."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, gather_object
from torch import nn

from ...encoders.draws import RowDraws
from ..loading.loader import Batches, PairSource
from ..loading.plan import Plan
from ..model.folder import save_model
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.console import SILENT, Console
from ..runtime.seeds import draw_seed
from ..runtime.signals import StopSignals
from .checkpoints import Checkpoints, Progress
from .config import TrainConfig
from .experts import fit_experts
from .feature_reuse import EpochRows
from .interrupts import Interrupts
from .objective import Objective, cell, out_of_patience, table_row
from .optim import clipped, parameter_groups, schedule, unfreeze
from .recipe import duration, measures, step_seconds
from .run_folder import RunFolder
from .tracking import Tracking


class Fit:
    """The training loop: Accelerate places the model, one process per device.

    An epoch is `_epoch`; what follows it, `_end_epoch`: the table, the tracker, and the model if it is the best. What a
    step minimises is the model's own `loss`; how the optimizer treats each part is in `optim`, what chooses the best
    epoch in `objective`.

    Args:
        model: To be trained in place.
        processor: Saved beside it.
        objective: How the model is measured, and by what its best epoch is chosen.
        folder: Of the run; the best epoch's model is kept there.
    """

    def __init__(
        self,
        model: DiptychModel,
        processor: DiptychProcessor,
        config: TrainConfig,
        objective: Objective,
        folder: RunFolder,
        console: Console = SILENT,
    ) -> None:
        self.model, self.processor, self.config, self.objective = model, processor, config, objective
        self.folder, self.console = folder, console
        AcceleratorState._reset_state()  # what an earlier Accelerator of this process was told would stay
        # a batch in which no row has an image gives the image encoder no gradient
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.accelerator = Accelerator(
            mixed_precision=config.precision, log_with=config.tracker, project_dir=folder.logs, kwargs_handlers=[unused]
        )
        self.tracking = Tracking(self.accelerator)
        self.progress = Progress()

    def run(
        self,
        rows: EpochRows,
        *,
        resume: bool = False,
        identity: dict[str, Any] | None = None,
        note: Callable[[], None] = lambda: None,
        after_epoch: Callable[[dict[str, Any]], None] = lambda epoch: None,
    ) -> list[dict[str, Any]]:
        """Train for all epochs; what each one cost and gave.

        Args:
            rows: To learn from, and to choose the best epoch by.
            resume: Resume from the newest whole checkpoint, if there is one.
            identity: What must be the same for that, by name.
            note: Called whenever there is something new to record.
            after_epoch: Called with the metrics of each epoch; what it raises ends the run.

        Raises:
            Interrupted: A signal came; where the run stands is saved.
            ValueError: The options don't fit together, or a loss or gradient is not finite.
            OSError: A checkpoint or the model cannot be written.
        """
        accelerator, config = self.accelerator, self.config
        self.tracking.begin(asdict(config))
        epochs = config.epochs or 1
        steps = epochs * self._plan(rows.training).steps
        groups = parameter_groups(self.model, config)
        optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay, fused=True)
        model, optimizer = accelerator.prepare(self.model, optimizer)
        rates = schedule(optimizer, steps=steps, warmup=config.warmup_ratio, epochs=epochs)
        checkpoints = Checkpoints(
            folder=self.folder.checkpoints,
            accelerator=accelerator,
            identity=identity or {},
            model=accelerator.unwrap_model(model),
            optimizer=optimizer,
            schedule=rates,
            keep=config.keep,
            say=self.console.print,
        )
        progress = self.progress = (checkpoints.load() if resume else None) or Progress()
        unfreeze(self.model, config, progress.epoch)
        batches, validating = self._batches(rows, progress.epoch)
        often: dict[str, Any] = {"steps": config.checkpoint_steps, "minutes": config.checkpoint_minutes}
        with StopSignals(processes=accelerator.num_processes) as signals:
            interrupts = Interrupts(accelerator, checkpoints, signals, **often)
            if not progress.start:
                progress.start = self.objective.measure(model, validating, accelerator, self.console)
            select = self.objective.select
            self.console.print(f"before training: {select} {cell(progress.start[select])}")
            if accelerator.num_processes == 1 and not progress.step:
                cost = duration(steps * step_seconds(self.model, batches))
                self.console.print(f"cost: about {cost} for {steps} steps, as fast as this machine is now")
            note()
            for epoch in range(progress.epoch, epochs + 1):
                if unfreeze(self.model, config, epoch):
                    self.console.print(f"epoch {epoch}: the chosen parts of pretrained encoders train from here on")
                    batches, validating = self._batches(rows, epoch)
                loss = self._epoch(model, optimizer, rates, batches, interrupts)
                if not measures(epoch, epochs):
                    progress.next_epoch()
                    interrupts.agree()
                    interrupts.checkpoint(progress)
                    continue
                fit_experts(model, validating, accelerator, self.objective.chooses)
                metrics = self.objective.measure(model, validating, accelerator, self.console)
                seconds = round(progress.seconds, 1)
                progress.end_epoch(
                    {"epoch": epoch, "train_loss": loss, "seconds": seconds, "select": select, **metrics}
                )
                self._end_epoch(model, metrics)
                note()
                after_epoch(progress.history[-1])
                if epoch < epochs:
                    if out_of_patience(progress.history, self.objective, config.patience, config.unfreeze_at):
                        self.console.print(
                            f"stopped after epoch {epoch}: {config.patience} without a better one (--patience)"
                        )
                        break
                    interrupts.agree()  # a signal may have come while the epoch was measured
                    interrupts.checkpoint(progress)
        self.tracking.end()
        if progress.problems:
            counts = ", ".join(f"{count} {status}" for status, count in progress.problems.items())
            self.console.print(f"rows that were not whole, in all epochs together: {counts}")
        return progress.history

    def validation_batches(self, rows: EpochRows, epoch: int) -> Batches:
        """This process's batches to measure by, as of `epoch`."""
        return self._batches(rows, epoch)[1]

    def _plan(self, data: PairSource) -> Plan:
        return Plan(
            len(data),
            self.config.batch_size,
            accumulate=self.config.gradient_accumulation_steps,
            process=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )

    def _batches(self, rows: EpochRows, epoch: int) -> tuple[Batches, Batches]:
        """This process's batches to train on and to validate with, as of `epoch`."""
        place = {"device": self.accelerator.device, "workers": self.config.workers}
        training, validation = rows.of(epoch)
        return (
            training.batches(self._plan(training), shuffle=True, **place),
            validation.batches(self._plan(validation), **place),
        )

    def _epoch(self, model: nn.Module, optimizer: Any, rates: Any, batches: Batches, interrupts: Interrupts) -> float:
        """The steps of an epoch that are left; the mean loss of all its steps."""
        accelerator, config, progress, plan = self.accelerator, self.config, self.progress, batches.plan
        model.train()
        started = time.monotonic() - progress.seconds
        done = progress.epoch_step * plan.accumulate
        bar = self.console.progress(
            batches.epoch(progress.epoch, skip=done),
            desc=f"epoch {progress.epoch}/{config.epochs}",
            unit="batch",
            initial=done,
            total=len(plan),
        )
        epoch_seed = draw_seed(config.seed, "rows", progress.epoch)
        total = torch.tensor(sum(progress.losses), device=accelerator.device)
        rows: list[int] = []  # of this step
        step_loss, finite = torch.zeros((), device=accelerator.device), True
        for batch in bar:
            here = batch.pop("rows")
            rows += here
            for _, status, _ in batch.pop("problems"):
                progress.count(status)
            # what is drawn follows from its place in the run, not from what was drawn before
            torch.manual_seed(draw_seed(config.seed, "dropout", progress.epoch, done, accelerator.process_index))
            draws = RowDraws(epoch_seed, here, accelerator.device)
            ends_step, share = plan.ends_step(done), plan.share(done)
            done += 1
            with contextlib.nullcontext() if ends_step else accelerator.no_sync(model):
                with draws:
                    loss = model(**batch).loss
                lost = not bool(loss.isfinite())
                if interrupts.agree(lost=lost):
                    finite = self._not_finite("loss", here if lost else [])
                loss = loss * share  # those of a step's micro-batches add up to its mean over the rows
                step_loss = step_loss + loss.detach()
                accelerator.backward(loss)
            if not ends_step:
                continue
            if finite:
                norm = accelerator.clip_grad_norm_(clipped(optimizer), config.max_grad_norm)
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
                interrupts.checkpoint(progress)
        return float(accelerator.reduce(total, "mean")) / max(1, progress.batches)

    def _end_epoch(self, model: nn.Module, metrics: dict[str, Any]) -> None:
        """Show how the last epoch was, and keep its model if no other was better."""
        history = self.progress.history
        self.console.print(table_row(history[-1], self.objective, heading=len(history) == 1))
        self.tracking.epoch(history[-1], self.progress.step)
        if self.objective.best(history) is history[-1]:
            if self.model.config.multi_label:
                self.model.config.set_thresholds(metrics["thresholds"])
            if self.accelerator.is_main_process:
                save_model(self.accelerator.unwrap_model(model), self.processor, self.folder.model)
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
