"""Rank texts for an image and images for a text, and say how well a model does it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm.auto import tqdm

from ..data.columns import find_columns, label_ids, label_names
from ..data.images import BadImage, read_image
from ..data.rows import read_text
from ..data.tables import load_tables, pick_split
from ..loading.loader import Batches, Collate, PairDataset
from ..loading.plan import gather_parts
from ..model.build import load_model
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor
from .retrieval_metrics import chance_recall_at, ranked, recall_at, zero_shot_accuracy

KS = (1, 5, 10)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


class Ranked(TypedDict):
    """One candidate.

    `index` is its place among those given, `candidate` what was given; `score` the cosine of its
    embedding and the query's, `probability` the softmax of all scores by the model's temperature.
    One that cannot be used comes last, without either, its `status` and `reason` as of a row.
    """

    index: int
    candidate: Any
    score: float | None
    probability: float | None
    status: str
    reason: str


def rank(
    model: DiptychModel,
    processor: DiptychProcessor,
    *,
    image: Any = None,
    text: str | None = None,
    texts: Sequence[Any] | None = None,
    images: Sequence[Any] | None = None,
    top: int | None = None,
) -> list[Ranked]:
    """Rank `texts` for an `image`, or `images` for a `text`; of labels' names: classify zero-shot.

    Args:
        model: Trained with alignment.
        processor: The model's own.
        image: Whatever `read_image` takes.
        text: A sentence.
        texts: Candidates for the image.
        images: Candidates for the text.
        top: How many to give; all if not given.

    Raises:
        ValueError: It is not one image and texts or one text and images, the query cannot be used, or
            the model was trained without alignment.
    """
    if (image is None) == (text is None) or (texts is None) == (images is None) or (image is None) != (texts is None):
        raise ValueError("give an image and texts to rank for it, or a text and images")
    if top is not None and top < 1:
        raise ValueError(f"top is {top}; it must be at least 1")
    enough = processor.image_processor.needed_size
    if images is None:
        query = _embed_images(model, processor, [read_image(image, at_least=enough)])
        of_texts = [read_text(candidate) for candidate in texts or ()]
        problems = [problem for _, problem in of_texts]
        usable = [words for words, problem in of_texts if words is not None]
        found = torch.cat([query[:0], *embed_texts(model, processor, usable)])  # (usable, dim)
    else:
        words, problem = read_text(text)
        if words is None:
            raise ValueError("the text to rank for cannot be used: " + (problem[1] if problem else ""))
        query = next(embed_texts(model, processor, [words]))
        parts, problems = [query[:0]], []
        for candidate in images:  # one after another, so that any number of them fits
            try:
                parts.append(_embed_images(model, processor, [read_image(candidate, at_least=enough)]))
                problems.append(None)
            except BadImage as error:
                problems.append((error.status, str(error)))
        found = torch.cat(parts)
    scores = (found @ query[0]).cpu()  # (usable,)
    assert model.alignment is not None
    shares = (scores * model.alignment.scale.cpu()).softmax(dim=0).tolist()
    candidates = list(texts or () if images is None else images)
    good = [index for index, problem in enumerate(problems) if problem is None]
    result = [
        Ranked(index=good[i], candidate=candidates[good[i]], score=score, probability=shares[i], status="ok", reason="")
        for i, score in (ranked(scores, len(good)) if good else [])
    ]
    result += [
        Ranked(index=i, candidate=candidates[i], score=None, probability=None, status=problem[0], reason=problem[1])
        for i, problem in enumerate(problems)
        if problem is not None
    ]
    return result[:top]


def texts_of(sources: Sequence[str]) -> list[str]:
    """The texts that the command line names: each a text itself, or a file with one on each line.

    Raises:
        ValueError: There are none.
    """
    found: list[str] = []
    for source in sources:
        file = Path(source) if len(source) < 1_000 and "\n" not in source else None
        if file is not None and file.is_file():
            found += [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        else:
            found.append(source)
    if not found:
        raise ValueError("there are no texts to rank: give --texts, a text or a file with one on each line")
    return found


def images_of(sources: Sequence[str]) -> list[str]:
    """The image files that the command line names: each a file, or a folder of them.

    Raises:
        ValueError: There are none.
    """
    found: list[str] = []
    for source in sources:
        if Path(source).is_dir():
            files = sorted(Path(source).rglob("*"))
            found += [str(file) for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
        else:
            found.append(source)
    if not found:
        raise ValueError("there are no images to rank: give --images, a file or a folder of them")
    return found


def rank_table(
    model: Any,
    data: Any,
    *,
    split: str | None = None,
    image_column: str | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
    batch_size: int = 64,
    quiet: bool = False,
) -> dict[str, Any]:
    """How well each image of a table finds its text among all distinct ones, and each text its image.

    Args:
        model: The folder of a model trained with alignment, or a Hub id.
        data: Whatever `load_tables` takes.
        split: Which split; `test` if there are several and none is named.
        image_column: The image column, if it cannot be told by name.
        text_column: The text column, likewise.
        label_column: If given, each image is also classified by which label's name is closest to it.
        batch_size: Rows per forward pass and device.
        quiet: Show no progress bar.

    Returns:
        `image_to_text_recall_at_10` and its like, in shares, each with `..._chance` beside it; with
        labels `zero_shot_accuracy` and `zero_shot_chance`, 1 / classes.

    Raises:
        ValueError: The model or the data is not usable; the message says why.
    """
    network, processor = load_model(model)
    tables = load_tables(data)
    table = pick_split(tables, split, default="test")
    columns = find_columns(table, image=image_column, text=text_column, label=label_column, need_label=False)
    names = label_names(table, columns.label) if columns.label else []
    labels = label_ids(table, columns.label, names) if columns.label else None
    accelerator = Accelerator()
    dataset = PairDataset(table, columns, labels, processor, ids=True)
    batches = Batches.once(dataset, Collate(processor), accelerator, batch_size=batch_size)
    found = _embed(network.to(accelerator.device), batches, accelerator, quiet=quiet)
    figures = {"rows": len(dataset), "columns": str(columns), **_recalls(found)}
    if names:
        aligned = accelerator.unwrap_model(network)
        classes = torch.cat([part.cpu() for part in embed_texts(aligned, processor, names, batch_size=batch_size)])
        seen = found["image_present"]
        figures["classes"] = len(names)
        figures["zero_shot_accuracy"] = zero_shot_accuracy(found["images"][seen] @ classes.T, found["labels"][seen])
        figures["zero_shot_chance"] = 1 / len(names)
    return figures


def measure_ranking(
    model: Any, batches: Iterable[dict[str, Any]], accelerator: Accelerator, *, quiet: bool = True
) -> dict[str, Any]:
    """Recall at 1, 5 and 10 in both directions over all rows of `batches`, beside chance."""
    was_training = model.training
    model.eval()
    found = _embed(model, batches, accelerator, quiet=quiet)
    model.train(was_training)
    return _recalls(found)


@torch.inference_mode()
def embed_texts(
    model: DiptychModel, processor: DiptychProcessor, texts: list[str], *, batch_size: int = 64
) -> Iterator[Tensor]:
    """Embeddings (batch, dim) of texts, batch by batch."""
    for start in range(0, len(texts), batch_size):
        words = processor.tokenize(texts[start : start + batch_size])
        yield model.embed_texts(words["input_ids"].to(model.device), words["attention_mask"].to(model.device))


@torch.inference_mode()
def _embed_images(model: DiptychModel, processor: DiptychProcessor, images: list[Any]) -> Tensor:
    """Embeddings (images, dim) of images that have been read."""
    return model.embed_images(processor.image_processor(images)["pixel_values"].to(model.device))


@torch.inference_mode()
def _embed(
    model: Any, batches: Iterable[dict[str, Any]], accelerator: Accelerator, *, quiet: bool
) -> dict[str, Tensor]:
    """Both halves' embeddings, ids and presence of all rows, each once however many processes share them."""
    aligned = accelerator.unwrap_model(model)
    parts: list[dict[str, Tensor]] = []
    rows: list[int] = []
    for batch in tqdm(batches, desc="embed", unit="batch", disable=True if quiet else None, leave=False):
        image, text = aligned.encode(batch)
        found = {
            "images": aligned.require_alignment().embed_image(image).float(),
            "texts": aligned.require_alignment().embed_text(text).float(),
            **{key: batch[key] for key in ("image_ids", "text_ids", "image_present", "text_present")},
            **({"labels": batch["labels"]} if "labels" in batch else {}),
        }
        parts.append({name: tensor.cpu() for name, tensor in found.items()})
        rows += batch["rows"]
    return gather_parts(parts, rows, accelerator)


def _recalls(found: dict[str, Tensor]) -> dict[str, Any]:
    """Recall in both directions, over rows that have both halves; equal images are one, equal texts too."""
    both = found["image_present"] & found["text_present"]
    if not bool(both.any()):
        raise ValueError("no row has both an image and a text: there is nothing to rank")
    images, image_of = _distinct(found["images"][both], found["image_ids"][both])
    texts, text_of = _distinct(found["texts"][both], found["text_ids"][both])
    belong = torch.zeros(len(images), len(texts), dtype=torch.bool)
    belong[image_of, text_of] = True
    similarity = images @ texts.T  # (images, texts)
    figures: dict[str, Any] = {"images": len(images), "texts": len(texts)}
    for direction, scores, right in (
        ("image_to_text", similarity, belong),
        ("text_to_image", similarity.T, belong.T),
    ):
        recalls, chances = recall_at(scores, right, KS), chance_recall_at(right, KS)
        for k in KS:
            figures[f"{direction}_recall_at_{k}"] = recalls[k]
            figures[f"{direction}_recall_at_{k}_chance"] = chances[k]
    return figures


def _distinct(embeds: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """One embedding for each distinct id, and for each row which one is its."""
    _, which = ids.unique(return_inverse=True)
    first = torch.full((int(which.max()) + 1,), len(ids)).scatter_reduce(0, which, torch.arange(len(ids)), "amin")
    return embeds[first], which
