"""Scenes: drawings of coloured shapes, with sentences that are true or false of them.

The data is made, not collected, so any number of rows can be had, and it is built so that neither
modality of a pair says anything alone. Rows come in quadruples of two scenes and two sentences:

                sentence S    sentence T
    scene A     true          false
    scene B     false         true

Every sentence occurs with a true and a false image and every image with a true and a false
sentence: whoever looks at one modality only is right half of the time, exactly.
"""

from __future__ import annotations

import io
import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from .drawing import COLOURS, SHAPES, Scene, Thing, draw_scene

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = ("existence", "binding", "relation", "counting")
LABELS = ("false", "true")
NUMBERS = ("zero", "one", "two", "three", "four")
MOST_SHAPES = 5
CLEAR = 0.2  # of the side: how far apart two centres are, at least, on the axis that a relation speaks of
_RADIUS = (0.085, 0.145)  # of the side
_GAP = 0.02  # of the side: between two shapes, and between a shape and the picture's edge
_TILT = 15.0  # degrees, either way
_SHADE = 22  # of 255: how far a colour channel strays from the colour's own value

_SOME_COLOUR = (
    "something is {colour}",
    "there is something {colour}",
    "there is a {colour} shape",
    "the picture shows something {colour}",
)
_SOME_SHAPE = (
    "there is a {shape}",
    "a {shape} is here",
    "the picture shows a {shape}",
    "one of the shapes is a {shape}",
)
_BOUND = (
    "there is a {colour} {shape}",
    "a {colour} {shape} is here",
    "the picture shows a {colour} {shape}",
    "one of the shapes is a {colour} {shape}",
    "there is a {shape} that is {colour}",
)
_COUNT_ONE_COLOUR = ("exactly one shape is {colour}", "there is exactly one {colour} shape")
_COUNT_COLOUR = (
    "exactly {number} shapes are {colour}",
    "there are exactly {number} {colour} shapes",
    "exactly {number} of the shapes are {colour}",
)
_COUNT_ONE_SHAPE = ("there is exactly one {shape}", "exactly one shape is a {shape}")
_COUNT_SHAPE = (
    "there are exactly {number} {shapes}",
    "exactly {number} shapes are {shapes}",
    "the picture shows exactly {number} {shapes}",
)
_RELATIONS = {
    "left": ("is left of", "is to the left of"),
    "right": ("is right of", "is to the right of"),
    "above": ("is above", "lies above"),
    "below": ("is below", "lies below"),
}
_RELATED = "the {0[0]} {0[1]} {relation} the {1[0]} {1[1]}"
_QUESTIONS = ("what colour is the {shape}", "which colour is the {shape}")

Look = tuple[str, str]  # colour, shape
Sentences = tuple[str, str]


@dataclass(frozen=True)
class Quadruple:
    """Two scenes and two sentences: the first sentence is true of the first scene only, the second of the second."""

    kind: str
    scenes: tuple[Scene, Scene]
    sentences: Sentences


def _spots(rng: random.Random, count: int) -> list[tuple[float, float, float]]:
    """Places for `count` shapes that do not touch: (x, y, radius) each."""
    while True:
        spots: list[tuple[float, float, float]] = []
        for _ in range(40 * count):
            radius = rng.uniform(*_RADIUS)
            edge = radius + _GAP
            x, y = rng.uniform(edge, 1 - edge), rng.uniform(edge, 1 - edge)
            if all(math.hypot(x - u, y - v) > radius + r + _GAP for u, v, r in spots):
                spots.append((x, y, radius))
                if len(spots) == count:
                    return spots


def _scene(rng: random.Random, looks: Sequence[Look]) -> Scene:
    """Puts things of these looks, in this order, anywhere."""
    things = []
    for (colour, shape), (x, y, radius) in zip(looks, _spots(rng, len(looks)), strict=True):
        red, green, blue = (min(255, max(0, c + rng.randint(-_SHADE, _SHADE))) for c in COLOURS[colour])
        things.append(Thing(colour, shape, x, y, radius, rng.uniform(-_TILT, _TILT), (red, green, blue)))
    light = rng.randint(232, 250)
    background = (light + rng.randint(-5, 5), light + rng.randint(-5, 5), light + rng.randint(-5, 5))
    return Scene(tuple(things), background)


def _looks(rng: random.Random, count: int, allowed: Callable[[str, str], bool]) -> list[Look]:
    """Draws `count` looks among the allowed ones."""
    pool = [(colour, shape) for colour in COLOURS for shape in SHAPES if allowed(colour, shape)]
    return rng.choices(pool, k=count)


def _existence(rng: random.Random) -> tuple[tuple[Scene, Scene], Sentences]:
    """One attribute that the other scene has nowhere."""
    same_family = rng.random() < 0.7
    family = rng.choice((tuple(COLOURS), tuple(SHAPES)))
    here, there = rng.sample(family if same_family else (*COLOURS, *SHAPES), 2)

    def scene(has: str, lacks: str) -> Scene:
        one = _looks(rng, 1, lambda *look: has in look and lacks not in look)
        rest = _looks(rng, rng.randint(1, MOST_SHAPES - 1), lambda *look: lacks not in look)
        return _scene(rng, one + rest)

    def sentence(attribute: str) -> str:
        if attribute in COLOURS:
            return rng.choice(_SOME_COLOUR).format(colour=attribute)
        return rng.choice(_SOME_SHAPE).format(shape=attribute)

    return (scene(here, there), scene(there, here)), (sentence(here), sentence(there))


def _binding(rng: random.Random) -> tuple[tuple[Scene, Scene], Sentences]:
    """The same two colours and two shapes in both scenes, bound crosswise."""
    (c, d), (s, t) = rng.sample(tuple(COLOURS), 2), rng.sample(tuple(SHAPES), 2)
    straight, crossed = [(c, s), (d, t)], [(c, t), (d, s)]

    def scene(pair: list[Look]) -> Scene:
        # Half of the distractors share a colour or a shape with what is asked about.
        close = rng.random() < 0.5
        rest = _looks(
            rng,
            rng.randint(0, MOST_SHAPES - 2),
            lambda *look: look not in straight + crossed and (not close or look[0] in (c, d) or look[1] in (s, t)),
        )
        return _scene(rng, pair + rest)

    def sentence(pair: list[Look]) -> str:
        colour, shape = rng.choice(pair)
        return rng.choice(_BOUND).format(colour=colour, shape=shape)

    return (scene(straight), scene(crossed)), (sentence(straight), sentence(crossed))


def _holds(scene: Scene, relation: str) -> bool | None:
    """Whether the scene's first thing stands so to its second; None where that is too close to tell."""
    first, second = scene.things[:2]
    offset = first.x - second.x if relation in ("left", "right") else first.y - second.y
    if abs(offset) < CLEAR:
        return None
    return (offset < 0) == (relation in ("left", "above"))


def _relation(rng: random.Random) -> tuple[tuple[Scene, Scene], Sentences]:
    """The same two things in both scenes, standing differently."""
    first, second = rng.sample([(colour, shape) for colour in COLOURS for shape in SHAPES], 2)
    opposite = {"left": "right", "right": "left", "above": "below", "below": "above"}
    here = rng.choice(tuple(_RELATIONS))
    there = opposite[here] if rng.random() < 0.5 else rng.choice([r for r in _RELATIONS if r != here])

    def scene(true: str, false: str) -> Scene:
        rest = _looks(rng, rng.randint(0, MOST_SHAPES - 2), lambda *look: look not in (first, second))
        while True:
            trial = _scene(rng, [first, second, *rest])
            if _holds(trial, true) is True and _holds(trial, false) is False:
                return trial

    def sentence(relation: str) -> str:
        # Either thing can come first: "x is left of y" says what "y is right of x" says.
        pair = (first, second)
        if rng.random() < 0.5:
            pair, relation = (second, first), opposite[relation]
        return _RELATED.format(*pair, relation=rng.choice(_RELATIONS[relation]))

    return (scene(here, there), scene(there, here)), (sentence(here), sentence(there))


def _counting(rng: random.Random) -> tuple[tuple[Scene, Scene], Sentences]:
    """The same attribute in both scenes, another number of times."""
    attribute = rng.choice(rng.choice((tuple(COLOURS), tuple(SHAPES))))
    here = rng.randrange(1, len(NUMBERS))
    others = [n for n in range(1, len(NUMBERS)) if n != here]
    near = [n for n in others if abs(n - here) == 1]
    there = rng.choice(near if rng.random() < 0.7 else others)

    def scene(number: int) -> Scene:
        counted = _looks(rng, number, lambda *look: attribute in look)
        rest = rng.randint(max(0, 2 - number), MOST_SHAPES - number)
        return _scene(rng, counted + _looks(rng, rest, lambda *look: attribute not in look))

    def sentence(number: int) -> str:
        if attribute in COLOURS:
            templates = _COUNT_ONE_COLOUR if number == 1 else _COUNT_COLOUR
            return rng.choice(templates).format(number=NUMBERS[number], colour=attribute)
        templates = _COUNT_ONE_SHAPE if number == 1 else _COUNT_SHAPE
        return rng.choice(templates).format(number=NUMBERS[number], shape=attribute, shapes=SHAPES[attribute])

    return (scene(here), scene(there)), (sentence(here), sentence(there))


_MAKERS = {"existence": _existence, "binding": _binding, "relation": _relation, "counting": _counting}


def make_quadruples(count: int, *, seed: int, kinds: Sequence[str] = KINDS) -> Iterator[Quadruple]:
    """Yields `count` quadruples, the kinds taking turns; the same seed gives the same ones.

    Raises:
        ValueError: `kinds` is empty or holds a kind that is not in `KINDS`.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise ValueError(f"kinds is {list(kinds)}: choose one or more of {', '.join(KINDS)}")
    rng = random.Random(f"scenes {seed}")
    for index in range(count):
        kind = kinds[index % len(kinds)]
        scenes, sentences = _MAKERS[kind](rng)
        yield Quadruple(kind, scenes, sentences)


def _png(scene: Scene, size: int) -> dict[str, bytes | None]:
    """A drawn scene as the `datasets` library keeps an image."""
    buffer = io.BytesIO()
    draw_scene(scene, size).save(buffer, "PNG", compress_level=1)
    return {"bytes": buffer.getvalue(), "path": None}


def make_scenes(rows: int, *, seed: int, kinds: Sequence[str] = KINDS, size: int = 64) -> Dataset:
    """Makes a dataset of pairs: columns `image`, `text`, `label` ("false", "true") and `kind`, in random order.

    Args:
        rows: how many pairs, a multiple of 4: half of a quadruple would say something by itself.
        seed: the same seed gives the same rows, bit for bit.
        kinds: the sentence types, in equal shares.
        size: pixels a side.

    Raises:
        ValueError: `rows` is no positive multiple of 4, or `kinds` or `size` is out of range.
    """
    from datasets import ClassLabel, Dataset, Features, Image, Value

    if rows < 4 or rows % 4:
        raise ValueError(f"rows is {rows}: scenes come in quadruples, so choose a positive multiple of 4")
    table = []
    for quadruple in make_quadruples(rows // 4, seed=seed, kinds=kinds):
        images = [_png(scene, size) for scene in quadruple.scenes]
        for i, image in enumerate(images):
            for j, text in enumerate(quadruple.sentences):
                table.append({"image": image, "text": text, "label": int(i == j), "kind": quadruple.kind})
    random.Random(f"order {seed}").shuffle(table)
    features = {
        "image": Image(),
        "text": Value("string"),
        "label": ClassLabel(names=list(LABELS)),
        "kind": Value("string"),
    }
    return Dataset.from_list(table, features=Features(features))


def make_questions(rows: int, *, seed: int, size: int = 64) -> Dataset:
    """Makes a dataset of another task, "what colour is the triangle": columns `image`, `text` and `label`.

    The picture holds each shape once, in different colours, and every colour is the answer equally often:
    the question alone is worth 1 in 6, the picture alone 1 in 5. No sentence of `make_scenes` is a question,
    so this is what a model trained there has to learn anew.

    Args:
        rows: how many pairs.
        seed: the same seed gives the same rows, bit for bit.
        size: pixels a side.

    Raises:
        ValueError: `rows` or `size` is below 1.
    """
    from datasets import ClassLabel, Dataset, Features, Image, Value

    if rows < 1:
        raise ValueError(f"rows is {rows}: choose at least 1")
    rng = random.Random(f"questions {seed}")
    colours, shapes = tuple(COLOURS), tuple(SHAPES)
    table = []
    for index in range(rows):
        # 6 colours and 5 shapes have no common factor: in 30 rows each pair has its turn.
        answer, shape = colours[index % len(colours)], shapes[index % len(shapes)]
        others = rng.sample([colour for colour in colours if colour != answer], len(shapes) - 1)
        looks = [(answer, shape), *zip(others, [s for s in shapes if s != shape], strict=True)]
        text = rng.choice(_QUESTIONS).format(shape=shape)
        table.append({"image": _png(_scene(rng, looks), size), "text": text, "label": colours.index(answer)})
    rng.shuffle(table)
    features = {"image": Image(), "text": Value("string"), "label": ClassLabel(names=list(colours))}
    return Dataset.from_list(table, features=Features(features))


def vocabulary() -> list[str]:
    """Every word that a sentence or a question can hold, sorted: what a whole-word tokenizer needs."""
    templates = [*_SOME_COLOUR, *_SOME_SHAPE, *_BOUND, *_COUNT_ONE_COLOUR, *_COUNT_COLOUR, *_COUNT_ONE_SHAPE]
    templates += [*_COUNT_SHAPE, *_QUESTIONS, _RELATED, *(t for ts in _RELATIONS.values() for t in ts)]
    words = re.sub(r"\{.*?\}", " ", " ".join(templates)).split()
    return sorted({*words, *COLOURS, *SHAPES, *SHAPES.values(), *NUMBERS[1:]})


SHIPPED_MODEL = Path(__file__).parent / "scenes_model"
"""A small ResNet + BERT with cross-modal attention: is a sentence true of a drawing of coloured shapes?"""
