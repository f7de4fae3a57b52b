"""The numbers of image processors: a picture comes out as their own library makes it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from diptych.encoders.preprocessing import vision_preprocessing
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from PIL import Image
from transformers import (
    AutoImageProcessor,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    SiglipImageProcessor,
    TimmWrapperConfig,
    ViTConfig,
    ViTImageProcessor,
)

SMALL = {"height": 32, "width": 48}
PROCESSORS = {
    "squashed": ViTImageProcessor(size=SMALL),
    "not rescaled": ViTImageProcessor(size=SMALL, do_rescale=False, image_mean=[100.0] * 3, image_std=[50.0] * 3),
    "not normalised": ViTImageProcessor(size=SMALL, do_normalize=False),
    "cut": BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
    "clip": CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "siglip": SiglipImageProcessor(size=SMALL),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 56}),
    "efficientnet": EfficientNetImageProcessor(size=SMALL),
    "efficientnet, offset": EfficientNetImageProcessor(size=SMALL, rescale_offset=True, rescale_factor=1 / 127.5),
}


def saved(processor, folder) -> str:
    ViTConfig().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def smooth(width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(200, 200), (96, 64)])
def test_a_picture_comes_out_as_from_the_processor_of_the_weights(name, size, tmp_path):
    folder = saved(PROCESSORS[name], tmp_path)
    wanted = vision_preprocessing(folder, (224, 224))
    cuts = name in ("cut", "clip", "convnext")
    ours = DiptychImageProcessor.of(wanted, fit="crop" if cuts else "squash")
    picture = smooth(*size)
    theirs = AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")["pixel_values"][0]
    found = ours(picture)["pixel_values"][0]
    assert found.shape == theirs.shape
    worst = 4 / 255 / min(wanted.std)  # four grey levels: filters of two libraries
    assert (found - theirs).abs().max() <= worst
    assert (found - theirs).abs().mean() <= worst / 8


@pytest.mark.parametrize(("crop_pct", "edge"), [(0.875, 256), (1.0, 224), (0.9, 248)])
def test_a_model_of_timm_says_its_numbers_in_its_configuration(tmp_path, crop_pct, edge):
    pytest.importorskip("timm")
    numbers = {"input_size": [3, 224, 224], "crop_pct": crop_pct, "mean": [0.5] * 3, "std": [0.25] * 3}
    config = TimmWrapperConfig(architecture="test_efficientnet", pretrained_cfg=numbers | {"interpolation": "bicubic"})
    config.save_pretrained(tmp_path)
    wanted = vision_preprocessing(tmp_path, (160, 160))
    assert wanted[:3] == (224, 224, edge)
    assert (list(wanted.mean), list(wanted.std), wanted.interpolation) == ([0.5] * 3, [0.25] * 3, "bicubic")
    preset = AutoImageProcessor.from_pretrained(tmp_path).val_transforms
    ours = DiptychImageProcessor.of(wanted, fit="crop")(smooth(320, 240))["pixel_values"][0]
    torch.testing.assert_close(ours, preset(smooth(320, 240)), atol=3 / 255 / 0.25, rtol=0)


def test_colours_in_another_order_are_refused(tmp_path):
    with pytest.raises(ValueError, match="wants its colours as blue, green, red"):
        vision_preprocessing(saved(MobileViTImageProcessor(), tmp_path), (256, 256))


@pytest.mark.parametrize("content", [None, "{", json.dumps({"image_processor_type": "NoSuch"})])
def test_a_processor_that_is_not_there_is_said(content, tmp_path):
    saved(PROCESSORS["squashed"], tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(
        ValueError, match=r"wants its pictures is not known, for want of its preprocessor_config"
    ) as said:
        vision_preprocessing(tmp_path, (32, 32))
    assert "\n" not in str(said.value)
