"""From the rows of tables to features: what the cache holds is found there, what it lacks is encoded once and kept."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ...encoders.trainable import evaluating
from ..data.content import NOTHING, image_id
from ..data.image_source import BadImage
from ..data.images import image_content, image_errors, read_image
from ..data.rows import Columns, UnreadableRow, read_text
from ..model.image_processor import DiptychImageProcessor
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from ..runtime.console import SILENT, Console
from ..runtime.files import megabytes
from ..runtime.seeds import content_id
from .folder import require_room
from .store import DoesNotFit, FeatureStore, Places, item_id, trunk_key

if TYPE_CHECKING:
    from ..data.tables import Table

Problem = tuple[str, str]
"""A status and a reason."""

_BATCH = 64
"""Pictures or texts that are encoded at a time."""
_NO_WEIGHT = ("_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")
"""What a text encoder's configuration says of where it came from, and not of what it computes."""


@dataclass(frozen=True)
class RowsToEncode:
    """Rows of a table whose features are wanted."""

    table: Table
    columns: Columns
    rows: Sequence[int]


@dataclass(frozen=True)
class HalfFeatures:
    """The features of one half of a table's rows, images or texts, by row number.

    Attributes:
        store: Where they are.
        places: Of every row of the table; none for a row that has no such half, or was not asked for.
        problems: Of rows whose half is missing or cannot be used.
        ids: (rows of the table,), of 63 bits, equal where a text's word pieces are, and an image's pixels and their
            size; of images 0 if they were not asked for.
        grid: Height and width in regions, of images; None of texts.
    """

    store: FeatureStore
    places: Places
    problems: dict[int, Problem]
    ids: np.ndarray
    grid: tuple[int, int] | None = None

    def batch(self, rows: Sequence[int]) -> dict[str, Tensor]:
        """What the model takes in place of these rows' images or texts; the features in half precision."""
        if self.grid is not None:
            states, lengths = self.store.read(self.places, rows, tokens=math.prod(self.grid))
            features = states.transpose(1, 2).unflatten(2, self.grid)  # (batch, width, rows, columns)
            return {"image_features": features, "image_present": lengths > 0}
        states, lengths = self.store.read(self.places, rows)  # (batch, words, width)
        mask = (torch.arange(states.shape[1]) < lengths.unsqueeze(1)).long()
        return {"text_features": states, "attention_mask": mask, "text_present": lengths > 0}


class _Found(NamedTuple):
    """One row of one of the tables.

    Attributes:
        part: Which of the tables.
        row: Its number there.
        item: The id of what is to be encoded; empty if there is nothing, for which `problem` gives the reason.
        tokens: How many its features will be.
        problem: What is wrong with the row's half, if anything is.
        pieces: A text's word pieces, four bytes each.
    """

    part: int
    row: int
    item: bytes
    tokens: int
    problem: Problem | None = None
    pieces: bytes = b""


def encode_images(
    model: DiptychModel,
    processor: DiptychProcessor,
    wanted: Sequence[RowsToEncode],
    folder: Path,
    *,
    workers: int = 0,
    ids: bool = False,
    console: Console = SILENT,
) -> list[HalfFeatures] | None:
    """Features of the images of all these rows, each image encoded once, by one of all processes.

    Args:
        model: Its image trunk is frozen, and on the device that is to compute.
        wanted: Rows of one table or several.
        workers: Processes that decode, beside each that encodes.
        ids: Whether `HalfFeatures.ids` are wanted, for which every image is decoded.

    Returns:
        Features of each of `wanted`; None if half precision cannot hold them, which is then said.

    Raises:
        ValueError: The cache cannot be written to, or the disk is too small.
        OSError: A chunk cannot be written.
    """
    encoder, images = model.image_encoder, processor.image_processor
    transforms = {name: value for name, value in vars(images).items() if not name.startswith("_")}
    with torch.inference_mode(), evaluating(encoder):
        blank = torch.zeros(1, 3, images.height, images.width, device=model.device)
        rows, columns = encoder.encode(blank).shape[2:]
        folds = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in encoder.trunk.parameters())
        fast = encoder.folded() if folds else encoder  # differs by less than half precision keeps
    key = trunk_key(encoder.trunk, **encoder.facts, transforms=transforms)
    about = {"encoder": encoder.name, "grid": f"{rows} x {columns}", "transforms": transforms}
    store = FeatureStore(folder, key, width=encoder.width, about=about, say=console.print)

    def encode(share: list[_Found]) -> Iterator[tuple[bytes, Tensor | Problem]]:
        pictures = _Pictures([(wanted[one.part], one.row) for one in share], images)
        loader = DataLoader(pictures, batch_size=_BATCH, num_workers=workers, collate_fn=list)
        for start, batch in zip(range(0, len(share), _BATCH), loader, strict=True):
            here = [(one.item, pixels) for one, pixels in zip(share[start : start + _BATCH], batch, strict=True)]
            yield from ((item, pixels) for item, pixels in here if isinstance(pixels, tuple))
            whole = [(item, pixels) for item, pixels in here if isinstance(pixels, np.ndarray)]
            if whole:
                stacked = torch.from_numpy(np.stack([pixels for _, pixels in whole]))
                features = fast.encode(stacked.contiguous(memory_format=torch.channels_last).to(model.device))
                states = features.flatten(2).transpose(1, 2)  # (batch, regions, width)
                yield from zip((item for item, _ in whole), states, strict=True)

    found = _of_all_processes(wanted, lambda part, rows_: _image_items(part, rows_, wanted[part], rows * columns))
    bad = _complete(store, found, encode, encoder, "image", console)
    if bad is None:
        return None
    contents = _pixel_ids(wanted, found, console) if ids else {}
    return [_half(store, part, found, bad, len(of.table), contents, (rows, columns)) for part, of in enumerate(wanted)]


def encode_texts(
    model: DiptychModel,
    processor: DiptychProcessor,
    wanted: Sequence[RowsToEncode],
    folder: Path,
    *,
    console: Console = SILENT,
) -> list[HalfFeatures] | None:
    """Features of the texts of all these rows; args, returns and raises as for `encode_images`.

    A text is known by its word pieces: whatever changes in the tokenizer, no feature is out of date.
    """
    encoder = model.text_encoder
    facts = {name: value for name, value in encoder.trunk.config.to_dict().items() if name not in _NO_WEIGHT}
    about = {"encoder": f"{facts.get('model_type')}, {facts.get('num_hidden_layers')} layers of {encoder.width}"}
    if encoder.pool:
        about["encoder"] += ", mean over the words"
    key = trunk_key(encoder.trunk, text=facts, pool=encoder.pool, **({"ids": True} if encoder.keep_ids else {}))
    store = FeatureStore(folder, key, width=encoder.feature_width, about=about, say=console.print)
    pad = processor.tokenizer.pad_token_id or 0

    def encode(share: list[_Found]) -> Iterator[tuple[bytes, Tensor | Problem]]:
        share = sorted(share, key=lambda one: len(one.pieces))  # equal lengths together: nearly nothing is padded
        for start in range(0, len(share), _BATCH):
            here = share[start : start + _BATCH]
            sizes = torch.tensor([len(one.pieces) // 4 for one in here])  # in words
            ids = np.full((len(here), int(sizes.max())), pad, dtype=np.int64)
            for row, one in zip(ids, here, strict=True):
                row[: len(one.pieces) // 4] = np.frombuffer(one.pieces, dtype=np.int32)
            mask = (torch.arange(ids.shape[1]) < sizes.unsqueeze(1)).long()
            states = encoder.encode(
                torch.from_numpy(ids).to(model.device), mask.to(model.device)
            )  # (batch, words, width), or (batch, 1, width)
            yield from ((one.item, own[: one.tokens]) for one, own in zip(here, states, strict=True))

    found = _of_all_processes(wanted, lambda part, rows: _text_items(part, rows, wanted[part], processor, encoder.pool))
    bad = _complete(store, found, encode, encoder, "text", console)
    if bad is None:
        return None
    contents = {one.item: content_id(one.pieces) for one in found if one.item}
    return [_half(store, part, found, bad, len(of.table), contents) for part, of in enumerate(wanted)]


def _of_all_processes(
    wanted: Sequence[RowsToEncode], read: Callable[[int, Sequence[int]], Iterable[_Found]]
) -> list[_Found]:
    """What `read` finds in all rows, each read by one of the processes; the same list in all of them."""
    state = PartialState()
    mine = [
        one for part, of in enumerate(wanted) for one in read(part, of.rows[state.process_index :: state.num_processes])
    ]
    return list(gather_object(mine))


def _image_items(part: int, rows: Sequence[int], of: RowsToEncode, tokens: int) -> Iterator[_Found]:
    for row in rows:
        values = of.table.rows[row]
        try:
            if isinstance(values, UnreadableRow):
                raise BadImage("row_unreadable", values.reason)
            item = item_id(*image_content(of.columns.image_of(values), folder=of.table.folder))
        except BadImage as error:
            problem = (error.status, str(error))
            yield _Found(part, row, b"", 0, None if of.columns.image is None else problem)
        else:
            yield _Found(part, row, item, tokens)


def _text_items(
    part: int, rows: Sequence[int], of: RowsToEncode, processor: DiptychProcessor, pool: bool
) -> Iterator[_Found]:
    for start in range(0, len(rows), 1024):
        here = rows[start : start + 1024]
        read: list[tuple[str | None, Problem | None]] = []
        for row in here:
            values = of.table.rows[row]
            unreadable = ("row_unreadable", values.reason) if isinstance(values, UnreadableRow) else None
            read.append((None, unreadable) if unreadable else read_text(of.columns.text_of(values)))
        texts = [text for text, _ in read if text is not None]
        pieces = iter(processor.pieces_or_problems(texts))
        for row, (text, problem) in zip(here, read, strict=True):
            found = None if text is None else next(pieces)
            if found is None or len(found) == 2:
                yield _Found(part, row, b"", 0, None if of.columns.text is None else found or problem)
            else:
                ids = np.array(found[0], dtype=np.int32).tobytes()
                tokens = 1 if pool else len(ids) // 4
                yield _Found(part, row, item_id(ids), tokens, None, ids)


def _pixel_ids(wanted: Sequence[RowsToEncode], found: Sequence[_Found], console: Console) -> dict[bytes, int]:
    """The content of each image, by its item: files that hold the same pixels have the same."""
    state = PartialState()
    distinct = {one.item: one for one in found if one.item}.values()
    mine = [one for one in distinct if one.item[0] % state.num_processes == state.process_index]
    ids = []
    for one in console.progress(mine, desc="comparing images", unit="image"):
        of = wanted[one.part]
        with contextlib.suppress(BadImage):
            source = of.columns.image_of(of.table.rows[one.row])
            ids.append((one.item, image_id(read_image(source, folder=of.table.folder))))
    return dict(gather_object(ids))


def _complete(
    store: FeatureStore,
    found: Sequence[_Found],
    encode: Callable[[list[_Found]], Iterator[tuple[bytes, Tensor | Problem]]],
    encoder: nn.Module,
    what: str,
    console: Console,
) -> dict[bytes, Problem] | None:
    """Bring into the store what it lacks of `found`, each process its share.

    Returns:
        Items that cannot be encoded, and why; None if half precision cannot hold a feature.

    Raises:
        ValueError: The cache cannot be written to, or the disk is too small.
        OSError: A chunk cannot be written.
    """
    store.refresh()
    distinct = {one.item: one for one in found if one.item}
    new = [one for item, one in distinct.items() if item not in store]
    tokens, tokens_new = (sum(one.tokens for one in ones) for ones in (distinct.values(), new))
    size = 2 * store.width
    console.print(
        f"features of {len(found):,} {what}s: {len(distinct):,} different ones, {len(new):,} of them new; "
        f"{megabytes(tokens * size)} in {store.folder}"
    )
    state = PartialState()
    bad: dict[bytes, Problem] = {}
    failure: tuple[bool, str] | None = None
    if new:
        require_room(store.folder.parent, tokens_new * size)
    # by its id, not its place in the list: another run may have written some that only one process has seen
    mine = [one for one in new if one.item[0] % state.num_processes == state.process_index]
    if mine:
        bar = console.progress(total=len(mine), desc=f"{what} features", unit=what)
        try:
            with torch.inference_mode(), evaluating(encoder), store.writer() as writer, bar:
                for item, features in encode(mine):
                    bar.update()
                    if isinstance(features, Tensor):
                        writer.add(item, features)
                    else:
                        bad[item] = features
        except DoesNotFit as error:
            failure = (True, f"the {what} features are not cached: {error}")
        except OSError as error:
            failure = (False, f"the feature cache in {store.folder} cannot be written: {error.strerror or error}")
    failures = [one for one in gather_object([failure]) if one is not None]
    if any(not cannot_hold for cannot_hold, _ in failures):
        raise OSError(next(reason for cannot_hold, reason in failures if not cannot_hold))
    if failures:
        console.print(failures[0][1])
        return None
    store.refresh()
    return dict(gather_object(list(bad.items())))


def _half(
    store: FeatureStore,
    part: int,
    found: Sequence[_Found],
    bad: dict[bytes, Problem],
    rows: int,
    contents: Mapping[bytes, int],
    grid: tuple[int, int] | None = None,
) -> HalfFeatures:
    items: list[bytes | None] = [None] * rows
    ids = np.zeros(rows, dtype=np.int64)
    problems = {}
    for one in found:
        if one.part == part:
            items[one.row] = one.item or None
            problem = one.problem or bad.get(one.item)
            if problem is not None:
                problems[one.row] = problem
            else:
                ids[one.row] = contents.get(one.item, NOTHING)
    return HalfFeatures(store, store.find(items), problems, ids, grid)


class _Pictures(Dataset[Any]):
    """Pixel values (3, height, width) of one row each, or why there are none.

    They are arrays, which workers hand over through a pipe: of tensors each would take shared memory and a handle.
    """

    def __init__(self, rows: list[tuple[RowsToEncode, int]], processor: DiptychImageProcessor) -> None:
        self.rows, self.processor = rows, processor

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> np.ndarray | Problem:
        of, row = self.rows[index]
        try:
            source, enough = of.columns.image_of(of.table.rows[row]), self.processor.needed_size
            image = read_image(source, folder=of.table.folder, at_least=enough)
            with image_errors():
                return self.processor.normalize(self.processor.resize(image)).numpy()
        except BadImage as error:
            return error.status, str(error)
