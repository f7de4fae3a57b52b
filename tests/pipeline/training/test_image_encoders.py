"""Any vision model as the image encoder: trained, cached, saved, loaded with the network off, classifying."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from diptych import ImageTextClassifier, load_model
from diptych.pipeline.training.config import TrainConfig
from diptych.pipeline.training.optim import parameter_groups
from transformers import AutoModel, BitImageProcessor, ConvNextImageProcessor, SiglipImageProcessor, ViTImageProcessor

from ...encoders import tiny_vision_config
from .test_train import run

SMALL = {"height": 32, "width": 32}
PROCESSORS = {
    "vit": ViTImageProcessor(size=SMALL),
    "dinov2_with_registers": BitImageProcessor(size={"shortest_edge": 40}, crop_size=SMALL),
    "siglip": SiglipImageProcessor(size=SMALL, image_mean=[0.5] * 3, image_std=[0.25] * 3),
    "convnext": ConvNextImageProcessor(size={"shortest_edge": 64}),
    "test_efficientnet": None,  # timm's says it in config.json
}
NUMBERS = {"vit": (32, 0.5, 0.5), "dinov2_with_registers": (32, 0.48145466, 0.26862954), "siglip": (32, 0.5, 0.25)}
NUMBERS |= {"convnext": (64, 0.5, 0.5), "test_efficientnet": (160, 127 / 255, 128 / 255)}


def save_encoder(family: str, folder) -> str:
    """A folder as transformers saves it, the image processor's numbers in it."""
    torch.manual_seed(0)
    config = tiny_vision_config(family)
    if family.startswith("test_"):
        config.pretrained_cfg = {"input_size": [3, 160, 160], "mean": [127 / 255] * 3, "std": [128 / 255] * 3}
    AutoModel.from_config(config).save_pretrained(folder)
    if PROCESSORS[family] is not None:
        PROCESSORS[family].save_pretrained(folder)
    return str(folder)


FAMILIES = [pytest.param(name, marks=() if name == "vit" else pytest.mark.slow) for name in PROCESSORS]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_encoder_trains_is_cached_saved_loaded_offline_and_classifies(family, pairs, text_folder, tmp_path):
    folder, pairs = save_encoder(family, tmp_path / "encoder"), pairs.select(range(32))
    said: list[str] = []
    encoder = {"image_encoder": folder, "image_weights": "pretrained", "image_size": None}
    options = {"cache_dir": tmp_path / "cache", "epochs": 1, "say": said.append}
    run(pairs, tmp_path / "run", text_folder, **encoder, **options)
    assert "features of 32 images: 32 different ones, 32 of them new" in "\n".join(said)
    run(pairs, tmp_path / "again", text_folder, **encoder, **options)
    assert "features of 32 images: 32 different ones, 0 of them new" in "\n".join(said)

    shutil.rmtree(folder)  # the model's own folder has all it needs
    model, processor = load_model(tmp_path / "run")
    images = processor.image_processor
    height, mean, std = NUMBERS[family]
    assert (images.height, images.image_mean[0], images.image_std[0]) == (height, mean, std)
    again, _ = load_model(tmp_path / "again")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    batch = processor([pairs[0]["image"], None], ["a red shirt", "a blue shirt"])
    with torch.no_grad():
        expected = model(**batch).logits.softmax(1)
    rows = [{"image": pairs[0]["image"], "text": "a red shirt"}, {"image": None, "text": "a blue shirt"}]
    found = ImageTextClassifier.from_pretrained(tmp_path / "run")(rows)
    scores = torch.tensor([[prediction["scores"][name] for name in model.config.labels] for prediction in found])
    torch.testing.assert_close(scores, expected, atol=1e-4, rtol=1e-4)
    saved = (tmp_path / "run" / "model" / "config.json").read_text()
    assert str(tmp_path) not in saved
    assert "label_names" not in json.loads(saved)["image_config"] or len(saved) < 8000


def test_the_top_of_a_vision_trunk_trains_at_rates_that_shrink_towards_the_input(pairs, text_folder, tmp_path):
    folder = save_encoder("vit", tmp_path / "encoder")
    options = {"image_encoder": folder, "image_weights": "pretrained", "image_size": None, "epochs": 1}
    run(pairs, tmp_path / "run", text_folder, unfreeze_image=2, layer_decay=0.5, region_grid=2, **options)
    model, _ = load_model(tmp_path / "run")
    start = AutoModel.from_pretrained(folder).state_dict()
    moved = {
        name for name, value in model.image_encoder.trunk.state_dict().items() if not torch.equal(value, start[name])
    }
    assert moved
    assert not any(name.startswith("embeddings") for name in moved)
    assert model.config.region_grid == 2
    config = TrainConfig(unfreeze_image=2, layer_decay=0.5, encoder_learning_rate=4e-5)
    rates = {group["name"]: group["lr"] for group in parameter_groups(model, config)}
    shrinking = ("image.block1", 4e-5), ("image.block0", 2e-5), ("image.embeddings", 1e-5)
    assert all(rates[name] == pytest.approx(rate) for name, rate in shrinking if name in rates)
    assert "image.block0" in rates


def test_an_encoder_of_another_size_is_asked_whether_it_takes_it(pairs, text_folder, tmp_path):
    folder = save_encoder("vit", tmp_path / "encoder")
    options = {"image_encoder": folder, "image_weights": "pretrained", "epochs": 1}
    run(pairs, tmp_path / "run", text_folder, image_size=(40, 24), **options)
    model, processor = load_model(tmp_path / "run")
    assert model.image_encoder(processor([pairs[0]["image"]])["pixel_values"]).grid == (4, 3)  # 5 x 3, --region-grid 4
    with pytest.raises(ValueError, match="image_size is 4 x 4; vit takes pictures of 32 x 32"):
        run(pairs, tmp_path / "other", text_folder, image_size=(4, 4), **options)


def test_an_encoder_without_its_numbers_is_refused(pairs, text_folder, tmp_path):
    folder = save_encoder("vit", tmp_path / "encoder")
    (tmp_path / "encoder" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"how the image encoder .* wants its pictures is not known"):
        run(pairs, tmp_path / "run", text_folder, image_encoder=folder, image_weights="pretrained")
