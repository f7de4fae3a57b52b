"""From images and sentences to the tensors that a model takes."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from ..data.rows import not_tokenized
from ..runtime.locks import fork_safe_lock
from .config import DiptychConfig
from .image_processor import DiptychImageProcessor

TOKENIZING = fork_safe_lock()
"""A tokenizer cannot be used by one thread while another changes how it cuts."""
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

    def __init__(
        self, image_processor: DiptychImageProcessor, tokenizer: Any, max_length: int = 128, **kwargs: Any
    ) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)
        self.max_length = max_length
        tokenizer.padding_side = "right"  # real tokens first: the contract of Tokens

    def __call__(
        self,
        images: Sequence[Any] | None = None,
        text: Sequence[str | None] | None = None,
        *,
        padding: bool | str = True,
        return_tensors: str = "pt",
    ) -> BatchFeature:
        """Tensors for a model, of as many rows as there are images or texts; None stands for an absent modality.

        Args:
            images: Anything that `DiptychImageProcessor` takes; None if no row has an image.
            text: Sentences; None if no row has a text.
            padding: To the longest text (`True` or `longest`), or to `max_length`.
            return_tensors: `pt` or `np`.

        Returns:
            `pixel_values` (batch, 3, height, width), `image_present` (batch,), `input_ids` and
            `attention_mask` (batch, words), `text_present` (batch,).

        Raises:
            ValueError: There are neither images nor texts, not as many of one as of the other, or an option is out
                of its range.
        """
        if images is None and text is None:
            raise ValueError("give images, text, or both")
        if padding not in (True, "longest", "max_length"):
            raise ValueError(f"padding is {padding!r}; rows of a batch are padded: choose longest or max_length")
        if return_tensors not in ("pt", "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}; choose pt or np")
        if images is not None and not isinstance(images, (list, tuple)):
            images = [images]
        if isinstance(text, str):
            text = [text]
        images = [None] * len(text or []) if images is None else images
        text = [None] * len(images) if text is None else text
        if len(images) != len(text):
            raise ValueError(f"there are {len(images)} images and {len(text)} texts; give as many of each")
        words = self.tokenize(text, least=self.max_length if padding == "max_length" else 0)
        tensors: dict[str, Any] = {**self.image_processor(images), **words}
        if return_tensors == "np":
            tensors = {name: tensor.numpy() for name, tensor in tensors.items()}
        return BatchFeature(tensors)

    def beginning(self, text: str) -> str:
        """As much of a text as has the word pieces that are read; all of it but for very long ones."""
        return beginning(text, self.tokenizer, self.max_length)

    def tokenize(self, text: Sequence[str | None], *, least: int = 0) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (batch, words), padded to the longest, and `text_present` (batch,)."""
        pieces = self.word_pieces(["" if sentence is None else sentence for sentence in text])
        return self.padded(pieces, least) | {"text_present": torch.tensor([sentence is not None for sentence in text])}

    def word_pieces(self, text: Sequence[str]) -> list[list[int]]:
        """Ids of each text's word pieces, cut to `max_length`."""
        return [ids for ids, _ in self.pieces([self.beginning(sentence) for sentence in text])]

    def pieces_or_problems(self, text: Sequence[str]) -> list[tuple[list[int], int, bool] | tuple[str, str]]:
        """Of each text what `pieces` gives, and whether it was too long to count them all; or a status and a reason."""
        try:
            read = [self.beginning(sentence) for sentence in text]
            cuts = [len(start) < len(sentence) for start, sentence in zip(read, text, strict=True)]
            return [(*found, cut) for found, cut in zip(self.pieces(read), cuts, strict=True)]
        except Exception as error:  # of one text, which must not be that of all
            if len(text) > 1:
                return [one for sentence in text for one in self.pieces_or_problems([sentence])]
            return [not_tokenized(error)]

    def pieces(self, text: Sequence[str]) -> list[tuple[list[int], int]]:
        """Ids of each text's word pieces, cut to `max_length`, and how many there were before.

        What looks like a special token is text: where it was typed it is broken by a blank, and an id that comes of
        it all the same, by a normaliser or a vocabulary that holds it, is that of an unknown word.
        """
        if not text:
            return []
        typed = _special_tokens(tuple(self.tokenizer.all_special_tokens))
        texts = [typed.sub(lambda match: f"{match[0][0]} {match[0][1:]}", sentence) for sentence in text]
        options = {"truncation": True, "max_length": self.max_length, "verbose": False}
        with TOKENIZING:
            encoded = self.tokenizer(texts, return_attention_mask=False, **options)
        ids: list[list[int]] = encoded["input_ids"]
        lengths = [len(row) for row in ids]
        added, unknown = self.tokenizer.num_special_tokens_to_add(), self.tokenizer.unk_token_id
        special = set(self.tokenizer.all_special_ids) - {unknown}
        for index, row in enumerate(ids):
            if unknown is not None and sum(piece in special for piece in row) > added:
                with TOKENIZING:
                    (mask,) = self.tokenizer([texts[index]], return_special_tokens_mask=True, **options)[
                        "special_tokens_mask"
                    ]
                ids[index] = [
                    unknown if piece in special and not of_template else piece
                    for piece, of_template in zip(row, mask, strict=True)
                ]
            if len(row) < self.max_length:
                continue
            if encoded.encodings is None:  # of a tokenizer in Python, which throws the rest away
                with TOKENIZING:
                    lengths[index] = len(self.tokenizer(texts[index], verbose=False)["input_ids"])
            else:
                lengths[index] += sum(len(rest.ids) - added for rest in encoded.encodings[index].overflowing)
        return list(zip(ids, lengths, strict=True))

    def padded(self, pieces: Sequence[Sequence[int]], least: int = 0) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (batch, words) of ids as `pieces` gives them, padded to the longest."""
        words = max([least, *map(len, pieces)])
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[*row, *[pad] * (words - len(row))] for row in pieces], dtype=torch.long)
        lengths = torch.tensor([len(row) for row in pieces], dtype=torch.long)
        return {"input_ids": ids, "attention_mask": (torch.arange(words) < lengths.unsqueeze(1)).long()}


@functools.lru_cache
def _special_tokens(tokens: tuple[str, ...]) -> re.Pattern[str]:
    """Finds special tokens in a text; nothing if there are none."""
    return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")


def beginning(text: str, tokenizer: Any, pieces: int) -> str:
    """As much of a text as begins with the same word pieces as all of it, so many at least.

    It ends where a word ends, if there are words, and has twice as many pieces as asked for: those at the cut are not
    among them. Of what is longer than `LONGEST_TEXT` without them (blanks, or words that the tokenizer does not
    know and that have no end) the rest is left out.
    """
    end = LONG_TEXT
    while end < min(len(text), LONGEST_TEXT):
        cut = next((place for place in range(end, end // 2, -1) if text[place].isspace()), end)
        with TOKENIZING:
            enough = len(tokenizer(text[:cut], verbose=False)["input_ids"]) >= 2 * pieces
        if enough:
            return text[:cut]
        end *= 8
    return text[:LONGEST_TEXT]


AutoProcessor.register(DiptychConfig, DiptychProcessor)
