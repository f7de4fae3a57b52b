"""Parts that join later, learning rates that shrink towards the input, and when a run has had enough."""

from __future__ import annotations

import math

import pytest
import torch
from diptych.pipeline.training.config import TrainConfig
from diptych.pipeline.training.objective import CLASSIFY, out_of_patience
from diptych.pipeline.training.optim import WORDS_RATE, parameter_groups, schedule, unfreeze
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_cosine_schedule_with_warmup

from ...conftest import build_tiny, picture
from .test_train import run


@pytest.fixture
def pretrained(text_folder):
    """A tiny model whose two trunks count as pretrained."""
    model, processor = build_tiny(text_folder)
    model.image_encoder.pretrained = True
    return model, processor


def training_parts(model) -> set[str]:
    return {name for name, modules in model.parts() if all(p.requires_grad for m in modules for p in m.parameters())}


def test_parts_join_at_their_epoch_and_random_trunks_train_from_the_start(pretrained, text_folder):
    model, _ = pretrained
    config = TrainConfig(unfreeze_image=2, unfreeze_text=1, unfreeze_at=3)
    always = {"projections", "fusion", "words", "head"}
    joined = []
    for epoch in range(1, 5):
        joined.append(unfreeze(model, config, epoch))
        late = {"image.layer2", "image.layer3", "text.layer1"}
        assert training_parts(model) == (always if epoch < 3 else always | late)
        assert not model.train().text_encoder.trunk.embeddings.training
        assert model.image_encoder.trunk.layer3.training == (epoch >= 3)
    assert joined == [False, False, True, False]
    random, _ = build_tiny(text_folder)
    assert not unfreeze(random, TrainConfig(unfreeze_image=None, unfreeze_at=3), 1)
    assert "image.stem" in training_parts(random)


@pytest.mark.parametrize("decay", [1.0, 0.9, 0.5])
def test_rates_fall_from_part_to_part_of_pretrained_trunks(text_folder, decay):
    model, _ = build_tiny(text_folder)  # the image trunk is random, the text trunk is not
    model.text_encoder.unfreeze()
    config = TrainConfig(learning_rate=1.0, encoder_learning_rate=0.1, layer_decay=decay, unfreeze_text=None)
    rates = {group["name"]: group["lr"] for group in parameter_groups(model, config)}
    assert rates.pop("text.layer1") == pytest.approx(0.1)
    assert rates.pop("text.layer0") == pytest.approx(0.1 * decay)
    assert rates.pop("text.embeddings") == pytest.approx(0.1 * decay**2)
    assert rates.pop("words") == WORDS_RATE
    assert {name.split(".")[0] for name in rates} == {"image", "projections", "fusion", "head"}
    assert set(rates.values()) == {1.0}


@given(st.integers(1, 6), st.integers(1, 9), st.sampled_from([0.0, 0.1, 0.5]), st.data())
@settings(max_examples=40, deadline=None)
def test_the_schedule_is_transformers_cosine_and_late_groups_rise_from_nothing(epochs, per_epoch, warmup, data):
    at, steps = data.draw(st.integers(1, epochs)), epochs * per_epoch
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    groups = [{"params": weights[:1], "unfrozen_at": 1}, {"params": weights[1:2], "unfrozen_at": at}]
    ours = torch.optim.SGD(groups, lr=2.0)
    theirs = torch.optim.SGD([weights[2]], lr=2.0)
    rates = schedule(ours, steps=steps, warmup=warmup, epochs=epochs)
    cosine = get_cosine_schedule_with_warmup(theirs, round(warmup * steps), steps)
    start = (at - 1) * per_epoch
    rise, begin = round(warmup * (steps - start)), round(warmup * steps)
    for step in range(steps + 1):
        now, late = (group["lr"] for group in ours.param_groups)
        expected = theirs.param_groups[0]["lr"]
        assert now == pytest.approx(expected, abs=1e-9)
        assert 0 <= late <= 2.0
        if step < start:
            assert late == 0
        else:  # no other's rise, but its own, and the cosine of all
            fall = expected if step >= begin else 2.0
            assert late == pytest.approx(fall * min(1.0, (step - start) / rise if rise else 1.0), abs=1e-9)
        for optimizer, scheduler in ((ours, rates), (theirs, cosine)):
            optimizer.step()
            scheduler.step()
    again = schedule(ours, steps=steps, warmup=warmup, epochs=epochs)
    again.load_state_dict(rates.state_dict())
    assert again.last_epoch == rates.last_epoch == steps + 1


def test_adam_begins_with_a_part_when_it_joins(pretrained):
    model, processor = pretrained
    config = TrainConfig(epochs=2, unfreeze_image=1, unfreeze_at=2, warmup_ratio=0.0, weight_decay=0.5)
    unfreeze(model, config, 2)
    optimizer = torch.optim.AdamW(parameter_groups(model, config))
    late, early = model.image_encoder.trunk.layer3[0].conv1.weight, model.head.weight
    batch, labels = processor([picture("red"), picture("blue")], ["a shirt", "a shoe"]), torch.tensor([0, 1])
    for epoch in (1, 2):
        unfreeze(model, config, epoch)
        before = late.clone()
        model.train()(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(before, late) == (epoch == 1)  # neither a step nor weight decay moves it before
        assert (late in optimizer.state) == (epoch == 2)
    assert (int(optimizer.state[early]["step"]), int(optimizer.state[late]["step"])) == (2, 1)


@pytest.mark.slow
def test_a_run_keeps_trunks_still_until_then_and_moves_them_after(pairs, text_folder, tmp_path):
    said: list[str] = []
    options = {"unfreeze_text": 1, "epochs": 2, "encoder_learning_rate": 1e-2, "layer_decay": 0.5}
    run(pairs, tmp_path / "late", text_folder, **options, unfreeze_at=2, say=said.append)
    assert "epoch 2: the chosen parts of pretrained encoders train from here on" in said
    run(pairs, tmp_path / "start", text_folder, **options, say=said.append)
    from diptych import load_model

    assert len([line for line in said if "train from here on" in line]) == 1
    late, start = (load_model(tmp_path / name)[0].state_dict() for name in ("late", "start"))
    changed = {name for name in late if not torch.equal(late[name], start[name])}
    assert any(name.startswith("text_encoder.trunk.encoder.layer.1") for name in changed)


def history(*scores: float, loss: float = 1.0, every: int = 1) -> list[dict]:
    made = [{"accuracy": score, "loss": loss, "train_loss": 0.0} for score in scores]
    return [{**one, "epoch": number * every} for number, one in enumerate(made, start=1)]


@pytest.mark.parametrize(
    ("scores", "patience", "unfreeze_at", "stops"),
    [
        ([0.5, 0.4, 0.3], None, 1, False),
        ([0.5, 0.4], 2, 1, False),
        ([0.5, 0.4, 0.5], 2, 1, True),
        ([0.5, 0.4, 0.6], 2, 1, False),
        ([0.5], 1, 1, False),
        ([0.5, 0.5], 1, 1, True),
        ([0.5, 0.4, 0.3, 0.2], 2, 4, False),  # one epoch only since all of it trains
        ([0.5, 0.4, 0.3, 0.2, 0.1], 2, 4, True),
    ],
)
def test_patience_counts_epochs_without_a_better_one(scores, patience, unfreeze_at, stops):
    assert out_of_patience(history(*scores), CLASSIFY, patience, unfreeze_at) == stops


def test_patience_is_in_epochs_where_only_some_are_measured():
    assert not out_of_patience(history(0.5, 0.4, every=5), CLASSIFY, 6, 1)
    assert out_of_patience(history(0.5, 0.4, 0.4, every=5), CLASSIFY, 6, 1)
    assert not out_of_patience(history(0.5, 0.4, 0.4, every=5), CLASSIFY, 6, 12)
    assert out_of_patience(history(0.5, 0.4, 0.4, 0.4, every=5), CLASSIFY, 6, 12)


def test_a_lower_loss_at_the_same_score_is_better():
    epochs = [*history(0.5), {**history(0.5, loss=0.9)[0], "epoch": 2}]
    assert not out_of_patience(epochs, CLASSIFY, 1, 1)


def test_a_run_stops_early_and_says_so(pairs, text_folder, tmp_path):
    said: list[str] = []
    tiny_steps = {"learning_rate": 1e-12, "encoder_learning_rate": 1e-12, "unfreeze_image": None}
    record = run(pairs, tmp_path, text_folder, epochs=6, patience=1, say=said.append, **tiny_steps)
    assert len(record["epochs"]) < 6
    count = len(record["epochs"])
    assert f"stopped after epoch {count}: 1 without a better one (--patience)" in said
    assert record["best"] == record["epochs"][-1]  # all are the same, and of equal ones the last is kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.0}, "layer_decay is 0.0; it must be above 0 and at most 1"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; it must be above 0 and at most 1"),
        ({"unfreeze_at": 0}, "unfreeze_at is 0; it must be at least 1"),
        (
            {"epochs": 5, "unfreeze_at": 6, "unfreeze_text": 1},
            "unfreeze_at is 6, after the last of 5 epochs; choose an earlier one",
        ),
        ({"validation_share": 0}, "validation_share is 0; it must be above 0 and below 1"),
        ({"weight_decay": math.inf}, "weight_decay is inf; it must be at least 0 and below inf"),
        ({"cache": "no"}, "cache is 'no'; it must be True or False"),
        ({"patience": 0}, "patience is 0; it must be at least 1"),
        ({"focal_gamma": -1.0}, "focal_gamma is -1.0; it must be at least 0"),
        ({"focal_gamma": math.nan}, "focal_gamma is nan; it must be at least 0"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1.0; it must be at least 0 and below 1"),
        ({"class_weights": "sqrt"}, "class_weights is 'sqrt'; choose one of none, balanced"),
        ({"objective": "align", "focal_gamma": 1.0}, "focal_gamma is 1.0, but to align needs no classes; leave it out"),
        ({"objective": "align", "class_weights": "balanced"}, "class_weights is 'balanced', but to align"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**options)
