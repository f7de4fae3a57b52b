"""Nothing leaves the machine unless a Hub id was named: with no network allowed, and nobody saying so, all works."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from .conftest import picture

NO_NETWORK = """
import os, socket, sys

def refuse(*arguments, **_):
    os.write(2, f"CALLED OUT: {arguments}\\n".encode())  # also where the caller swallows the error
    os._exit(3)

def connect(self, address, plain=socket.socket.connect):
    return plain(self, address) if self.family == socket.AF_UNIX else refuse(address)

socket.socket.connect = socket.socket.connect_ex = connect
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
"""
STEPS = {
    "import": "import diptych; diptych.ImageTextClassifier, diptych.train",
    "check": "diptych.check('pairs', quiet=True); diptych.check('pairs/train.csv', text_encoder=encoder, quiet=True)",
    "train": "diptych.train('pairs', 'run', **tiny, **few)",
    "classify": (
        "from diptych.pipeline.batch_inference.classify_table import classify_table\n"
        "classify_table('pairs/train.csv', 'out.csv', model='run', quiet=True)\n"
        "print(diptych.ImageTextClassifier.from_pretrained('run')(image='pairs/0.png', text='a red shirt')['label'])"
    ),
    "evaluate": "diptych.evaluate('run', 'pairs/train.csv', quiet=True)",
}
SLOW = {
    "tune": "from diptych import tune\ntune('pairs', 'sweep', trials=2, **tiny, **few)",
    "help": "from diptych.pipeline.cli.main import app\napp(['train', '--help'], standalone_mode=False)",
}


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "pairs").mkdir()
    rows = []
    for i in range(12):
        picture(("red", "blue")[i % 2], seed=i).save(tmp_path / "pairs" / f"{i}.png")
        rows.append({"image": f"{i}.png", "text": "a shirt", "label": ("red", "blue")[i % 2]})
    pd.DataFrame(rows).to_csv(tmp_path / "pairs" / "train.csv", index=False)
    pd.DataFrame(rows[:4]).to_json(tmp_path / "pairs" / "validation.jsonl", orient="records", lines=True)
    return tmp_path


def run(folder: Path, text_folder: str, steps: dict[str, str], *lines: str) -> None:
    architecture = {"hidden_size": 16, "fusion_heads": 2, "fusion_layers": 1, "fusion_hidden_size": 32}
    options = {"image_encoder": "resnet-tiny", "image_weights": "random", "image_size": (16, 16)}
    script = [
        NO_NETWORK,
        f"encoder = {text_folder!r}",
        f"tiny = {options | {'architecture': architecture, 'text_encoder': text_folder}!r}",
        "few = {'epochs': 1, 'batch_size': 4, 'quiet': True}",
        *[f"os.write(1, b'{name}\\n')\n{code}" for name, code in steps.items()],
        *lines,
    ]
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_OFFLINE")}
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(script)], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-500:] + done.stderr[-2000:]


def test_a_call_would_be_seen(folder, text_folder):
    with pytest.raises(AssertionError, match="CALLED OUT"):
        run(folder, text_folder, {}, "from huggingface_hub import model_info\nmodel_info('bert-base-uncased')")


def test_local_data_is_checked_trained_on_and_classified_without_the_network(folder, text_folder):
    run(folder, text_folder, STEPS)


@pytest.mark.slow
def test_a_sweep_and_the_demo_need_no_network(folder, text_folder):
    demo = "from diptych.pipeline.cli.main import app\napp(['demo', '--out', 'demo'], standalone_mode=False)"
    run(folder, text_folder, {"import": STEPS["import"], **SLOW, "demo": demo})
