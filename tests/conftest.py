"""What tests share: no network, one thread, a tiny text encoder, tiny models, tiny data."""

from __future__ import annotations

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="diptych-tests-")
os.environ["DIPTYCH_CACHE"] = tempfile.mkdtemp(prefix="diptych-tests-cache-")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ:  # the processes of `pytest -n` share the CPUs
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from diptych import DiptychModel, DiptychProcessor, build_model
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from PIL import Image
from transformers import BertConfig, BertModel, BertTokenizer

torch.set_num_threads(1)
os.fsync = lambda file: None  # no test cuts the power, and a busy disk takes long

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "green", "shirt", "shoe", "left", "right"]
DATA = Path(os.environ.get("DIPTYCH_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


DECOYS = (
    *(".classify.json", ".ended-x-0-5", ".failed-x", ".part-000000.x.csv", ".out.csv.old", ".x.csv.parts/notes.txt"),
    *("out.partial.csv", "model/part-000000.csv", "checkpoints/1/state.json", "features/a.safetensors"),
)
"""Files with names like ours that are of the user."""


@contextlib.contextmanager
def kept(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    """A folder with files of these names, which are byte for byte what they were when it is left."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"of the user: {name}")
    yield folder
    found = {name: (folder / name).read_bytes() if (folder / name).is_file() else None for name in names}
    assert found == {name: f"of the user: {name}".encode() for name in names}


@pytest.fixture
def decoys(tmp_path: Path) -> Iterator[None]:
    """Files with names like ours in a test's folder, which must be there unchanged in the end."""
    with kept(tmp_path, DECOYS):
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real data sets; the test is skipped where there is none."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set DIPTYCH_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a BERT of 16 dimensions and its tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def tiny(text_folder: str) -> tuple[DiptychModel, DiptychProcessor]:
    """A random model of two classes and its processor."""
    torch.manual_seed(0)
    model, processor = build_tiny(text_folder)
    return model.eval(), processor


def build_tiny(text_folder: str, **architecture: Any) -> tuple[DiptychModel, DiptychProcessor]:
    """A random model that sees 16 x 16 pixels and answers no or yes."""
    options: dict[str, Any] = {
        "labels": ["no", "yes"],
        "hidden_size": 16,
        "fusion_heads": 2,
        "fusion_layers": 1,
        "fusion_hidden_size": 32,
    }
    return build_model(
        "resnet-tiny", text_folder, image_weights="random", image_size=(16, 16), **(options | architecture)
    )


def sized(height: int, width: int, shortest_edge: int | None = None, **numbers: Any) -> DiptychImageProcessor:
    """Transforms to `height` x `width` pixels, cut out of the centre if a shortest edge is given."""
    size = {"height": height, "width": width}
    if shortest_edge is None:
        return DiptychImageProcessor(size=size, **numbers)
    return DiptychImageProcessor(size={"shortest_edge": shortest_edge}, crop_size=size, **numbers)


def picture(colour: str, seed: int = 0, size: int = 16) -> Image.Image:
    """A noisy square of `colour`."""
    pixels = np.asarray(Image.new("RGB", (size, size), colour), dtype=np.int16)
    noise = np.random.default_rng(seed).integers(-40, 41, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def pairs() -> datasets.Dataset:
    """96 pictures, red or blue, with a sentence about one or the other; the label is the picture's colour."""
    rows = [
        {
            "image": picture(("red", "blue")[i % 2], seed=i),
            "text": f"a {('red', 'blue')[i // 2 % 2]} shirt",
            "label": i % 2,
        }
        for i in range(96)
    ]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["red", "blue"]),
        }
    )
    return datasets.Dataset.from_list(rows, features=features)
