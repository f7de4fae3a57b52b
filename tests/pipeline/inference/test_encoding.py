"""Encoders as they run for classifying: the same features, never of old weights, each input once."""

from __future__ import annotations

import pytest
import torch
from diptych.pipeline.inference.encoding import InferenceEncoders, RecentFeatures
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def model(tiny):
    model, _ = tiny
    for module in model.modules():  # batch norms that do something
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.uniform_(module.bias, -1, 1)
    return model


PIXELS = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
IDS, MASK = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def same(encoders: InferenceEncoders, model) -> None:
    """What `encoders` gives is what the model's own encoders give."""
    with torch.inference_mode():
        plain = model.image_encoder.encode(PIXELS)
        torch.testing.assert_close(encoders.encode_images(PIXELS), plain, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(encoders.encode_texts(IDS, MASK), model.text_encoder.encode(IDS, MASK))


def step(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model(pixel_values=PIXELS[:2], input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()


def load(model):
    model.load_state_dict({key: value * 1.1 for key, value in model.state_dict().items()})


def average(model):
    for parameter in model.parameters():
        parameter.data.mul_(1.1)


def one_statistic(model):
    next(m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)).running_mean.add_(1.0)


def another_trunk(model):
    model.image_encoder.trunk = type(model.image_encoder)("resnet-tiny", dim=16).trunk.eval()


@pytest.mark.parametrize("change", [step, load, average, one_statistic, another_trunk])
def test_changed_weights_are_seen(model, change):
    encoders = InferenceEncoders()
    encoders.follow(model)
    same(encoders, model)
    generation = encoders.generation
    encoders.follow(model)
    assert encoders.generation == generation
    before = encoders.encode_images(PIXELS)
    change(model)
    encoders.follow(model)
    assert encoders.generation > generation
    same(encoders, model)
    assert not torch.allclose(encoders.encode_images(PIXELS), before, atol=1e-3)


def test_another_number_format_runs_as_it_is(model):
    encoders = InferenceEncoders()
    encoders.follow(model)
    model.double()
    encoders.follow(model)
    found = encoders.encode_images(PIXELS.double())
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, model.image_encoder.encode(PIXELS.double()))


def test_in_training_nothing_is_folded_and_no_features_are_kept(model):
    encoders = InferenceEncoders()
    model.train()
    encoders.follow(model)
    generation = encoders.generation
    encoders.follow(model)
    assert encoders.generation > generation
    torch.testing.assert_close(encoders.encode_images(PIXELS), model.image_encoder.encode(PIXELS))  # of this batch


def test_weights_made_in_inference_mode_run_as_they_are(model):
    encoders = InferenceEncoders()
    with torch.inference_mode():
        model.load_state_dict({key: value.clone() for key, value in model.state_dict().items()}, assign=True)
    encoders.follow(model)
    same(encoders, model)
    with torch.inference_mode():
        model.image_encoder.trunk.conv1.weight.mul_(2.0)  # of which there is no trace
    encoders.follow(model)
    same(encoders, model)


def test_the_model_stays_as_it_was(model):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modules = [(id(module), module.training) for module in model.modules()]
    learns = [(id(parameter), parameter.requires_grad) for parameter in model.parameters()]
    InferenceEncoders().follow(model)
    assert [(id(module), module.training) for module in model.modules()] == modules
    assert [(id(parameter), parameter.requires_grad) for parameter in model.parameters()] == learns
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_features_stay_as_long_as_there_is_room():
    kept = RecentFeatures(limit=2 * 3 * 4 * 4)  # two batches of three rows of four numbers
    batches = [torch.full((3, 4), float(number)) for number in range(3)]
    kept.put("abc", batches[0])
    kept.put("def", batches[1])
    assert torch.equal(kept.get("b"), batches[0][1])  # used last: the other batch goes first
    kept.put("ghi", batches[2])
    assert [key for key in "abcdefghi" if kept.get(key) is not None] == list("abcghi")
    assert kept.size <= kept.limit
    kept.put("xyz", torch.zeros(3, 40))  # larger than all the room
    assert [key for key in "abcghixyz" if kept.get(key) is not None] == []
    assert kept.size == 0


@given(batches=st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), max_size=8), room=st.integers(0, 12))
def test_each_row_gets_its_own_features_whatever_is_kept(batches, room):
    kept = RecentFeatures(limit=room * 4)
    asked = []
    for keys in batches:

        def encode(indices, keys=keys):
            asked.append([keys[index] for index in indices])
            return torch.tensor([[float(keys[index])] for index in indices])

        found = kept.encode_once(keys, [kept.get(key) for key in keys], encode)
        assert [float(one) for one in found] == keys
        assert kept.size <= kept.limit
    assert all(len(set(keys)) == len(keys) for keys in asked)
    if room == 12:  # enough for all
        assert sorted(key for keys in asked for key in keys) == sorted({key for keys in batches for key in keys})
