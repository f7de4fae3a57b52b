"""Freezing: one ordered partition, frozen statistics and dropout, and trunks that are copied."""

from __future__ import annotations

import pytest
import torch
from diptych.encoders import BertEncoder, ResNetEncoder, Tokens
from diptych.encoders.trainable import Encoder, check_partition
from torch import nn
from transformers import ModernBertConfig

from . import TEXT_FAMILIES, VOCABULARY, tiny_config

DIM = 16
IMAGE = ("resnet-tiny", "resnet18")
EVERY = (*TEXT_FAMILIES, *IMAGE)


def build(name: str, *, pretrained: bool = True) -> Encoder:
    """A random encoder that counts as pretrained, so that it may be frozen."""
    torch.manual_seed(0)
    encoder = ResNetEncoder(name, dim=DIM) if name in IMAGE else BertEncoder(tiny_config(name), dim=DIM)
    encoder.pretrained = pretrained
    return encoder


def run(encoder: Encoder) -> Tokens:
    if isinstance(encoder, ResNetEncoder):
        return encoder(torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64))
    ids = torch.arange(5, 15).view(2, 5) % VOCABULARY
    return encoder(ids, torch.ones_like(ids))


def trainable(encoder: Encoder) -> set[int]:
    return {id(parameter) for parameter in encoder.trunk.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("name", EVERY)
def test_parts_hold_every_parameter_of_the_trunk_exactly_once(name):
    encoder = build(name)
    held = [id(p) for _, modules in encoder.parts() for module in modules for p in module.parameters()]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in encoder.trunk.parameters()}
    names = [part for part, _ in encoder.parts()]
    assert len(names) == len(set(names))
    check_partition(encoder.trunk, encoder.parts())


@pytest.mark.parametrize("name", EVERY)
def test_parts_are_listed_from_the_input_up(name):
    encoder = build(name)
    order: list[str] = []
    for part, modules in encoder.parts():
        for module in modules:
            module.register_forward_hook(lambda *_, part=part: order.append(part))
    run(encoder)
    assert list(dict.fromkeys(order)) == [part for part, _ in encoder.parts()]
    assert order == sorted(order, key=[part for part, _ in encoder.parts()].index)


def test_what_stands_behind_the_last_layer_belongs_to_it():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id", "eos_token_id", "sep_token_id"), 0)
    encoder = BertEncoder(ModernBertConfig(vocab_size=VOCABULARY, **sizes, **special), dim=DIM)
    encoder.pretrained = True
    encoder.unfreeze(1)
    check_partition(encoder.trunk, encoder.parts())
    trained = {name for name, parameter in encoder.trunk.named_parameters() if parameter.requires_grad}
    assert "final_norm.weight" in trained
    assert {name for name in trained if not name.startswith("layers.1.")} == {"final_norm.weight"}


@pytest.mark.parametrize("name", EVERY)
def test_unfreeze_trains_exactly_the_top_parts_and_the_projection(name):
    encoder = build(name)
    parts = encoder.parts()
    for count in (*range(len(parts) + 1), None):
        encoder.unfreeze(count)
        top = parts if count is None else parts[len(parts) - count :]
        assert trainable(encoder) == {id(p) for _, modules in top for m in modules for p in m.parameters()}
        assert all(p.requires_grad for p in encoder.projection.parameters())
        assert encoder.frozen is (count == 0)


@pytest.mark.parametrize("name", ["bert", "resnet-tiny"])
def test_a_training_step_moves_the_top_part_and_nothing_below(name):
    encoder = build(name).train()
    encoder.unfreeze(1)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    run(encoder).states.square().sum().backward()
    optimizer.step()
    moved = {key for key, value in encoder.state_dict().items() if not torch.equal(value, before[key])}
    top = {"bert": "trunk.encoder.layer.2.", "resnet-tiny": "trunk.layer3."}[name]
    assert {key for key in moved if key.startswith(top)}
    assert {key for key in moved if key.startswith("projection.")}
    assert {key for key in moved if not key.startswith((top, "projection."))} == set()


@pytest.mark.parametrize(("pretrained", "count"), [(True, 0), (True, 1), (True, 3), (True, None), (False, None)])
def test_batch_norm_statistics_of_a_pretrained_trunk_never_move_in_training(pretrained, count):
    encoder = build("resnet-tiny")
    encoder.pretrained = pretrained
    encoder.unfreeze(count)
    nn.Sequential(encoder).train()  # a model above it doesn't know what is frozen
    before = {key: value.clone() for key, value in encoder.trunk.state_dict().items() if "running" in key}
    run(encoder)
    after = encoder.trunk.state_dict()
    for key, value in before.items():
        assert torch.equal(after[key], value) is pretrained, key


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_dropout_of_a_frozen_trunk_is_off_in_training_and_back_on_when_it_trains(family):
    encoder = build(family)
    encoder.unfreeze(0)
    nn.Sequential(encoder).train()
    assert torch.equal(run(encoder).states, run(encoder).states)
    encoder.unfreeze(None)
    assert not torch.equal(run(encoder).states, run(encoder).states)


def test_a_frozen_layer_gives_the_same_in_training_as_in_eval():
    encoder = build("bert")
    encoder.unfreeze(1)
    states = torch.randn(2, 5, 16)
    frozen, training = encoder.trunk.encoder.layer[1], encoder.trunk.encoder.layer[2]
    encoder.train()
    assert torch.equal(frozen(states), frozen(states))
    assert not torch.equal(training(states), training(states))


def test_unfreezing_does_not_put_an_encoder_in_eval_into_training():
    encoder = build("resnet-tiny").eval()
    encoder.unfreeze(1)
    assert not any(module.training for module in encoder.modules())


@pytest.mark.parametrize("name", EVERY)
def test_freezing_weights_that_nobody_trained_is_refused(name):
    encoder = build(name, pretrained=False)
    for count in range(len(encoder.parts())):
        with pytest.raises(ValueError, match=f"unfreeze is {count}, but the weights .* are random"):
            encoder.unfreeze(count)
    for count in (None, len(encoder.parts())):
        encoder.unfreeze(count)
        assert all(p.requires_grad for p in encoder.parameters())


@pytest.mark.parametrize("count", [-1, 5, 100])
def test_a_count_out_of_range_is_refused_and_the_parts_are_named(count):
    encoder = build("resnet-tiny")
    with pytest.raises(ValueError, match=f"unfreeze is {count}; this trunk has 4 parts") as refusal:
        encoder.unfreeze(count)
    assert str(refusal.value).endswith("stem, layer1, layer2, layer3")


def test_a_refused_count_leaves_the_encoder_as_it_was():
    encoder = build("resnet-tiny")
    encoder.unfreeze(1)
    before = trainable(encoder)
    with pytest.raises(ValueError, match="unfreeze is 9"):
        encoder.unfreeze(9)
    assert trainable(encoder) == before
    assert not encoder.frozen


def test_a_parameter_in_no_part_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"in no part: 1\.weight, 1\.bias"):
        check_partition(model, [("low", [model[0]])])


def test_a_parameter_in_two_parts_is_named_with_both():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"1\.weight is in two parts: low and high"):
        check_partition(model, [("low", [model]), ("high", [model[1]])])


def test_a_parameter_twice_in_one_part_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="in two parts"):
        check_partition(model, [("all", [model, model[0]])])


@pytest.mark.parametrize("name", ["bert", "resnet-tiny"])
def test_a_copied_trunk_has_the_weights_and_the_right_to_be_frozen(name):
    source, target = build(name).eval(), build(name, pretrained=False).eval()
    with torch.no_grad():
        for tensor in source.state_dict().values():
            if tensor.is_floating_point():
                tensor.mul_(1.1)  # statistics too
    projection = {key: value.clone() for key, value in target.projection.state_dict().items()}
    target.copy_trunk(source)
    loaded, given = target.trunk.state_dict(), source.trunk.state_dict()
    assert all(torch.equal(loaded[key], given[key]) for key in given)
    assert all(torch.equal(value, projection[key]) for key, value in target.projection.state_dict().items())
    target.unfreeze(0)
    with torch.no_grad():
        next(source.trunk.parameters()).zero_()
    assert next(target.trunk.parameters()).abs().sum() > 0  # a copy, not a share


def test_a_trunk_copied_from_a_random_one_stays_random():
    target = build("resnet-tiny")
    target.copy_trunk(build("resnet-tiny", pretrained=False))
    with pytest.raises(ValueError, match="are random"):
        target.unfreeze(0)
