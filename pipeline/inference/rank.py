"""Rank texts for an image, or images for a text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from numbers import Integral
from typing import Any, TypedDict

import torch

from ..data.image_source import BadImage
from ..data.images import read_image
from ..data.rows import read_text
from ..model.embed import embed_images, embed_texts
from ..model.model import DiptychModel
from ..model.processor import DiptychProcessor


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
        image: Whatever `read_image` takes.
        texts: Candidates for the image.
        images: Candidates for the text.
        top: How many to give; all if not given.

    Raises:
        ValueError: It is not one image and texts or one text and images, the query cannot be used, or
            the model was trained without alignment.
    """
    if (image is None) == (text is None) or (texts is None) == (images is None) or (image is None) != (texts is None):
        raise ValueError("give an image and texts to rank for it, or a text and images")
    if top is not None and (not isinstance(top, Integral) or top < 1):
        raise ValueError(f"top is {top}; it must be a whole number of at least 1")
    given: Any = texts if images is None else images
    if isinstance(given, (str, bytes, os.PathLike)):
        raise ValueError(f"{'texts' if images is None else 'images'} is {given!r}, one alone: give a list")
    enough = processor.image_processor.needed_size
    candidates = list(given)
    if images is None:
        query = embed_images(model, processor, [read_image(image, at_least=enough)])
        of_texts = [read_text(candidate) for candidate in candidates]
        problems = [problem for _, problem in of_texts]
        usable = [words for words, problem in of_texts if words is not None]
        found = torch.cat([query[:0], *embed_texts(model, processor, usable)])  # (usable, dim)
    else:
        words, problem = read_text(text)
        if words is None:
            raise ValueError("the text to rank for cannot be used: " + (problem[1] if problem else ""))
        query = next(embed_texts(model, processor, [words]))
        parts, problems = [query[:0]], []
        for candidate in candidates:  # one after another, so that any number of them fits
            try:
                parts.append(embed_images(model, processor, [read_image(candidate, at_least=enough)]))
                problems.append(None)
            except BadImage as error:
                problems.append((error.status, str(error)))
        found = torch.cat(parts)
    scores = (found @ query[0]).cpu()  # (usable,)
    assert model.alignment is not None
    shares = (scores * model.alignment.scale.cpu()).softmax(dim=0).tolist()
    good = [index for index, problem in enumerate(problems) if problem is None]
    result = [
        Ranked(
            index=good[i],
            candidate=candidates[good[i]],
            score=float(scores[i]),
            probability=shares[i],
            status="ok",
            reason="",
        )
        for i in scores.argsort(descending=True, stable=True).tolist()  # of equal ones the first comes first
    ]
    result += [
        Ranked(index=i, candidate=candidates[i], score=None, probability=None, status=problem[0], reason=problem[1])
        for i, problem in enumerate(problems)
        if problem is not None
    ]
    return result[:top]
