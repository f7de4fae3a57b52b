import io
import re

import numpy as np
import pytest
from diptych.pipeline.demo.drawing import COLOURS, SHAPES, Scene, Thing
from diptych.pipeline.demo.scenes import CLEAR, KINDS, NUMBERS, make_quadruples, make_questions, make_scenes, vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

SEEDS = st.integers(0, 2**31)
SINGULAR = {plural: shape for shape, plural in SHAPES.items()}


def words(text: str) -> list[str]:
    """The words of a sentence that carry meaning, plurals as their singulars."""
    return [SINGULAR.get(word, word) for word in text.split()]


def matching(scene: Scene, description: list[str]) -> list[Thing]:
    wanted = {word for word in description if word in COLOURS or word in SHAPES}
    assert wanted
    return [thing for thing in scene.things if wanted <= {thing.colour, thing.shape}]


def is_true(text: str, scene: Scene) -> bool:
    """Reads a sentence anew: shares no code with the generator, and knows none of its templates."""
    relation = re.search(r" (left|right|above|below) ", text)
    if relation:
        first, second = (matching(scene, words(part)) for part in re.split(relation.group(), text))
        assert len(first) == len(second) == 1, "a relation names each thing without ambiguity"
        right, down = first[0].x - second[0].x, first[0].y - second[0].y
        offset = {"left": -right, "right": right, "above": -down, "below": down}[relation.group(1)]
        assert abs(offset) >= CLEAR, "too close to tell"
        return offset > 0
    found = len(matching(scene, words(text)))
    if "exactly" in text:
        return found == next(NUMBERS.index(word) for word in text.split() if word in NUMBERS)
    return found > 0


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_each_sentence_is_true_of_its_own_scene_only(kind: str, seed: int) -> None:
    for quadruple in make_quadruples(5, seed=seed, kinds=[kind]):
        truth = [[is_true(text, scene) for text in quadruple.sentences] for scene in quadruple.scenes]
        assert truth == [[True, False], [False, True]], quadruple


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_scenes_hold_two_to_five_things_apart_and_inside(seed: int) -> None:
    for quadruple in make_quadruples(8, seed=seed):
        for scene in quadruple.scenes:
            assert 2 <= len(scene.things) <= 5
            for i, a in enumerate(scene.things):
                assert a.radius < min(a.x, a.y, 1 - a.x, 1 - a.y)
                assert all(np.hypot(a.x - b.x, a.y - b.y) > a.radius + b.radius for b in scene.things[:i])


@given(seed=SEEDS)
@settings(max_examples=40, deadline=None)
def test_binding_is_false_where_both_attributes_are_there(seed: int) -> None:
    for quadruple in make_quadruples(5, seed=seed, kinds=["binding"]):
        for scene, text in zip(quadruple.scenes, reversed(quadruple.sentences), strict=True):
            colour, shape = (next(w for w in text.split() if w in family) for family in (COLOURS, SHAPES))
            assert matching(scene, [colour])
            assert matching(scene, [shape])
            assert not matching(scene, [colour, shape])


@given(seed=SEEDS)
@settings(max_examples=10, deadline=None)
def test_neither_half_alone_says_anything(seed: int) -> None:
    data = make_scenes(80, seed=seed, size=8)
    by_image: dict[bytes, list[int]] = {}
    for image, label in zip(data.with_format("arrow")["image"].to_pylist(), data["label"], strict=True):
        by_image.setdefault(image["bytes"], []).append(label)
    # Sentences repeat over quadruples, and two tiny pictures could coincide: what holds is the balance.
    by_text: dict[str, list[int]] = {}
    for text, label in zip(data["text"], data["label"], strict=True):
        by_text.setdefault(text, []).append(label)
    for labels in [*by_image.values(), *by_text.values()]:
        assert 2 * sum(labels) == len(labels)


def test_the_dataset_has_its_columns_and_equal_kinds() -> None:
    data = make_scenes(160, seed=3)
    assert data.column_names == ["image", "text", "label", "kind"]
    assert data.features["label"].names == ["false", "true"]
    assert {kind: list(data["kind"]).count(kind) for kind in KINDS} == dict.fromkeys(KINDS, 40)
    assert data[0]["image"].size == (64, 64)
    assert data[0]["image"].mode == "RGB"
    labels = list(data["label"])
    assert labels[:4] != [1, 0, 0, 1] or labels[4:8] != [1, 0, 0, 1], "rows are in random order"


def test_a_seed_gives_the_same_rows_and_another_seed_others() -> None:
    one, same, other = (make_scenes(40, seed=seed, size=16).with_format("arrow")[:] for seed in (1, 1, 2))
    assert one.equals(same)
    assert not one.equals(other)


def test_questions_are_about_the_only_such_shape_and_answers_are_balanced() -> None:
    data = make_questions(300, seed=0)
    assert data.column_names == ["image", "text", "label"]
    assert data.features["label"].names == list(COLOURS)
    labels = list(data["label"])
    assert {label: labels.count(label) for label in range(6)} == dict.fromkeys(range(6), 50)
    for shape in SHAPES:  # the question alone says nothing: each answer is equally often right
        asked = [label for text, label in zip(data["text"], labels, strict=True) if shape in text.split()]
        assert len(asked) == 60
        assert all(asked.count(label) == 10 for label in range(6))


def test_the_asked_colour_is_in_the_picture() -> None:
    data = make_questions(30, seed=1, size=96)
    colours = np.array(list(COLOURS.values()))
    for row in data:
        pixels = np.asarray(row["image"]).reshape(-1, 3).astype(int)
        distance = np.abs(pixels[:, None] - colours).max(-1)
        present = {int(c) for c in range(6) if (distance[:, c] <= 24).sum() > 20}
        assert row["label"] in present


def test_the_vocabulary_holds_every_word() -> None:
    known = set(vocabulary())
    seen = {word for text in make_scenes(2000, seed=0, size=2)["text"] for word in text.split()}
    seen |= {word for text in make_questions(60, seed=0, size=2)["text"] for word in text.split()}
    assert seen == known
    assert len(known) < 60


@pytest.mark.parametrize("rows", [0, -4, 6])
def test_rows_that_would_break_a_quadruple_are_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"rows is {rows}: .* multiple of 4"):
        make_scenes(rows, seed=0)


@pytest.mark.parametrize("kinds", [[], ["existence", "colour"]])
def test_unknown_kinds_are_refused_with_those_that_exist(kinds: list[str]) -> None:
    with pytest.raises(ValueError, match="choose one or more of existence, binding, relation, counting"):
        make_scenes(8, seed=0, kinds=kinds)


def test_impossible_sizes_and_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="size is 0"):
        make_scenes(4, seed=0, size=0)
    with pytest.raises(ValueError, match="rows is 0"):
        make_questions(0, seed=0)


def test_pictures_are_small_files() -> None:
    for row in make_scenes(8, seed=0).with_format("arrow")["image"].to_pylist():
        assert len(row["bytes"]) < 8000
        assert Image.open(io.BytesIO(row["bytes"])).format == "PNG"
