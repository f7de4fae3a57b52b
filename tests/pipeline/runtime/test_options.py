"""Options as fields: what is out of range is named with what is allowed, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields

import pytest
from diptych.pipeline.runtime.options import check_options, option
from diptych.pipeline.training.config import RENAMED, BuildOptions, DataOptions, TrainConfig, read_options


@dataclass(frozen=True)
class Some:
    share: float | None = option(0.5, "A share.", panel="", least=0, below=1)
    rate: float = option(1.0, "A rate.", panel="", above=0, most=2)
    kind: str = option("a", "A kind.", panel="", choices=("a", "b"))

    def __post_init__(self) -> None:
        check_options(self)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, r"share is 1.0; it must be at least 0 and below 1"),
        ({"share": float("nan")}, r"share is nan; it must be at least 0 and below 1"),
        ({"rate": 0}, r"rate is 0; it must be above 0 and at most 2"),
        ({"rate": 2.1}, r"rate is 2.1; it must be above 0 and at most 2"),
        ({"rate": "fast"}, r"rate is 'fast'; it must be a number"),
        ({"kind": "c"}, r"kind is 'c'; choose one of a, b"),
    ],
)
def test_what_is_not_allowed_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Some(**options)


def test_none_and_the_ends_that_belong_are_allowed():
    Some(share=None), Some(share=0, rate=2, kind="b")


@pytest.mark.parametrize("kind", [TrainConfig, BuildOptions, DataOptions])
def test_every_option_of_training_has_a_sentence_of_help(kind):
    for field in fields(kind):
        assert field.metadata["help"].split("  [")[0].endswith("."), field.name


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_old_names_are_read_with_a_warning(old, new):
    value = 0.5 if old == "warmup" else 4
    with pytest.warns(FutureWarning, match=rf"{old} is called {new} now; the old name goes with 0.5"):
        config, _, _ = read_options({old: value})
    assert getattr(config, new) == value


def test_options_are_sorted_into_what_they_are_of():
    config, build, data = read_options(
        {"epochs": 7, "hidden_size": 64, "label_column": "kind", "architecture": {"x": 1}}
    )
    assert (config.epochs, data.label_column) == (7, "kind")
    assert build.given() == {"hidden_size": 64, "x": 1}
    assert read_options({"image_weights": "random"})[0].unfreeze_image is None


def test_an_option_that_does_not_exist_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"there is no option 'learningrate'; did you mean 'learning_rate'\?"):
        read_options({"learningrate": 1.0})
