"""From images and sentences to the tensors that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from .config import DiptychConfig

LONG_TEXT = 20_000
"""Characters: of a longer text no more is tokenized than tells the word pieces that are read of it."""
LONGEST_TEXT = 1_000_000
"""Characters, after which nothing is read: to tokenize them takes seconds and 100 MB."""


class DiptychProcessor(ProcessorMixin):
    """Image transforms and tokenizer of a model, saved in its folder.

    Args:
        image_processor: The image transforms.
        tokenizer: The text encoder's own.
        max_length: Longest text in word pieces, the two special ones included; the rest is cut.
    """

    def __init__(self, image_processor: Any, tokenizer: Any, max_length: int = 128, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_length = max_length
        tokenizer.padding_side = "right"  # real tokens first: the contract of Tokens

    def __call__(
        self, images: Sequence[Any] | None = None, text: Sequence[str | None] | None = None, **_: Any
    ) -> BatchFeature:
        """Tensors for a model, of as many rows as there are images or texts; None stands for an absent half.

        Args:
            images: Anything that `DiptychImageProcessor` takes; None if no row has an image.
            text: Sentences; None if no row has a text.

        Returns:
            `pixel_values` (batch, 3, height, width), `image_present` (batch,), `input_ids` and
            `attention_mask` (batch, words), `text_present` (batch,).

        Raises:
            ValueError: There are neither images nor texts, or not as many of one as of the other.
        """
        if images is None and text is None:
            raise ValueError("give images, text, or both")
        if images is not None and not isinstance(images, (list, tuple)):
            images = [images]
        if isinstance(text, str):
            text = [text]
        images = [None] * len(text or []) if images is None else images
        text = [None] * len(images) if text is None else text
        if len(images) != len(text):
            raise ValueError(f"there are {len(images)} images and {len(text)} texts; give as many of each")
        return BatchFeature({**self.image_processor(images), **self.tokenize(text)})

    def beginning(self, text: str) -> str:
        """As much of a text as has the word pieces that are read; all of it but for very long ones."""
        return beginning(text, self.tokenizer, self.max_length)

    def tokenize(self, text: Sequence[str | None]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (batch, words), padded to the longest, and `text_present` (batch,)."""
        words = self.tokenizer(
            ["" if sentence is None else self.beginning(sentence) for sentence in text],
            padding=True,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        present = torch.tensor([sentence is not None for sentence in text])
        return {"input_ids": words["input_ids"], "attention_mask": words["attention_mask"], "text_present": present}

    def word_pieces(self, text: Sequence[str]) -> list[list[int]]:
        """Word pieces of each text as `tokenize` gives them, cut but not padded."""
        if not text:
            return []
        texts = [self.beginning(sentence) for sentence in text]
        return list(self.tokenizer(texts, truncation=True, max_length=self.max_length)["input_ids"])

    def pieces(self, text: Sequence[str]) -> list[tuple[list[int], int]]:
        """Ids of each text's word pieces, cut to `max_length`, and how many there were before."""
        if not text:
            return []
        found = self.tokenizer(
            list(text), truncation=True, max_length=self.max_length, return_attention_mask=False, verbose=False
        )
        ids: list[list[int]] = found["input_ids"]
        lengths = [len(one) for one in ids]
        long = [index for index, length in enumerate(lengths) if length >= self.max_length]
        if found.encodings is None:  # of a tokenizer in Python, which throws the rest away
            for index, length in zip(long, self.lengths([text[index] for index in long]), strict=True):
                lengths[index] = length
        else:
            special = self.tokenizer.num_special_tokens_to_add()
            for index in long:
                lengths[index] += sum(len(rest.ids) - special for rest in found.encodings[index].overflowing)
        return list(zip(ids, lengths, strict=True))

    def padded(self, pieces: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (batch, words) of ids as `pieces` gives them, padded to the longest."""
        words = max(map(len, pieces))
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[*one, *[pad] * (words - len(one))] for one in pieces])
        lengths = torch.tensor([len(one) for one in pieces])
        return {"input_ids": ids, "attention_mask": (torch.arange(words) < lengths.unsqueeze(1)).long()}

    def lengths(self, text: Sequence[str]) -> list[int]:
        """Word pieces of each text, the special ones included, before any is cut."""
        if not text:
            return []
        return [len(ids) for ids in self.tokenizer(list(text), verbose=False)["input_ids"]]


def beginning(text: str, tokenizer: Any, pieces: int) -> str:
    """As much of a text as begins with the same word pieces as all of it, so many at least.

    It ends where a word ends, if there are words, and has twice as many pieces as asked for: those at the cut are not
    among them. Of what is longer than `LONGEST_TEXT` without them (blanks, or words that the tokenizer does not
    know and that have no end) the rest is left out.
    """
    end = LONG_TEXT
    while end < min(len(text), LONGEST_TEXT):
        cut = next((place for place in range(end, end // 2, -1) if text[place].isspace()), end)
        if len(tokenizer(text[:cut], verbose=False)["input_ids"]) >= 2 * pieces:
            return text[:cut]
        end *= 8
    return text[:LONGEST_TEXT]


AutoProcessor.register(DiptychConfig, DiptychProcessor)
