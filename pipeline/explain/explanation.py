"""`Explanation`: why a pair was classified as it was."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from PIL import Image
from torch import Tensor

from .faithfulness import Faithfulness


@dataclass(frozen=True)
class Word:
    """A word of the text.

    Attributes:
        start: Of its first character in the text.
        end: Behind its last character.
        value: What it adds to the log-odds of the class.
        looked_at: (rows, columns), how much it looked at each region; None where no attention tells.
    """

    start: int
    end: int
    value: float
    looked_at: list[list[float]] | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a pair was classified as it was.

    Attributes:
        label: The class that is explained: the predicted one.
        score: Its score.
        against: The class it is compared with; None for all others.
        scores: Of all classes, by name.
        method: By which places and words were weighed, one of `METHODS`.
        image_contribution: What the image adds to the log-odds of the label (a Shapley value).
        text_contribution: What the text adds.
        text: The text; None if there is none.
        words: Its words that the model reads.
        heat: (height, width), what each place adds to the log-odds; None without an image.
        seen: Box (left, top, right, bottom) of the photo that the model sees, as shares of its sides.
        faithfulness: How far to trust it.
        image: The photo, upright; None if there is none.
    """

    label: str
    score: float
    against: str | None
    scores: dict[str, float]
    method: str
    image_contribution: float
    text_contribution: float
    text: str | None
    words: list[Word]
    heat: Tensor | None = field(repr=False)
    seen: tuple[float, float, float, float]
    faithfulness: Faithfulness
    image: Image.Image | None = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Without the pictures, as JSON has it; `words` as `[word, value]`."""
        names = ["label", "score", "against", "method", "image_contribution", "text_contribution", "text"]
        words = [[(self.text or "")[word.start : word.end], word.value] for word in self.words]
        return {name: getattr(self, name) for name in names} | {
            "words": words,
            "faithfulness": self.faithfulness.to_dict(),
            "scores": self.scores,
        }
