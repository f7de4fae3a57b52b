"""The tokenizer of a text encoder, and whether the two fit."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from ...encoders import BertEncoder
from ...encoders.text import first_line, quiet_transformers

MAX_LENGTH = 128
"""Longest text in word pieces, where nobody says."""


def load_tokenizer(name_or_folder: str | Path) -> Any:
    """The tokenizer of a text encoder, from the Hub or a local folder.

    Raises:
        ValueError: There is none that can be used; the message says why.
    """
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(name_or_folder, trust_remote_code=False)
        require_words(tokenizer)
        return tokenizer
    except Exception as error:  # of a file that is none, too
        why = f"{first_line(error).rstrip('.')}; a text encoder's folder holds one"
        if any(Path(name_or_folder).glob("*.model")) and importlib.util.find_spec("sentencepiece") is None:
            why = "it is a SentencePiece model, and that package is not installed: pip install sentencepiece"
        raise ValueError(f"there is no tokenizer at {str(name_or_folder)!r} that can be used: {why}") from error


def require_words(tokenizer: Any) -> None:
    """See that a tokenizer knows words: without its file transformers makes one that doesn't, and says nothing.

    Raises:
        ValueError: It knows none.
    """
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ValueError("its tokenizer knows no words: tokenizer.json is missing")


def length_to_read(asked: int | None, longest: int, text_encoder: str) -> int:
    """The longest text in word pieces: what was asked for, else `MAX_LENGTH`, or what the encoder reads if less.

    Raises:
        ValueError: More was asked for than the encoder reads.
    """
    if asked is not None and asked > longest:
        raise ValueError(f"max_length is {asked}, but the text encoder {text_encoder} reads at most {longest}")
    return min(MAX_LENGTH, longest) if asked is None else asked


def require_fit(tokenizer: Any, encoder: BertEncoder, max_length: int) -> None:
    """See that no text can have an id or a position that its encoder has not.

    Args:
        tokenizer: Of the encoder.
        encoder: The text encoder.
        max_length: Longest text in word pieces.

    Raises:
        ValueError: They do not fit; the message says what to do.
    """
    rows = encoder.trunk.get_input_embeddings().num_embeddings
    highest = max(len(tokenizer) - 1, *tokenizer.added_tokens_decoder)
    if highest >= rows:
        raise ValueError(
            f"its tokenizer gives ids up to {highest}, and its text encoder has embeddings of {rows}: it is another "
            f"model's tokenizer, or tokens were added to it without model.resize_token_embeddings({highest + 1})"
        )
    pad = tokenizer.pad_token_id
    if pad is None:
        raise ValueError("its tokenizer has no pad token: name one (tokenizer.pad_token = ...) and save it again")
    if encoder.padding_id is not None and encoder.padding_id != pad:
        raise ValueError(
            f"its tokenizer pads with id {pad}, and its text encoder counts positions from padding id "
            f"{encoder.padding_id} on: it is another model's tokenizer"
        )
    special = tokenizer.num_special_tokens_to_add()
    longest = encoder.longest
    if max_length <= special or (longest is not None and max_length > longest):
        raise ValueError(
            f"its max_length is {max_length} word pieces; it must be at least {special + 1} ({special} are special)"
            + (f", and at most {longest}, for which its text encoder has positions" if longest else "")
        )
