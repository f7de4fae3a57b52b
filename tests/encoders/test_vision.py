"""VisionEncoder: a grid from any vision model, its parts, its weights from a folder, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from diptych.encoders import VisionEncoder
from diptych.encoders.batch_norm import BatchNorm
from diptych.encoders.trainable import check_partition
from diptych.encoders.vision import image_config_of, load_image_config
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BertConfig,
    PreTrainedConfig,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTModel,
)

from . import VISION_FAMILIES, tiny_vision_config

DIM = 16
GRIDS = {"convnext": (2, 2), "swin": (2, 2), "test_efficientnet": (5, 5)}


@pytest.fixture(scope="module")
def encoders() -> dict[str, VisionEncoder]:
    torch.manual_seed(0)
    return {family: VisionEncoder(tiny_vision_config(family), dim=DIM).eval() for family in VISION_FAMILIES}


def pixels(encoder: VisionEncoder, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 3, *encoder.size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_class_and_register_tokens_are_dropped_and_a_grid_is_left(encoders, family):
    encoder = encoders[family]
    with torch.no_grad():
        tokens = encoder(pixels(encoder))
        states = encoder.trunk(pixels(encoder)).last_hidden_state
    rows, columns = GRIDS.get(family, (4, 4))
    assert tokens.grid == (rows, columns)
    assert tokens.states.shape == (2, rows * columns, DIM)
    features = encoder.encode(pixels(encoder)).flatten(2).transpose(1, 2)
    if states.ndim == 3:  # patches come last, row by row
        torch.testing.assert_close(features, states[:, -rows * columns :])
        extra = {"vit": 1, "dinov2": 1, "dinov2_with_registers": 5, "siglip": 0, "clip": 1, "swin": 0}[family]
        assert states.shape[1] == rows * columns + extra
    else:
        torch.testing.assert_close(features, states.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("family", ["vit", "dinov2_with_registers", "siglip", "convnext", "swin"])
def test_a_change_in_a_corner_changes_the_region_there_most(encoders, family):
    encoder = encoders[family]
    picture = pixels(encoder, 1)
    with torch.no_grad():
        before = encoder.encode(picture)
        rows, columns = before.shape[2:]
        height, width = encoder.size[0] // rows, encoder.size[1] // columns
        for row, column in ((0, 0), (0, columns - 1), (rows - 1, 0)):
            changed = picture.clone()
            changed[..., row * height :, column * width :][..., :height, :width] = torch.randn(3, height, width) * 3
            moved = (encoder.encode(changed) - before).norm(dim=1)[0]
            assert divmod(int(moved.argmax()), columns) == (row, column)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_every_parameter_is_in_one_part_and_the_parts_run_from_the_input_up(encoders, family):
    encoder = encoders[family]
    check_partition(encoder.trunk, encoder.parts())
    order: list[str] = []
    blocks = encoder.parts()[1:]
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, modules in blocks
        for module in modules
        if not isinstance(module, nn.ParameterList)
    ]
    encoder(pixels(encoder))
    for handle in handles:
        handle.remove()
    assert list(dict.fromkeys(order)) == [name for name, _ in blocks]
    assert order == sorted(order)
    assert len(blocks) == {"convnext": 4, "swin": 4, "test_efficientnet": 5}.get(family, 2)


@pytest.mark.parametrize("family", ["vit", "convnext", "test_efficientnet"])
def test_the_top_part_trains_and_what_is_below_stays_frozen(family):
    torch.manual_seed(0)
    encoder = VisionEncoder(tiny_vision_config(family), dim=DIM)
    encoder.pretrained = True
    encoder.unfreeze(1)
    before = {name: tensor.clone() for name, tensor in encoder.trunk.state_dict().items()}
    top = {id(p) for module in encoder.parts()[-1][1] for p in module.parameters()}
    optimizer = torch.optim.SGD([p for p in encoder.parameters() if p.requires_grad], lr=1.0)
    encoder.train()(pixels(encoder)).states.square().sum().backward()
    optimizer.step()
    moved = {name for name, p in encoder.trunk.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert {id(p) for name, p in encoder.trunk.named_parameters() if name in moved} <= top
    statistics = {name for name in before if "running_mean" in name}
    assert all(torch.equal(encoder.trunk.state_dict()[name], before[name]) for name in statistics)


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_what_the_features_do_not_depend_on_is_left_out(encoders, family):
    encoder = encoders[family]
    encoder.zero_grad()
    encoder(pixels(encoder)).states.square().sum().backward()
    idle = {name for name, p in encoder.trunk.named_parameters() if p.grad is None}
    assert all(name.endswith("mask_token") for name in idle)  # of DINOv2, in a module that is used


@pytest.mark.parametrize("family", VISION_FAMILIES)
def test_weights_come_from_a_folder(family, tmp_path):
    torch.manual_seed(3)
    config = tiny_vision_config(family)
    network = AutoModel.from_config(config).eval()
    network.save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path, dim=DIM)
    assert encoder.pretrained
    assert encoder.frozen
    with torch.no_grad():
        theirs = network(pixels(encoder)).last_hidden_state
        ours = encoder.eval().trunk(pixels(encoder)).last_hidden_state
    torch.testing.assert_close(ours, theirs)


def test_of_a_model_of_pictures_and_texts_the_pictures_side_is_taken(tmp_path):
    torch.manual_seed(3)
    text = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = SiglipModel(SiglipConfig(text_config=text, vision_config=tiny_vision_config("siglip").to_dict())).eval()
    whole.save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path, dim=DIM).eval()
    with torch.no_grad():
        theirs = whole.vision_model(pixels(encoder)).last_hidden_state
        torch.testing.assert_close(encoder.trunk(pixels(encoder)).last_hidden_state, theirs)


def test_a_classifiers_weights_serve_too(tmp_path):
    torch.manual_seed(3)
    config = tiny_vision_config("test_efficientnet")
    network = AutoModelForImageClassification.from_config(config).eval()
    network.save_pretrained(tmp_path)
    encoder = VisionEncoder.from_pretrained(tmp_path, dim=DIM).eval()
    with torch.no_grad():
        theirs = network.timm_model.forward_features(pixels(encoder))
        torch.testing.assert_close(encoder.trunk_grid(pixels(encoder)), theirs)
    assert "label_names" not in encoder.facts["config"]


@pytest.mark.parametrize(("size", "grid"), [((40, 24), (5, 3)), ((36, 52), (4, 6))])
@pytest.mark.parametrize("family", ["vit", "dinov2", "siglip"])
def test_pictures_of_another_size_than_the_trained_one_interpolate_the_positions(encoders, family, size, grid):
    encoder = encoders[family]
    encoder.require_size(size)
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, *size)).grid == grid


def test_a_size_that_a_trunk_does_not_take_is_refused_in_one_line():
    config = image_config_of(tiny_vision_config("clip").to_dict() | {"model_type": "aimv2_vision_model"})
    encoder = VisionEncoder(config, dim=DIM)
    with pytest.raises(ValueError, match=r"^image_size is 64 x 64; aimv2_vision_model takes .* of 32 x 32"):
        encoder.require_size((64, 64))


def test_folded_batch_norms_change_nothing(encoders):
    encoder = encoders["test_efficientnet"]
    for module in encoder.trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
    folded = encoder.folded()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.trunk.modules())
    with torch.no_grad():
        expected = encoder.encode(pixels(encoder))
        found = folded.encode(pixels(encoder).contiguous(memory_format=torch.channels_last))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()
    assert encoders["vit"].folded() is encoders["vit"]


class Plain(VisionEncoder):
    """One whose trunk gives its grid as it is."""

    def trunk_grid(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.trunk(pixel_values)


class Twisted(nn.Module):
    """Convolution and batch norm side by side that do not follow each other."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(pixel_values).relu())


def test_what_only_stands_side_by_side_is_not_folded():
    encoder = Plain(tiny_vision_config("vit"), dim=DIM).eval()
    encoder.trunk = Twisted().eval()
    nn.init.constant_(encoder.trunk.norm.running_mean, 0.5)
    assert encoder.folded() is encoder


def test_batch_norms_of_timm_train_as_they_did_and_are_those_of_all_processes():
    torch.manual_seed(0)
    encoder = VisionEncoder(tiny_vision_config("test_efficientnet"), dim=DIM).train()
    norms = [m for m in encoder.trunk.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(isinstance(norm, BatchNorm) for norm in norms)
    theirs = AutoModel.from_config(tiny_vision_config("test_efficientnet")).train()
    theirs.load_state_dict(encoder.trunk.state_dict())
    with torch.no_grad():
        expected = theirs(pixels(encoder)).last_hidden_state
        torch.testing.assert_close(encoder.trunk_grid(pixels(encoder)), expected)
    ours = encoder.trunk.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.state_dict().items())


def test_one_picture_of_one_region_trains():
    encoder = VisionEncoder(tiny_vision_config("test_efficientnet"), dim=DIM).train()
    tokens = encoder(torch.randn(3, 3, 32, 32), torch.tensor([False, True, False]))
    assert tokens.grid == (1, 1)
    tokens.states[1].square().sum().backward()
    assert all(m.training for m in encoder.trunk.modules() if isinstance(m, nn.BatchNorm2d))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (BertConfig(hidden_size=12, num_hidden_layers=1), "bert is no vision model, it wants input_ids"),
        (image_config_of({"model_type": "vit_mae"}), "vit_mae leaves parts of a picture out at random"),
        (
            image_config_of({"model_type": "videomae", "num_hidden_layers": 1, "hidden_size": 48}),
            "videomae cannot encode a picture of 224 x 224 pixels",
        ),
        (
            image_config_of({"model_type": "yolos", "image_size": [32, 32], "patch_size": 8, "hidden_size": 24}),
            "yolos cannot encode a picture of 32 x 32 pixels as a grid of regions",
        ),
        (
            image_config_of({"model_type": "timm_wrapper", "architecture": "resnet0"}),
            "the image encoder resnet0 cannot be built: .*resnet0",
        ),
        (
            image_config_of({"model_type": "timm_wrapper", "architecture": "hf-hub:who/what"}),
            "hf-hub:who/what names weights of another place",
        ),
        (
            image_config_of({"model_type": "timm_wrapper", "model_args": {"checkpoint_path": "x.pth"}}),
            "names weights of another place",
        ),
    ],
    ids=lambda value: value.model_type if isinstance(value, PreTrainedConfig) else "",
)
def test_what_gives_no_grid_is_refused_in_one_line(config, message):
    with pytest.raises(ValueError, match=message) as refusal:
        VisionEncoder(config, dim=DIM)
    assert "\n" not in str(refusal.value)


def test_a_model_of_timm_without_timm_says_what_to_install(monkeypatch):
    monkeypatch.setattr("diptych.encoders.vision_trunk.is_timm_available", lambda: False)
    with pytest.raises(ValueError, match=r"test_efficientnet is a model of timm, .*: pip install timm"):
        VisionEncoder(tiny_vision_config("test_efficientnet"), dim=DIM)


def test_a_folder_that_holds_none_is_named(tmp_path):
    for place in (tmp_path, tmp_path / "nowhere", "who/what"):
        with pytest.raises(
            ValueError, match=r"unknown image encoder .*, a folder that holds a vision model, or"
        ) as said:
            load_image_config(place)
        assert str(place) in str(said.value)
        assert "\n" not in str(said.value)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit", "hidden_size": "wide"}))
    with pytest.raises(ValueError, match="unknown image encoder"):
        load_image_config(tmp_path)


def test_weights_of_another_model_are_refused(tmp_path):
    ViTModel(ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16)).save_pretrained(
        tmp_path
    )
    tiny_vision_config("dinov2").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"are not those of its configuration: \d+ are missing|cannot be loaded"):
        VisionEncoder.from_pretrained(tmp_path, dim=DIM)


def test_a_kernel_that_a_configuration_names_is_not_kept():
    config = image_config_of({"model_type": "vit", "attn_implementation": "who/kernel", "_attn_implementation": "x/y"})
    assert config._attn_implementation is None
    assert "who/kernel" not in json.dumps(config.to_dict())
