"""Several processes train one model (gloo, CPU): batches without an image on one of them don't stop the other."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import sys
from datasets import load_from_disk
from diptych import train

data, out, text_folder = sys.argv[1:]
train(
    load_from_disk(data), out, image_encoder="resnet-tiny", image_weights="random", image_size=(16, 16),
    text_encoder=text_folder, architecture={"hidden_size": 16, "fusion_heads": 2, "fusion_hidden_size": 32},
    epochs=2, batch_size=8, quiet=True, say=lambda line: None,
)
"""


@pytest.mark.slow
def test_batches_without_an_image_hang_nobody(pairs, text_folder, tmp_path):
    few = pairs.map(lambda row, index: {**row, "image": row["image"] if index % 8 == 0 else None}, with_indices=True)
    few.save_to_disk(tmp_path / "data")
    (tmp_path / "script.py").write_text(SCRIPT)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, tmp_path / "script.py", tmp_path / "data", tmp_path / "run", text_folder]
    found = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr[-3_000:]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert all(0 < epoch["train_loss"] < 5 for epoch in record["epochs"])
