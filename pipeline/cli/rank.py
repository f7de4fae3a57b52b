"""`diptych rank`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from .options import BatchSize, Debug, ImageColumn, Json, Quiet, Split, TextColumn
from .terminal import one_line_errors

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")


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


def rank(
    model: Annotated[str, typer.Argument(help="A model trained with --objective align or --alignment-weight.")],
    image: Annotated[str | None, typer.Option(help="An image file, to rank --texts for.")] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option(help="A text, or a file with one on each line; give it as often as you like."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="A sentence, to rank --images for.")] = None,
    images: Annotated[
        list[str] | None, typer.Option(help="An image file, or a folder of them; as often as you like.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Pairs, as for train: say how well each half finds the other.")
    ] = None,
    split: Split = None,
    image_column: ImageColumn = None,
    text_column: TextColumn = None,
    label_column: Annotated[
        str | None, typer.Option(help="With --data: also classify images by the names in this column, zero-shot.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many to show.")] = 10,
    batch_size: BatchSize = 64,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Rank texts for an image, images for a text, or measure both on a table."""
    with one_line_errors(debug):
        asked = [name for name, value in (("--image", image), ("--text", text), ("--data", data)) if value is not None]
        if len(asked) != 1:
            raise ValueError(
                "give one of --image (with --texts), --text (with --images) and --data; "
                f"got {' and '.join(asked) or 'none of them'}"
            )
        if data is not None:
            from ..evaluation.retrieval import rank_table

            figures = rank_table(
                model,
                data,
                split=split,
                image_column=image_column,
                text_column=text_column,
                label_column=label_column,
                batch_size=batch_size,
                quiet=quiet or as_json,
            )
            print(json.dumps(figures) if as_json else ranking_text(figures))
            return
        from ..data.values import to_json
        from ..inference.classifier import ImageTextClassifier

        classifier = ImageTextClassifier.from_pretrained(model)
        if image is not None:
            found = classifier.rank(image=image, texts=texts_of(texts or []), top=top)
        else:
            found = classifier.rank(text=text, images=images_of(images or []), top=top)
        for one in found:
            print(to_json(one) if as_json else ranked_line(one))


def ranking_text(figures: dict[str, Any]) -> str:
    """Recall in both directions and zero-shot accuracy, each beside chance."""
    lines = [
        f"{figures['rows']} rows, {figures['images']} images and {figures['texts']} texts; {figures['columns']}",
        f"{'':28}{'':>10}{'chance':>10}{'times':>8}",
    ]
    keys = [(key, f"{key}_chance") for key in figures if "_recall_at_" in key and not key.endswith("_chance")]
    keys += [("zero_shot_accuracy", "zero_shot_chance")] if "zero_shot_accuracy" in figures else []
    for key, chance in keys:
        name = key.replace("_at_", "@").replace("_", " ")
        name += f" of {figures['classes']}" if key == "zero_shot_accuracy" else ""
        lines.append(f"{name:28}{figures[key]:10.4f}{figures[chance]:10.4f}{figures[key] / figures[chance]:8.1f}")
    return "\n".join(lines)


def ranked_line(one: Any) -> str:
    """Score, probability and the candidate; of one that cannot be used, why."""
    if one["score"] is None:
        return f"     -       -  {one['candidate']}: {one['reason']} ({one['status']})"
    return f"{one['score']:.4f}  {one['probability']:.4f}  {one['candidate']}"
