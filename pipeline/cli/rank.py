"""`diptych rank`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.options import READING, Reading
from ..runtime.files import entries_below, existing
from .command import command, option
from .options import BatchSize, Split
from .terminal import Show


def texts_of(sources: Sequence[str]) -> list[str]:
    """The texts that the command line names: each a text itself, or a file with one on each line.

    Raises:
        ValueError: There are none, or one looks like the name of a file that is not there.
    """
    from ..data.text_files import read_whole

    for source in sources:
        if re.fullmatch(r"\S+\.(txt|text|csv|tsv|json|jsonl|md)", source.strip(), re.IGNORECASE) and not existing(
            source
        ):
            raise ValueError(f"--texts is {source}, and there is no such file: give its path, or the text itself")

    def lines(file: Path) -> list[str]:
        return [line for line in read_whole(file).splitlines() if line.strip()]

    return _opened(sources, Path.is_file, lines, "texts to rank: give --texts, a text or a file with one on each line")


def images_of(sources: Sequence[str]) -> list[str]:
    """The image files that the command line names: each a file, or a folder of them.

    Raises:
        ValueError: There are none.
    """
    from ..data.image_source import IMAGE_SUFFIXES

    def images(folder: Path) -> list[str]:
        files = sorted(file for file in entries_below(folder) if file.suffix.lower() in IMAGE_SUFFIXES)
        return [str(file) for file in files if not any(p.startswith(".") for p in file.relative_to(folder).parts)]

    return _opened(sources, Path.is_dir, images, "images to rank: give --images, a file or a folder of them")


def _opened(
    sources: Sequence[str], holds: Callable[[Path], bool], inside: Callable[[Path], list[str]], what: str
) -> list[str]:
    """Each source itself, or what is inside it if it is a place that holds several."""
    found: list[str] = []
    for source in sources:
        place = existing(source)
        found += inside(place) if place is not None and holds(place) else [source]
    if not found:
        raise ValueError(f"there are no {what}")
    return found


@command(
    Reading,
    needs={"data": ["split", "batch_size", *READING], "image": ["texts"], "text": ["images"], "image, text": ["top"]},
)
def rank(
    show: Show,
    model: Annotated[str, typer.Argument(help="A model trained with --objective align or --alignment-weight.")],
    image: Annotated[str | None, option("An image file, to rank --texts for.")] = None,
    texts: Annotated[
        list[str] | None,
        option("A text, or a file with one on each line; give it as often as you like."),
    ] = None,
    text: Annotated[str | None, option("A sentence, to rank --images for.")] = None,
    images: Annotated[list[str] | None, option("An image file, or a folder of them; as often as you like.")] = None,
    data: Annotated[str | None, option("Pairs, as for train: measure how well each modality finds the other.")] = None,
    split: Split = None,
    top: Annotated[int, option("How many to show.")] = 10,
    batch_size: BatchSize = 64,
    **reading: Any,
) -> None:
    """Rank texts for an image, or images for a text.

    Or measure both on a table, with --data.
    """
    asked = [name for name, value in (("--image", image), ("--text", text), ("--data", data)) if value is not None]
    if len(asked) != 1:
        raise ValueError(
            "give one of --image (with --texts), --text (with --images) and --data; "
            f"got {' and '.join(asked) or 'none of them'}"
        )
    if text is not None and existing(text):
        raise ValueError(f"--text is {text}, which is a file or a folder: give the sentence itself")
    if data is not None:
        from ..evaluation.retrieval import rank_table

        how: dict[str, Any] = {"split": split, "batch_size": batch_size, "say": show.remark, "quiet": show.quiet}
        metrics = rank_table(model, data, **how, **reading)
        show.result(metrics, ranking_text)
        return
    from ..inference.classifier import ImageTextClassifier

    classifier = ImageTextClassifier.from_pretrained(model)
    if image is not None:
        candidates = classifier.rank(image=image, texts=texts_of(texts or []), top=top)
    else:
        candidates = classifier.rank(text=text, images=images_of(images or []), top=top)
    for candidate in candidates:
        show.result(candidate, ranked_line)
    if all(candidate["score"] is None for candidate in candidates):
        raise ValueError("no candidate could be used: the reason stands beside each")


def ranking_text(metrics: dict[str, Any]) -> str:
    """Recall in both directions and zero-shot accuracy, each compared with chance."""
    lines = [
        f"{metrics['rows']} rows, {metrics['images']} images and {metrics['texts']} texts; {metrics['columns']}",
        f"{'':28}{'':>10}{'chance':>10}{'times':>8}",
    ]
    keys = [(key, f"{key}_chance") for key in metrics if "_recall_at_" in key and not key.endswith("_chance")]
    keys += [("zero_shot_accuracy", "zero_shot_chance")] if "zero_shot_accuracy" in metrics else []
    for key, chance in keys:
        name = key.replace("_at_", "@").replace("_", " ")
        name += f" of {metrics['classes']}" if key == "zero_shot_accuracy" else ""
        lines.append(f"{name:28}{metrics[key]:10.4f}{metrics[chance]:10.4f}{metrics[key] / metrics[chance]:8.1f}")
    return "\n".join(lines)


def ranked_line(candidate: Any) -> str:
    """Score, probability and the candidate; of one that cannot be used, why."""
    if candidate["score"] is None:
        return f"     -       -  {candidate['candidate']}: {candidate['reason']} ({candidate['status']})"
    return f"{candidate['score']:.4f}  {candidate['probability']:.4f}  {candidate['candidate']}"
