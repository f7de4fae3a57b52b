"""`Reading`: how a table is read, and what to say where that must be chosen."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ..runtime.options import check_options, option

_option = partial(option, panel="Data")


@dataclass(frozen=True)
class Reading:
    """How to read a table; what is not given is found, and printed."""

    image_column: str | None = _option(None, "Column of the images, if not detected automatically.")
    text_column: str | None = _option(None, "Column of the texts; several are joined: premise+hypothesis.")
    label_column: str | None = _option(None, "Column of the labels, if not detected automatically.")
    image_folder: str | None = _option(None, "Folder of the image files, where cells hold names.")
    image_suffix: str | None = _option(None, "What image files end in, where cells leave it out, such as .jpg.")
    text_only: bool = _option(False, "Read no images.")
    image_only: bool = _option(False, "Read no texts.")
    config: str | None = _option(None, "Configuration of a Hub dataset.")
    revision: str | None = _option(None, "Branch, tag or commit of a Hub dataset.")

    def __post_init__(self) -> None:
        for name in ("image_column", "text_column", "label_column"):  # of a DataFrame they may be numbers
            if (column := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(column))
        check_options(self)
        if self.text_only and self.image_only:
            raise ValueError("--text-only and --image-only leave nothing to read: give one of them")
        for left, unread in (
            ("text_only", ("image_column", "image_folder", "image_suffix")),
            ("image_only", ("text_column",)),
        ):
            for name in unread:
                if getattr(self, left) and getattr(self, name) is not None:
                    raise ValueError(
                        f"{name} is {getattr(self, name)!r}, but with {left} it is not read: leave out one of them"
                    )
        if self.image_suffix and not self.image_suffix.startswith("."):
            object.__setattr__(self, "image_suffix", f".{self.image_suffix}")


READING = tuple(spec.name for spec in fields(Reading))
"""The names of these options."""


class OptionNeeded(ValueError):
    """Something that a user must choose, or do first.

    Attributes:
        options: What would do, by the name of the option, such as `label_column`.
        first: A command of the shell to be run before; empty if there is none.
        instead: What to give in place of the data, by what was given.
    """

    def __init__(
        self, reason: str, *, first: str = "", instead: Mapping[str, str] | None = None, **options: Any
    ) -> None:
        super().__init__(reason)
        self.first, self.instead, self.options = first, instead or {}, options

    def command(self, words: Sequence[str]) -> str:
        """The command, of whose words that would not do, that does; empty if none is known."""
        if not self.options and not self.first:
            return ""
        made = ["diptych", *(self.instead.get(word, word) for word in words)]
        for name, value in self.options.items():
            if value not in (None, ""):
                made += [f"--{name.replace('_', '-')}", str(value)]
        return " && ".join([*([self.first] if self.first else []), shlex.join(made)])
