"""From tables to batches of tensors, with augmentation in training."""

from __future__ import annotations

import hashlib
import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms import v2

from ..data.rows import Columns, Pair, all_reasons, read_pair, worst_status
from ..model.processor import DiptychImageProcessor, DiptychProcessor
from .plan import Plan

if TYPE_CHECKING:
    from ..data.tables import Table
    from ..feature_cache.encode import HalfFeatures

_SIDES = re.compile(r"\b(left|right)(most|ward|wards|-hand)?\b", re.IGNORECASE)


@dataclass(frozen=True)
class Example:
    """One row, ready to be batched: pixel values (3, height, width) or None, text or None, class index or None.

    A half whose features are known is None here; `Collate` gets them by the row's number.

    Of a multi-label row the label is a tuple: for each class 1 if it is there, else 0.

    `image_id` and `text_id` are hashes of the contents, None unless asked for.
    """

    row: int
    pixel_values: Tensor | None
    text: str | None
    label: int | tuple[int, ...] | None
    status: str
    reason: str
    image_id: int | None = None
    text_id: int | None = None


class Augmentation:
    """Random changes of a training picture that leave its meaning alone.

    Args:
        processor: Says the size that comes out.
        flip: Mirror left and right, one time in two.
        crop: Cut out 70 to 100 % of the area, with its proportions changed by up to a fifth.
        colour: Change brightness, contrast and saturation by up to a fifth; never the hue.
    """

    def __init__(self, processor: DiptychImageProcessor, *, flip: bool, crop: bool, colour: bool) -> None:
        self.processor = processor
        interpolation = v2.InterpolationMode(processor.interpolation)
        steps: list[Any] = [v2.RandomHorizontalFlip()] if flip else []
        if crop:
            proportions = processor.width / processor.height
            size = (processor.height, processor.width)
            ratio = (proportions / 1.2, proportions * 1.2)
            steps.append(v2.RandomResizedCrop(size, scale=(0.7, 1.0), ratio=ratio, interpolation=interpolation))
        if colour:
            steps.append(v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2))
        self.steps = v2.Compose(steps) if steps else None

    def __call__(self, image: Image.Image) -> Image.Image:
        """A picture of the size that the encoder sees, from one of any size."""
        image = self.processor.resize(image)  # first, so that a crop has the proportions that evaluation sees
        return self.steps(image) if self.steps is not None else image


class PairDataset(Dataset[Example]):
    """The rows of a table as examples, read when they are asked for.

    Args:
        table: Its rows can be asked for by number.
        columns: Which columns to read.
        labels: Class index of every row of the table, or a tuple as `Example` has; None if they have no labels.
        processor: Of the model.
        rows: Which rows to take, in this order; all if not given.
        augmentation: For training.
        ids: Whether to hash images and texts, so that equal ones can be told.
        seed: Of the augmentation. What is drawn follows from it, the epoch and the row, whichever process
            reads the row and whatever it has read before; `Batches` gives the epoch.
        augment_from: Epoch from which pictures are changed.

    Attributes:
        image_features: Where set, images are not read: these stand in for them.
        text_features: Likewise of texts.
    """

    def __init__(
        self,
        table: Table,
        columns: Columns,
        labels: Sequence[int] | Sequence[tuple[int, ...]] | None,
        processor: DiptychProcessor,
        *,
        rows: Sequence[int] | None = None,
        augmentation: Augmentation | None = None,
        ids: bool = False,
        seed: int = 0,
        augment_from: int = 1,
    ) -> None:
        self.table, self.columns, self.labels, self.ids, self.seed = table, columns, labels, ids, seed
        self.rows = range(len(table.rows)) if rows is None else rows
        self.image_processor = processor.image_processor
        self.augmentation, self.augment_from = augmentation, augment_from
        self.image_features: HalfFeatures | None = None
        self.text_features: HalfFeatures | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | tuple[int, int]) -> Example:
        epoch, index = index if isinstance(index, tuple) else (0, index)
        row = self.rows[index]
        pair, image, text = self._read(row), self.image_features, self.text_features
        pixel_values = None
        if pair.image is not None:
            pixel_values = self.image_processor.normalize(self._prepare(pair.image, epoch, row))
        problems = [*pair.problems, *(half.problems[row] for half in (image, text) if half and row in half.problems)]
        status, reason = "ok", ""
        if problems:
            no_image = pair.image is None if image is None else row in image.problems
            no_text = pair.text is None if text is None else row in text.problems
            problems = list(dict.fromkeys(problems))  # what is wrong with a row as a whole is wrong with both halves
            status, reason = worst_status(problems, none_left=no_image and no_text), all_reasons(problems)
        label = None if self.labels is None else self.labels[row]
        ids: tuple[int | None, int | None] = (None, None)
        if self.ids:
            image_id = content_id(pair.image.tobytes() if pair.image else b"") if image is None else image.ids[row]
            text_id = content_id((pair.text or "").encode()) if text is None else text.ids[row]
            ids = image_id, text_id
        return Example(row, pixel_values, pair.text, label, status, reason, *ids)

    def _read(self, row: int) -> Pair:
        """What is not known by its features; where both halves are, the table is not asked."""
        no_image, no_text = self.image_features is not None, self.text_features is not None
        if no_image and no_text:
            return Pair(row, None, None)
        # ids are those of whole pictures, however they are stored
        enough = None if self.ids else self.image_processor.needed_size
        values, folder = self.table.rows[row], self.table.folder
        return read_pair(row, values, self.columns, folder, at_least=enough, image=not no_image, text=not no_text)

    def _prepare(self, image: Image.Image, epoch: int, row: int) -> Image.Image:
        if self.augmentation is None or epoch < self.augment_from:
            return self.image_processor.resize(image)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the generator that all share
            torch.default_generator.manual_seed(draw_seed(self.seed, "augmentation", epoch, row))
            return self.augmentation(image)

    def fingerprint(self) -> str:
        """What tells these rows from others: their number, and a hash of labels and of a sample of the contents."""
        found = hashlib.blake2b(digest_size=8)
        labels = [None if self.labels is None else self.labels[row] for row in self.rows]
        found.update(repr((list(self.rows), labels)).encode())
        for index in range(0, len(self.rows), max(1, len(self.rows) // 16)):
            row = self.rows[index]
            pair = read_pair(row, self.table.rows[row], self.columns, self.table.folder)
            found.update(pair.image.tobytes() if pair.image else b"")
            found.update((pair.text or "").encode("utf-8", "surrogatepass"))
        return f"{len(self.rows)} rows ({found.hexdigest()})"


class Collate:
    """Batch examples for a model.

    Args:
        processor: Of the model.
        data: Where the examples come from, if it has features in place of a half.
    """

    def __init__(self, processor: DiptychProcessor, data: PairDataset | None = None) -> None:
        self.processor = processor
        self.image_features = None if data is None else data.image_features
        self.text_features = None if data is None else data.text_features

    def __call__(self, examples: list[Example]) -> dict[str, Any]:
        """The model's tensors, `rows`, their numbers, and `problems`: (row, status, reason) of rows that are not `ok`.

        With `labels`, `image_ids` and `text_ids`, (batch,) each, where the examples have them. Of no examples there
        are no tensors: nothing tells their shapes.
        """
        if not examples:
            return {"rows": [], "problems": []}
        batch: dict[str, Any] = {}
        rows = [e.row for e in examples]
        if self.image_features is not None:
            batch |= self.image_features.batch(rows)
        else:
            batch |= self.processor.image_processor([e.pixel_values for e in examples])
        if self.text_features is not None:
            batch |= self.text_features.batch(rows)
        else:
            batch |= self.processor.tokenize([e.text for e in examples])
        for name in ("label", "image_id", "text_id"):
            numbers = [getattr(e, name) for e in examples]
            if None not in numbers:
                batch[f"{name}s"] = torch.tensor(numbers)
        batch["rows"] = rows
        batch["problems"] = [(e.row, e.status, e.reason) for e in examples if e.status != "ok"]
        return batch


class Batches:
    """A process's batches of each epoch, as its plan shares them out, on its device.

    Args:
        data: The rows of all processes.
        plan: Of these rows.
        collate: From a list of examples to a batch.
        device: Where the tensors go.
        seed: Of the order, which follows from it and the epoch alone; None leaves the rows as they are.
        workers: Processes that read and prepare rows; 0 reads in this one, as it is where all features are known.
    """

    def __init__(
        self,
        data: PairDataset,
        plan: Plan,
        collate: Collate,
        *,
        device: torch.device | str = "cpu",
        seed: int | None = None,
        workers: int = 0,
    ) -> None:
        self.data, self.plan, self.collate, self.device = data, plan, collate, torch.device(device)
        self.shares = _Shares(plan, seed)
        if data.image_features is not None and data.text_features is not None:
            workers = 0  # to read them takes less than to hand them over
        self.loader: DataLoader[Any] = DataLoader(
            data,
            batch_sampler=self.shares,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=leave_signals_to_the_main_process,
            pin_memory=self.device.type == "cuda",
        )

    @classmethod
    def once(cls, data: PairDataset, collate: Collate, accelerator: Accelerator, *, batch_size: int) -> Batches:
        """To go through the rows once, in their order, so many at a time on each device."""
        process, processes = accelerator.process_index, accelerator.num_processes
        plan = Plan(len(data), batch_size * processes, process=process, processes=processes)
        return cls(data, plan, collate, device=accelerator.device)

    def __len__(self) -> int:
        """Passes forward of an epoch."""
        return len(self.plan)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self.epoch()

    def epoch(self, epoch: int = 1, *, skip: int = 0) -> Iterator[dict[str, Any]]:
        """The batches of an epoch but for the first `skip`, which are not read; what `Collate` gives, on the device."""
        self.begin(epoch, skip)
        for batch in self.loader:
            if "error" in batch:
                raise ValueError(batch["error"])
            if not batch["rows"]:  # tensors of no rows, of the shapes that they would have
                batch = {name: value[:0] for name, value in self.first().items()}
            yield {
                name: value.to(self.device, non_blocking=True) if isinstance(value, Tensor) else value
                for name, value in batch.items()
            }

    def begin(self, epoch: int, skip: int) -> None:
        """Say where the next reading starts."""
        self.shares.epoch, self.shares.skip = epoch, skip

    def first(self) -> dict[str, Any]:
        """A batch of one row."""
        return self.collate([self.data[0]])


class _Shares(Sampler[list[tuple[int, int]]]):
    """Of each pass forward what one process has, as (epoch, index) for `PairDataset`."""

    def __init__(self, plan: Plan, seed: int | None) -> None:
        self.plan, self.seed, self.epoch, self.skip = plan, seed, 1, 0

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        rows = range(self.plan.rows) if self.seed is None else order(self.plan.rows, seed=self.seed, epoch=self.epoch)
        for passed in islice(self.plan.passes(rows), self.skip, None):
            yield [(self.epoch, index) for index in self.plan.own(passed)]


def order(rows: int, *, seed: int, epoch: int) -> list[int]:
    """The order of so many rows in an epoch: it follows from the seed and the epoch alone."""
    generator = torch.Generator().manual_seed(draw_seed(seed, "order", epoch))
    return torch.randperm(rows, generator=generator).tolist()


def leave_signals_to_the_main_process(_: int) -> None:
    """For the processes of a loader: a signal to the whole group must not take them from under a run that saves."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def content_id(content: bytes) -> int:
    """A number of 63 bits, equal for equal contents."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") >> 1


def draw_seed(seed: int, *what: object) -> int:
    """The seed of one draw, such as (seed, "order", epoch): the same wherever and whenever it is made."""
    return content_id(repr((seed, *what)).encode())


def speaks_of_sides(texts: Sequence[Any]) -> bool:
    """True if at least one text in a hundred says left or right: then a mirrored picture would lie."""
    return sum(bool(_SIDES.search(text)) for text in texts if isinstance(text, str)) * 100 >= max(1, len(texts))
