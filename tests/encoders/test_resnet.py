"""ResNetEncoder: region tokens, their places, and weights from a file."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from diptych.encoders import IMAGE_ENCODERS, ResNetEncoder
from diptych.encoders.image import sine_positions
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

DIM = 16
STRIDE = {"resnet-tiny": 8, "resnet18": 32}


@pytest.fixture(scope="module")
def encoders() -> dict[str, ResNetEncoder]:
    torch.manual_seed(0)
    return {name: ResNetEncoder(name, dim=DIM).eval() for name in STRIDE}


@pytest.fixture
def checkpoints(tmp_path, monkeypatch) -> Path:
    """The folder of a fresh TORCH_HOME in which torchvision looks first, with the network closed."""

    def refuse(url, *args, **kwargs):
        raise AssertionError(f"the network was asked for {url}")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


def weights_name() -> str:
    return models.ResNet18_Weights.DEFAULT.url.rsplit("/", 1)[-1]


def test_the_choices_are_torchvisions_ten_resnets_and_ours():
    assert sorted(IMAGE_ENCODERS) == [
        "resnet-tiny",
        "resnet101",
        "resnet152",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "resnext50_32x4d",
        "wide_resnet101_2",
        "wide_resnet50_2",
    ]


@settings(deadline=None, max_examples=12)
@given(name=st.sampled_from(sorted(STRIDE)), height=st.integers(8, 80), width=st.integers(8, 80))
def test_any_input_size_gives_one_token_for_each_cell_of_the_grid(encoders, name, height, width):
    with torch.no_grad():
        tokens = encoders[name](torch.randn(2, 3, height, width))
    rows, columns = math.ceil(height / STRIDE[name]), math.ceil(width / STRIDE[name])
    assert tokens.grid == (rows, columns)
    assert tokens.states.shape == (2, rows * columns, DIM)
    assert tokens.mask.shape == (2, rows * columns)
    assert bool(tokens.mask.all())
    assert tokens.present.tolist() == [True, True]
    assert bool(tokens.states.isfinite().all())


@settings(deadline=None, max_examples=20)
@given(side=st.integers(1, 9), height=st.integers(8, 80), width=st.integers(8, 80))
def test_a_region_grid_averages_a_finer_one_and_leaves_a_coarser_one(encoders, side, height, width):
    own = encoders["resnet-tiny"]
    coarse = ResNetEncoder("resnet-tiny", dim=DIM, region_grid=side).eval()
    coarse.load_state_dict(own.state_dict())
    pixels = torch.randn(2, 3, height, width)
    with torch.no_grad():
        found, full = coarse.encode(pixels), own.encode(pixels)
        tokens = coarse(pixels)
    rows, columns = full.shape[2:]
    assert found.shape[2:] == tokens.grid == (min(side, rows), min(side, columns))
    if side >= max(rows, columns):
        assert torch.equal(found, full)
    if side == 1:
        torch.testing.assert_close(found[..., 0, 0], full.mean((2, 3)))
    torch.testing.assert_close(coarse(None, features=found).states, tokens.states)


def test_a_region_grid_below_0_is_refused():
    with pytest.raises(ValueError, match="region_grid is -1; it must be at least 1, or 0 for the trunk's own grid"):
        ResNetEncoder("resnet-tiny", dim=DIM, region_grid=-1)


def test_features_of_half_precision_are_taken(encoders):
    encoder = encoders["resnet-tiny"]
    features = torch.randn(2, encoder.width, 2, 3)
    found = encoder(None, features=features.half()).states
    torch.testing.assert_close(found, encoder(None, features=features).states, atol=0.01, rtol=0.01)


def test_the_tiny_resnet_is_small_and_keeps_an_8_by_8_grid_of_64_pixels(encoders):
    assert encoders["resnet-tiny"](torch.randn(1, 3, 64, 64)).grid == (8, 8)
    assert 0.25e6 < sum(p.numel() for p in encoders["resnet-tiny"].trunk.parameters()) < 0.35e6


def test_the_trunk_gives_torchvisions_own_last_grid():
    torch.manual_seed(0)
    network = models.resnet18(weights=None).eval()
    encoder = ResNetEncoder("resnet18", dim=DIM).eval()
    encoder.trunk.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")})
    reference = create_feature_extractor(network, {"layer4": "grid"})
    pixels = torch.randn(2, 3, 70, 40)
    with torch.no_grad():
        torch.testing.assert_close(encoder.encode(pixels), reference(pixels)["grid"])


def test_regions_are_counted_row_by_row_from_the_top_left(encoders):
    encoder = encoders["resnet-tiny"]
    features = torch.randn(1, encoder.width, 2, 3)
    changed = features.clone()
    changed[0, :, 1, 0] += torch.randn(encoder.width)
    there = torch.tensor([True])
    difference = (encoder.project(features, there).states - encoder.project(changed, there).states).abs().sum(-1)
    assert (difference[0] > 0).tolist() == [False, False, False, True, False, False]


def test_an_image_is_encoded_then_projected(encoders):
    """The cache of a frozen trunk stands between the two."""
    encoder, pixels = encoders["resnet-tiny"], torch.randn(2, 3, 24, 16)
    there = torch.ones(2, dtype=torch.bool)
    assert torch.equal(encoder.project(encoder.encode(pixels), there).states, encoder(pixels).states)


def test_equal_features_in_two_cells_become_different_tokens(encoders):
    encoder = encoders["resnet-tiny"]
    features = torch.ones(1, encoder.width, 3, 3)
    states = encoder.project(features, torch.tensor([True])).states[0]
    distances = torch.cdist(states, states) + torch.eye(9) * 10
    assert distances.min() > 0.1


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), quarter=st.integers(1, 8))
def test_each_cell_of_a_grid_has_its_own_position(rows, columns, quarter):
    codes = sine_positions(rows, columns, 4 * quarter)
    assert codes.shape == (rows * columns, 4 * quarter)
    assert codes.abs().max() <= 1
    distances = torch.cdist(codes, codes) + torch.eye(len(codes)) * 10
    assert distances.min() > 0.05


@settings(deadline=None, max_examples=20)
@given(rows=st.integers(1, 6), columns=st.integers(1, 6))
def test_the_same_relative_place_has_the_same_position_on_any_grid(rows, columns):
    # a grid three times as fine has, in the middle of each coarse cell, a cell with the same centre
    coarse = sine_positions(rows, columns, DIM).view(rows, columns, DIM)
    fine = sine_positions(3 * rows, 3 * columns, DIM).view(3 * rows, 3 * columns, DIM)
    torch.testing.assert_close(fine[1::3, 1::3], coarse, atol=1e-4, rtol=0)


def test_pretrained_weights_come_from_a_file_without_the_network(checkpoints):
    torch.manual_seed(1)
    network = models.resnet18(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
    torch.save(network.state_dict(), checkpoints / weights_name())
    encoder = ResNetEncoder.from_pretrained("resnet18", dim=DIM)
    expected = {k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}
    loaded = encoder.trunk.state_dict()
    assert set(loaded) == set(expected)
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert encoder.pretrained is True
    assert ResNetEncoder("resnet-tiny", dim=DIM).pretrained is False


class Intruder:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_weights_file_that_holds_more_than_tensors_is_refused_and_not_run(checkpoints, tmp_path):
    torch.save({"conv1.weight": Intruder(tmp_path / "run")}, checkpoints / weights_name())
    with pytest.raises(ValueError, match="damaged, or hold more than tensors and are refused"):
        ResNetEncoder.from_pretrained("resnet18", dim=DIM)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("build", [ResNetEncoder, ResNetEncoder.from_pretrained])
def test_an_unknown_name_is_refused_and_the_choices_are_listed(build):
    with pytest.raises(ValueError, match="'vgg16'") as refusal:
        build("vgg16", dim=DIM)
    assert all(name in str(refusal.value) for name in IMAGE_ENCODERS)
    assert "\n" not in str(refusal.value)


def test_the_tiny_resnet_has_no_pretrained_weights_and_says_so(checkpoints):
    with pytest.raises(ValueError, match="resnet-tiny has no published weights"):
        ResNetEncoder.from_pretrained("resnet-tiny", dim=DIM)


def test_a_width_that_positions_cannot_fill_is_refused():
    with pytest.raises(ValueError, match="dim is 18"):
        ResNetEncoder("resnet-tiny", dim=18)


def test_the_pixels_of_absent_images_change_nothing(encoders):
    encoder = encoders["resnet-tiny"]
    present = torch.tensor([True, False, True])
    pixels = torch.randn(3, 3, 24, 16)
    pixels[1] = float("nan")
    tokens = encoder(pixels, present)
    alone = encoder(pixels[present])
    torch.testing.assert_close(tokens.states[present], alone.states)
    assert bool(tokens.states.isfinite().all())
    assert torch.equal(tokens.present, present)
    assert tokens.grid == alone.grid


def test_a_batch_without_any_image_has_tokens_of_the_right_width_and_runs_no_trunk(encoders, monkeypatch):
    encoder = encoders["resnet-tiny"]
    monkeypatch.setattr(encoder.trunk, "forward", lambda *_: pytest.fail("the trunk ran"))
    tokens = encoder(torch.full((2, 3, 24, 16), float("nan")), torch.tensor([False, False]))
    assert tokens.states.shape == (2, 1, DIM)
    assert tokens.mask.shape == (2, 1)
    assert bool(tokens.states.isfinite().all())


def test_batch_norm_statistics_do_not_see_absent_images():
    encoder = ResNetEncoder("resnet-tiny", dim=DIM).train()
    other, untouched = copy.deepcopy(encoder), copy.deepcopy(encoder)
    pixels = torch.randn(4, 3, 16, 16)
    present = torch.tensor([True, False, True, False])
    encoder(torch.where(present.view(-1, 1, 1, 1), pixels, 1e4), present)
    other(pixels[present])
    seen, expected, start = encoder.trunk.state_dict(), other.trunk.state_dict(), untouched.trunk.state_dict()
    running = [key for key in seen if "running" in key]
    assert running
    for key in running:
        torch.testing.assert_close(seen[key], expected[key])
        assert not torch.equal(seen[key], start[key])


def test_a_damaged_weights_file_is_named(checkpoints):
    (checkpoints / weights_name()).write_bytes(b"half a download")
    with pytest.raises(ValueError, match=r"weights of resnet18 in .* are damaged"):
        ResNetEncoder.from_pretrained("resnet18", dim=DIM)


def test_a_closed_network_says_where_the_file_can_be_put(checkpoints, monkeypatch):
    def closed(*_, **__):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", closed)
    with pytest.raises(ValueError, match=r"cannot be had .*no network.* put the file .*hub/checkpoints"):
        ResNetEncoder.from_pretrained("resnet18", dim=DIM)


def test_a_trunk_of_another_architecture_cannot_be_copied():
    with pytest.raises(ValueError, match="of another architecture"):
        ResNetEncoder("resnet-tiny", dim=DIM).copy_trunk(ResNetEncoder("resnet18", dim=DIM))


@pytest.mark.parametrize("name", ["resnet18", "resnet-tiny"])
def test_one_image_of_one_region_trains_and_leaves_the_statistics_of_its_last_grid(name):
    size = 32 if name == "resnet18" else 8  # the last grid is one region: a single value per channel
    encoder = ResNetEncoder(name, dim=16).train()
    last = [module for module in encoder.modules() if isinstance(module, nn.BatchNorm2d)][-1]
    before = last.running_mean.clone()
    present = torch.tensor([False, True, False])
    tokens = encoder(torch.randn(3, 3, size, size), present)
    assert tokens.grid == (1, 1)
    tokens.states[present][..., 0].sum().backward()
    assert encoder.trunk.conv1.weight.grad.abs().sum() > 0
    assert torch.equal(last.running_mean, before)
    encoder(torch.randn(2, 3, size, size))
    assert not torch.equal(last.running_mean, before)


@pytest.mark.parametrize("name", ["resnet-tiny", "resnet18", "resnet50", "resnext50_32x4d"])
def test_batch_norms_folded_into_convolutions_change_nothing(name):
    torch.manual_seed(0)
    encoder = ResNetEncoder(name, dim=DIM).eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.running_mean, -0.3), (module.running_var, 0.7), (module.weight, 0.7)):
                nn.init.uniform_(tensor, low, low + 0.6)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    folded = encoder.folded()
    kinds = [type(module) for module in folded.trunk.modules()]
    assert not any(issubclass(kind, nn.BatchNorm2d) for kind in kinds)
    pixels = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        expected = encoder.encode(pixels)
        found = folded.encode(pixels.contiguous(memory_format=torch.channels_last))
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert folded.projection is encoder.projection
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.trunk.modules())
    assert all(parameter.requires_grad for parameter in encoder.parameters())
    assert folded.trunk is not encoder.trunk
