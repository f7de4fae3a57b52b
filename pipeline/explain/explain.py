"""Explain one prediction: which places and which words speak for it, and how far to trust that."""

from __future__ import annotations

from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from ...encoders.trainable import evaluating
from ..data.images import read_image
from ..data.rows import read_text
from ..model.config import warn_of_left_out
from ..model.contributions import contributions
from ..model.model import DiptychModel, require_classes
from ..model.processor import DiptychProcessor
from ..model.scores import scores
from .explanation import Explanation, Word
from .faithfulness import measure_faithfulness
from .methods import METHODS
from .removal import Pair, log_odds

DEFAULT_METHOD = next(iter(METHODS))


def explain(
    model: DiptychModel,
    processor: DiptychProcessor,
    *,
    image: Any = None,
    text: str | None = None,
    against: str | None = None,
    method: str = DEFAULT_METHOD,
    seed: int = 0,
) -> Explanation:
    """Explain the class that is predicted for one pair.

    Args:
        model: With classes.
        image: Anything that `read_image` takes; None for none.
        text: A sentence; None for none.
        against: A class to compare the predicted one with; by default all others together.
        method: One of `METHODS`.
        seed: Of the random removals that faithfulness is compared with.

    Raises:
        BadImage: The image cannot be used.
        ValueError: There is neither image nor text, or no such method or class.
    """
    require_classes(model)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; choose one of {', '.join(METHODS)}")
    labels = model.config.labels
    if against is not None and against not in labels:
        raise ValueError(f"against is {against!r}; choose one of the model's classes: {', '.join(labels[:20])}")
    for name, given in (("image", image), ("text", text)):
        if name in model.config.left_out and given is not None:
            warn_of_left_out(name)
            image, text = (None, text) if name == "image" else (image, None)
    text, problem = read_text(text)
    if problem is not None and problem[0] == "text_unreadable":
        raise ValueError(problem[1])
    photo = None if image is None else read_image(image)
    if photo is None and text is None:
        raise ValueError("there is neither an image nor a text to explain; give one of them, or both")
    with evaluating(model):
        pair, spans = make_pair(processor, photo, text)
        with torch.no_grad():
            tokens = model.encode(pair.batch)
            output = model.fuse(*tokens, output_attentions=True, average_heads=True)
        logits = cast(Tensor, output.logits)
        (row,) = scores(logits, model.config, pair.modalities).tolist()
        label = max(range(len(row)), key=row.__getitem__)
        other = None if against is None else labels.index(against)
        if other == label:
            raise ValueError(f"against is {against!r}, which is the predicted class itself; choose another")
        attribution = METHODS[method](model, pair, log_odds(model, label, other))
        groups = [group for _, _, group in spans]
        looked = _looked_at(output.attentions, tokens[0].grid, pair)
        words = [
            Word(
                start,
                end,
                float(attribution.words[group].sum()) if attribution.words is not None else 0.0,
                None if looked is None else looked[[pair.words[piece] for piece in group]].mean(0).tolist(),
            )
            for start, end, group in spans
        ]
        share = contributions(model, *tokens)[1][0]
        share = share[:, label] if model.config.multi_label else share
        return Explanation(
            label=labels[label],
            score=row[label],
            against=against,
            scores=dict(zip(labels, row, strict=True)),
            method=method,
            image_contribution=float(share[0]),
            text_contribution=float(share[1]),
            text=text,
            words=words,
            heat=attribution.heat,
            seen=(0.0, 0.0, 1.0, 1.0) if photo is None else seen_box(processor, photo),
            faithfulness=measure_faithfulness(model, pair, attribution, groups, label, seed=seed),
            image=photo,
        )


def make_pair(
    processor: DiptychProcessor, photo: Image.Image | None, text: str | None
) -> tuple[Pair, list[tuple[int, int, list[int]]]]:
    """What the model reads of a pair, and its words: start and end in the text, and indices into `Pair.words`."""
    batch = dict(processor([photo], [text]))
    tokenizer = processor.tokenizer
    mask_id = next(
        (i for i in (tokenizer.mask_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id) if i is not None), 0
    )
    if text is None:
        return Pair(batch, mask_id, []), []
    encoding = tokenizer(text, truncation=True, max_length=processor.max_length, return_special_tokens_mask=True)
    special = encoding["special_tokens_mask"]
    places = [place for place, is_special in enumerate(special) if not is_special]
    spans: list[tuple[int, int, list[int]]] = []
    if encoding.encodings is None:  # a tokenizer in Python knows no places in the text: each piece for itself
        return Pair(batch, mask_id, places), [(0, len(text), list(range(len(places))))] if places else []
    offsets, numbers = encoding.encodings[0].offsets, encoding.encodings[0].word_ids
    last = None
    for index, place in enumerate(places):
        start, end = offsets[place]
        start += len(text[start:end]) - len(text[start:end].lstrip())
        if spans and numbers[place] is not None and numbers[place] == last:
            spans[-1] = (spans[-1][0], end, [*spans[-1][2], index])
        else:
            spans.append((start, end, [index]))
        last = numbers[place]
    return Pair(batch, mask_id, places), spans


def seen_box(processor: DiptychProcessor, photo: Image.Image) -> tuple[float, float, float, float]:
    """Box (left, top, right, bottom) that the model sees, as shares of a photo's sides; larger than it with bars."""
    transforms = processor.image_processor
    width, height = transforms.width, transforms.height  # of the whole photo, scaled as the model sees it
    if transforms.shortest_edge is not None:
        width, height = (int(transforms.shortest_edge * side / min(photo.size)) for side in photo.size)
    elif transforms.do_pad:
        scale = min(width / photo.width, height / photo.height)
        width, height = (max(1, round(side * scale)) for side in photo.size)
    left, top = (width - transforms.width) / 2 / width, (height - transforms.height) / 2 / height
    return (left, top, 1 - left, 1 - top)


def _looked_at(maps: dict[str, Tensor] | None, grid: tuple[int, int] | None, pair: Pair) -> Tensor | None:
    """How much each word looked at each region, (words, rows, columns), the mean over the layers."""
    if not maps or grid is None or not (pair.has_image and pair.has_text):
        return None
    regions = grid[0] * grid[1]
    words = pair.batch["input_ids"].shape[1]
    if "text_to_image" in maps:
        seen = maps["text_to_image"][0].mean(dim=(0, 1))  # (words, regions)
    elif "joint" in maps and maps["joint"].shape[-1] == 1 + regions + words:
        seen = maps["joint"][0].mean(dim=(0, 1))[1 + regions :, 1 : 1 + regions]
    elif "pairs" in maps:
        seen = maps["pairs"][0].mean(dim=(0, 1)).T
    else:
        return None
    return seen.reshape(-1, *grid) if seen.shape == (words, regions) else None
