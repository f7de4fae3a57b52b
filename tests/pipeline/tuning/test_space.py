"""What a sweep searches, and what it leaves alone."""

from __future__ import annotations

import random

import pytest
from diptych.pipeline.runtime.choices import FUSIONS
from diptych.pipeline.training.config import TrainConfig
from diptych.pipeline.tuning.space import RATES, space_of
from hypothesis import given
from hypothesis import strategies as st


class Trunk:
    """As much of an encoder as a space looks at."""

    def __init__(self, parts, *, pretrained=True):
        self.pretrained = pretrained
        self._parts = parts

    def parts(self):
        return [(f"part{index}", []) for index in range(self._parts)]


def space(image=None, text=None, fusions=None, **options):
    return space_of(image or Trunk(5), text or Trunk(7), options, fusions=fusions)


def drawn(space, seed):
    generator = random.Random(seed)
    return space.choose(lambda name, names: generator.choice(names), lambda name, limits: generator.uniform(*limits))


def test_by_itself_all_of_it_is_searched():
    assert space().described() == {
        "fusion": list(FUSIONS),
        "freezing": ["frozen", "text 2", "image 2", "image 2, text 2"],
        "learning_rate": [1e-4, 3e-3],
        "encoder_learning_rate": [1e-5, 3e-4],
    }


def test_the_first_trial_is_what_training_does_by_itself():
    assert space().first() == {"fusion": "cross-modal", "freezing": "frozen", "learning_rate": 5e-4}
    options = space().options(space().first(), {"epochs": 3})
    assert options == {
        "epochs": 3,
        "learning_rate": TrainConfig.learning_rate,
        "unfreeze_image": TrainConfig.unfreeze_image,
        "unfreeze_text": TrainConfig.unfreeze_text,
        "fusion": "cross-modal",
    }
    assert space(fusions=["mlp", "bilinear"]).first()["fusion"] == "mlp"


@given(st.integers(0, 2**32))
def test_every_trial_is_in_the_space_and_has_a_rate_for_what_was_learned(seed):
    whole = space()
    parameters = drawn(whole, seed)
    for name, limits in RATES.items():
        if name in parameters:
            assert limits[0] <= parameters[name] <= limits[1]
            assert float(f"{parameters[name]:.3g}") == parameters[name]
    assert ("encoder_learning_rate" in parameters) == (parameters["freezing"] != "frozen")
    options = whole.options(parameters, {"architecture": {"hidden_size": 16}, "seed": 3})
    assert (options["architecture"], options["fusion"]) == ({"hidden_size": 16}, parameters["fusion"])
    told = {"frozen": (0, 0), "text 2": (0, 2), "image 2": (2, 0), "image 2, text 2": (2, 2)}
    assert (options["unfreeze_image"], options["unfreeze_text"]) == told[parameters["freezing"]]
    assert options["seed"] == 3


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"learning_rate": 1e-3}, {"learning_rate"}),
        ({"encoder_learning_rate": 1e-5}, {"encoder_learning_rate"}),
        ({"unfreeze_image": 0, "unfreeze_text": 0}, {"freezing", "encoder_learning_rate"}),
        ({"unfreeze_image": None, "unfreeze_text": 3}, {"freezing"}),
        ({"architecture": {"fusion": "mlp"}}, {"fusion"}),
        ({"fusion": "mlp"}, {"fusion"}),
        ({"architecture": {"pattern": "global"}}, {"fusion"}),
        ({"fusions": ["concat"]}, {"fusion"}),
        ({"model": "runs/aligned"}, {"fusion"}),
        ({"objective": "align"}, {"fusion"}),
    ],
)
def test_what_an_option_fixes_is_not_searched(options, gone):
    some = space(**options)
    assert set(space().described()) - set(some.described()) == gone
    for seed in range(20):
        parameters = drawn(some, seed)
        assert not gone & set(parameters)
        chosen = some.options(parameters, options)
        for name in ("learning_rate", "encoder_learning_rate", "unfreeze_image", "unfreeze_text"):
            if name in options and (
                name != "encoder_learning_rate" or chosen["unfreeze_image"] or chosen["unfreeze_text"]
            ):
                assert chosen[name] == options[name]


def test_the_fusion_that_is_fixed_is_the_one_that_is_trained():
    assert space(fusions=["concat"]).options({}, {})["fusion"] == "concat"
    for fixed in ({"architecture": {"pattern": "global", "fusion": None}}, {"pattern": "global"}):
        assert space(**fixed).options({}, fixed) | fixed == space(**fixed).options({}, fixed)
        assert space(**fixed).options({}, fixed)["fusion"] == "self-attention"
    assert space(fusion_layers=2).described()["fusion"] == ["cross-modal", "self-attention"]
    assert space(fusion_hidden_size=64).described()["fusion"] == ["cross-modal", "self-attention", "bilinear"]
    assert "fusion" not in space(model="runs/aligned").options({}, {"model": "runs/aligned"})


def test_half_of_what_freezes_may_be_fixed():
    assert space(unfreeze_text=3).described()["freezing"] == ["text 3", "image 2, text 3"]
    assert space(unfreeze_image=None).described()["freezing"] == ["image all", "image all, text 2"]


def test_a_random_trunk_trains_whole_and_has_no_rate_of_its_own():
    some = space(image=Trunk(4, pretrained=False))
    assert some.described()["freezing"] == ["image all", "image all, text 2"]
    assert "encoder_learning_rate" not in some.first()
    assert some.options(some.first(), {})["unfreeze_image"] is None
    alone = space(image=Trunk(4, pretrained=False), unfreeze_text=0)
    assert "encoder_learning_rate" not in alone.described()


def test_options_of_parts_that_train_leave_out_what_freezes_all():
    assert space(unfreeze_at=2).described()["freezing"] == ["text 2", "image 2", "image 2, text 2"]
    assert space(layer_decay=0.9, unfreeze_text=0).described().get("freezing") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusions": ["mpl"]}, "fusions has 'mpl'; choose from cross-modal, self-attention"),
        ({"fusions": []}, "fusions is empty; choose from"),
        ({"fusions": ["mlp"], "fusion_layers": 2}, "fusions has 'mlp'; choose from cross-modal, self-attention"),
        ({"fusions": ["mlp"], "model": "runs/a"}, "fusions is mlp, but the model runs/a has its own: leave it out"),
        ({"fusions": ["mlp"], "objective": "align"}, "but to align reads none"),
        ({"fusions": ["mlp"], "architecture": {"fusion": "mlp"}}, "but fusion is mlp"),
        (
            {"fusions": ["mlp"], "learning_rate": 1e-3, "unfreeze_image": 0, "unfreeze_text": 0},
            "nothing is left to search",
        ),
    ],
)
def test_what_does_not_go_together_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        space(**options)
