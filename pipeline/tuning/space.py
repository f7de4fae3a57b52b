"""What a sweep searches: learning rates, fusions, and which parts of the trunks train."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...encoders.trainable import Encoder
from ..runtime.choices import FUSION_OPTIONS, FUSIONS
from ..training.config import OF_PARTS, TrainConfig

RATES = {"learning_rate": (1e-4, 3e-3), "encoder_learning_rate": (1e-5, 3e-4)}
"""Least and greatest; between them a logarithm is drawn. A sweep's values have three digits, as people write them."""


@dataclass(frozen=True)
class Freezing:
    """Which parts of the trunks train.

    Attributes:
        image: How many of the image trunk, from the top; None for all.
        text: How many of the text trunk, from the top; None for all.
        learned: Whether any of them is pretrained, and trains at the encoders' learning rate.
    """

    image: int | None
    text: int | None
    learned: bool

    @property
    def name(self) -> str:
        """`frozen`, or the parts of each trunk, such as `image 2, text 4`."""
        counts = {"image": self.image, "text": self.text}
        trained = [f"{trunk} {'all' if count is None else count}" for trunk, count in counts.items() if count != 0]
        return ", ".join(trained) or "frozen"


@dataclass(frozen=True)
class Space:
    """What a sweep may choose; of a list with one member there is nothing to choose.

    Attributes:
        rates: The learning rates that are searched, each with its range.
        fusions: Fusions; none where the model has its own, or reads none.
        freezings: Which parts train.
    """

    rates: Mapping[str, tuple[float, float]]
    fusions: Sequence[str]
    freezings: Sequence[Freezing]

    def described(self) -> dict[str, list[Any]]:
        """The names of what is searched; of a rate the least and greatest, of others all there are."""
        choices = {"fusion": list(self.fusions), "freezing": [freezing.name for freezing in self.freezings]}
        return {name: values for name, values in choices.items() if len(values) > 1} | {
            name: list(limits)
            for name, limits in self.rates.items()
            if name == "learning_rate" or any(freezing.learned for freezing in self.freezings)
        }

    def first(self) -> dict[str, Any]:
        """What training does by default, or comes closest to it: the first trial, that others are compared with."""
        wanted = {"fusion": "cross-modal", "freezing": self.freezings[0].name}
        return self.choose(
            lambda name, choices: wanted[name] if wanted[name] in choices else choices[0],
            lambda name, limits: float(getattr(TrainConfig, name)),
        )

    def choose(
        self, pick: Callable[[str, list[Any]], Any], draw: Callable[[str, tuple[float, float]], float]
    ) -> dict[str, Any]:
        """The parameters of a trial, by name.

        Args:
            pick: Chooses by name from a list.
            draw: Chooses by name between two limits.
        """
        described = self.described()
        chosen: dict[str, Any] = {
            name: pick(name, described[name]) for name in ("fusion", "freezing") if name in described
        }
        for name, limits in self.rates.items():
            if name == "learning_rate" or self.freezing(chosen).learned:
                chosen[name] = float(f"{draw(name, limits):.3g}")
        return chosen

    def freezing(self, parameters: Mapping[str, Any]) -> Freezing:
        """Which parts train in a trial."""
        name = parameters.get("freezing", self.freezings[0].name)
        return next(freezing for freezing in self.freezings if freezing.name == name)

    def options(self, parameters: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
        """The options of `train` for a trial: those that are `fixed`, and its parameters."""
        freezing = self.freezing(parameters)
        options = {**fixed, "unfreeze_image": freezing.image, "unfreeze_text": freezing.text}
        options |= {name: parameters[name] for name in RATES if name in parameters}
        if not freezing.learned:
            options = {name: value for name, value in options.items() if name not in OF_PARTS}
        fusion = parameters.get("fusion", self.fusions[0] if self.fusions else None)
        return options if fusion is None else {**options, "fusion": fusion}


def space_of(
    image: Encoder, text: Encoder, options: Mapping[str, Any], *, fusions: Sequence[str] | None = None
) -> Space:
    """What is left to search when `options` are fixed.

    Of a pretrained trunk nothing trains or its top third; of a random one all. Both trunks are as
    training finds them.

    Args:
        options: Of `train`, as the user gave them.
        fusions: From which to choose; all if not given.

    Raises:
        ValueError: An option doesn't go with the others, or nothing is left.
    """
    model = {**(options.get("architecture") or {}), **options}
    own = (
        f"the model {options['model']} has its own"
        if options.get("model") is not None
        else "to align reads none"
        if options.get("objective") == "align"
        else f"fusion is {model['fusion']}"
        if model.get("fusion") is not None
        else None
    )
    if fusions is not None and own:
        raise ValueError(f"fusions is {', '.join(fusions)}, but {own}: leave it out")
    needed = [able for name, able in FUSION_OPTIONS.items() if options.get(name) is not None]
    if model.get("pattern", "dense") not in (None, "dense"):
        needed.append(("self-attention",))
    possible = [fusion for fusion in FUSIONS if all(fusion in able for able in needed)]
    for fusion in fusions or ():
        if fusion not in possible:
            raise ValueError(f"fusions has {fusion!r}; choose from {', '.join(possible)}")
    if fusions is not None and not fusions:
        raise ValueError(f"fusions is empty; choose from {', '.join(possible)}")
    if own is None and fusions is None:
        fusions = possible

    def counts(encoder: Encoder, name: str) -> list[int | None]:
        if name in options:
            return [options[name]]
        return [0, max(1, round(len(encoder.parts()) / 3))] if encoder.pretrained else [None]

    freezings = [
        Freezing(i, t, learned=(image.pretrained and i != 0) or (text.pretrained and t != 0))
        for i in counts(image, "unfreeze_image")
        for t in counts(text, "unfreeze_text")
    ]
    if any(options.get(name, 1) != 1 for name in ("unfreeze_at", "layer_decay")):  # they go with parts that train
        freezings = [freezing for freezing in freezings if freezing.learned] or freezings
    rates = {name: limits for name, limits in RATES.items() if options.get(name) is None}
    space = Space(rates, tuple(dict.fromkeys(fusions or ())), freezings)
    if not space.described():
        raise ValueError("nothing is left to search: leave out learning_rate, encoder_learning_rate, or what freezes")
    return space
