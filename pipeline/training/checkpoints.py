"""Checkpoints: all that a run needs to be resumed as if it had never stopped, in folders that are whole or not there.

`OUT/checkpoints/00000040` is where a run stood after 40 optimizer steps: `model.safetensors`, `optimizer.safetensors`,
`state.json` and the mark that says the size and hash of each. The state of random generators is not among them: every
draw follows from the seed and its place in the run (`draw_seed`).
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..runtime.files import megabytes, reason
from ..runtime.outputs import beside, damage_of, files_of, remove, remove_leftovers
from ..runtime.record import require_same

EARLIER_MARK = "manifest.json"
"""In a checkpoint of a version before 0.4: size and hash of each of its files."""


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: Optimizer steps taken, or skipped, in all epochs.
        epoch: The one it is in, from 1.
        epoch_step: Steps taken in it.
        batches: Steps of this epoch that were taken, not skipped.
        losses: The sum of their losses, of each process.
        seconds: Spent in this epoch.
        start: Metrics before training.
        history: Of each epoch that is over.
        problems: Rows that were not whole, by status, in all epochs and processes.
        pending: Those that this process has met since all told each other.
        skipped: Steps that were not taken, because a loss or gradient was not finite.
    """

    step: int = 0
    epoch: int = 1
    epoch_step: int = 0
    batches: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    start: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    problems: dict[str, int] = field(default_factory=dict)
    pending: dict[str, int] = field(default_factory=dict)
    skipped: int = 0

    def count(self, status: str) -> None:
        """Count a row that was not whole."""
        self.pending[status] = self.pending.get(status, 0) + 1

    def gather(self) -> None:
        """Add what every process has met to what all know; all must take part."""
        for met in gather_object([self.pending]):
            self.problems = dict(Counter(self.problems) + Counter(met))
        self.pending = {}

    def end_epoch(self, epoch: dict[str, Any]) -> None:
        """Keep what an epoch gave, and stand at the beginning of the next."""
        self.history.append(epoch)
        self.next_epoch()

    def next_epoch(self) -> None:
        """Stand at the beginning of the next epoch; all must take part."""
        self.gather()
        self.epoch, self.epoch_step, self.batches, self.losses, self.seconds = self.epoch + 1, 0, 0, [], 0.0


@dataclass(eq=False, kw_only=True)
class Checkpoints:
    """The checkpoints of one run: its main process writes and reads, all others hear from it.

    Attributes:
        folder: Where they are.
        identity: What a run must have in common with the one it resumes, by name.
        model: As `accelerator` unwraps it.
        optimizer: Prepared by `accelerator`; its state is saved tensor by tensor.
        keep: How many of the newest stay.
        say: What to do with each line for the user.
    """

    folder: Path
    accelerator: Accelerator
    identity: dict[str, Any]
    model: Any
    optimizer: Any
    schedule: Any
    keep: int
    say: Callable[[str], None]

    def save(self, progress: Progress) -> Path:
        """Write one beside the others and rename it into its place; then remove what is older than the last `keep`.

        Raises:
            OSError: It cannot be written; those that were there stay.
        """
        path = self.folder / f"{progress.step:08d}"
        failed: list[str | None] = [None]
        progress.gather()
        losses = gather_object(progress.losses)
        if self.accelerator.is_main_process:
            try:
                self._write(path, progress, losses)
                self._prune(progress.step)
            except OSError as error:
                failed = [str(error)]
        if broadcast_object_list(failed)[0] is not None:
            raise OSError(failed[0])
        return path

    def load(self) -> Progress | None:
        """Go to the newest whole checkpoint: put model, optimizer and schedule there; None if there is none.

        Raises:
            ValueError: It is of a run with other data, another model or other options.
        """
        found: list[Any] = [None, None]
        if self.accelerator.is_main_process:
            try:
                found[0] = self._read()
            except (ValueError, OSError) as error:
                found[1] = str(error)
        found = broadcast_object_list(found)
        if found[1] is not None:
            raise ValueError(found[1])
        if found[0] is None:
            return None
        weights, moments, state = found[0]
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(_joined(moments, state["optimizer"]))
        self.schedule.load_state_dict(state["schedule"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        progress = Progress(**state["progress"])
        here, losses = self.accelerator.num_processes, progress.losses
        if losses and len(losses) != here:
            # a shared batch is the same however many share it, but what dropout draws for it is not
            self.say(
                f"the run had {len(losses)} processes and has {here} now: it is resumed, but not bit for bit as before"
            )
            losses = [sum(losses) / len(losses)] * here
        progress.losses = losses[self.accelerator.process_index :][:1]
        return progress

    def _read(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]] | None:
        for path in reversed(checkpoint_folders(self.folder)):
            damage = damage_of(path)
            if damage is not None:
                self.say(f"skipping the checkpoint {path}: {damage}")
                continue
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            require_same(state["identity"], self.identity, self.folder.parent)
            self.say(f"resuming from {path}")
            return load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors"), state
        self.say(f"no whole checkpoint in {self.folder}: starting from the beginning")
        return None

    def _write(self, path: Path, progress: Progress, losses: list[float]) -> None:
        weights = {name: tensor.detach().contiguous() for name, tensor in self.model.state_dict().items()}
        moments, rest = _split(self.optimizer.state_dict())
        scaler = self.accelerator.scaler
        state = {
            "identity": self.identity,
            "progress": asdict(progress) | {"losses": losses},
            "optimizer": rest,
            "schedule": self.schedule.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        text = json.dumps(state)
        needed = len(text) + sum(t.numel() * t.element_size() for t in (*weights.values(), *moments.values()))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(self.folder).free < needed:  # said before minutes are spent on writing
                raise OSError("the disk is full")
            with beside(path) as new:
                new.mkdir()
                save_file(weights, new / "model.safetensors")
                save_file(moments, new / "optimizer.safetensors")
                (new / "state.json").write_text(text, encoding="utf-8")
        except (OSError, SafetensorError) as error:
            raise OSError(self._no_room(path, needed, error)) from error

    def _no_room(self, path: Path, needed: int, error: Exception) -> str:
        stays, free = "the last good one cannot be told", "an unknown amount"
        with contextlib.suppress(OSError):
            whole = [p for p in checkpoint_folders(self.folder) if damage_of(p) is None]
            stays = f"the last good one is {whole[-1]}" if whole else "there is none before it"
            there = self.folder if self.folder.exists() else self.folder.parent
            free = megabytes(shutil.disk_usage(there).free)
        return (
            f"the checkpoint {path} cannot be written ({reason(error)}): it needs {megabytes(needed)}, {free} are "
            f"free; {stays}. Make room, then resume with --resume"
        )

    def _prune(self, step: int) -> None:
        """Remove all but the last `keep` up to `step`, and those of later steps, which were damaged."""
        paths = checkpoint_folders(self.folder)
        earlier = [path for path in paths if int(path.name) <= step]
        for path in {*paths} - {*earlier[-self.keep :]}:
            remove(path)
        remove_leftovers(self.folder)


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, whole or not, by step; folders of others are none."""
    paths = folder.iterdir() if folder.is_dir() else ()
    ours = (path for path in paths if path.name.isdigit() and files_of(path) is not None)
    return sorted(ours, key=lambda path: int(path.name))


def earlier_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder` that a version before 0.4 wrote: they carry no mark, but a list of their files."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in paths if p.name.isdigit() and files_of(p) is None and (p / EARLIER_MARK).is_file())


def remove_checkpoints(folder: Path) -> int:
    """Remove all checkpoints in `folder`, and the folder if nothing else is in it; how many there were."""
    paths = checkpoint_folders(folder)
    for path in paths:
        remove(path)
    if folder.is_dir():
        remove_leftovers(folder)
        with contextlib.suppress(OSError):
            folder.rmdir()
    return len(paths)


def _split(optimizer: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of an optimizer's state, by parameter and name, and the rest of it, which JSON can hold."""
    tensors = {f"{i}.{name}": t.contiguous() for i, entry in optimizer["state"].items() for name, t in entry.items()}
    return tensors, {"param_groups": optimizer["param_groups"]}


def _joined(tensors: dict[str, Tensor], rest: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, **rest}
