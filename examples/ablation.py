"""What each mechanism is worth: every fusion and its parts, on Scenes, on product photos and on NLVR.

    python examples/ablation.py scenes --out runs/ablation
    python examples/ablation.py products --out runs/ablation --data .../fashion-products --text-encoder MINILM
    python examples/ablation.py nlvr --out runs/ablation --data .../nlvr       (after scenes)

Each run is written to OUT/results.jsonl when it ends; what stands there is not run again. `--share 1/2` and
`--share 2/2`, side by side, halve the work of a stage; whichever ends last makes the table, OUT/<stage>.md. All
runs of a stage share their trunks, whose features are computed once, and a budget:

- scenes: an image trunk that has learned to see (`train_scenes.py`), frozen, and a text trunk that has learned
  to read (each word tells the four words on either side of it), which trains on; 2,000 steps of 64 pairs, less
  than half of what the shipped model saw. Accuracy on 5,000 new pairs.
- products: the image trunk of a model trained by `--objective align`, and MiniLM as it is, both frozen; the
  heads have half the default width. Accuracy on validation and test rows together, which chose nothing.
- nlvr: everything trains, from random weights and from the models of the first stage.

Intervals are of 95 %, over quadruples on Scenes, rows on products and distinct sentences on NLVR, of the
mean over the seeds.
"""

from __future__ import annotations

import argparse
import re
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import train_scenes as scenes
from diptych import DiptychModel, load_model, train
from diptych.pipeline.data.images import read_image
from diptych.pipeline.data.labels import label_ids, label_names
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.model.folder import save_model
from diptych.pipeline.runtime.choices import FUSIONS
from heads import encode, make_heads, predict, train_heads
from PIL import Image
from results import Result, remember, write_table
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup


@dataclass(frozen=True)
class Choice:
    """One row of the table: the fields of `DiptychConfig` that it changes, and the half it is left with."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    only: str | None = None
    seeds: int = 1


CHOICES = [
    Choice("cross-modal", {"fusion": "cross-modal"}, seeds=3),
    Choice("self-attention", {"fusion": "self-attention"}, seeds=3),
    Choice("bilinear", {"fusion": "bilinear"}),
    Choice("concat", {"fusion": "concat"}, seeds=3),
    Choice("mlp", {"fusion": "mlp"}, seeds=3),
    Choice("text only", {"fusion": "cross-modal"}, only="text", seeds=3),
    Choice("image only", {"fusion": "cross-modal"}, only="image", seeds=3),
    Choice("cross-modal, no modality weights", {"modality_gate": False}),
    Choice("cross-modal, no experts", {"experts": False}),
    Choice("cross-modal, with alignment", {"alignment_weight": 0.1}),
    Choice("concat, with modality weights", {"fusion": "concat", "modality_gate": True}),
]


@dataclass(frozen=True)
class Budget:
    """How much a run sees: quadruples to train and to test with, steps of each kind, epochs."""

    train: int = 24_000
    test: int = 1_250
    see: int = 600
    read: int = 400
    steps: int = 2_000
    align: int = 8
    products: int = 5
    nlvr: int = 2


QUICK = Budget(48, 8, 2, 2, 2, 1, 1, 1)
SIZE = 16  # quadruples in a step on Scenes
# As in train_scenes.py; of fewer steps the first ones need a larger share.
CURRICULUM = ((0.1, (1, 0, 0, 0)), (0.25, (1, 2, 0, 0)), (1.0, (1, 1, 3, 3)))
OFFSETS = (-4, -3, -2, -1, 1, 2, 3, 4)  # words away that a word tells of while the text trunk learns to read
NLVR_SIZE = (40, 160)  # pixels: shapes nearly as large as on Scenes


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=("scenes", "products", "nlvr"))
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--data", type=Path, help="the folder of the products or of NLVR")
    parser.add_argument("--text-encoder", help="products: a folder with MiniLM, or a Hub id")
    parser.add_argument("--share", default="1/1", help="K/N: of all runs every N-th, from the K-th on")
    parser.add_argument("--quick", action="store_true", help="a step or two of each run, to see that all works")
    args = parser.parse_args()
    first, step = map(int, args.share.split("/"))
    runs, budget = slice(first - 1, None, step), QUICK if args.quick else Budget()
    if args.stage != "scenes" and args.data is None:
        parser.error("give --data")
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.stage == "scenes":
        scenes_stage(args.out, runs, budget)
    elif args.stage == "products":
        products_stage(args.out, args.data, args.text_encoder, runs, budget)
    else:
        nlvr_stage(args.out, args.data, runs, budget)


def scenes_stage(out: Path, runs: slice, budget: Budget) -> None:
    """Every choice on Scenes."""
    processor = scenes.make_processor()
    train = scenes.draw(budget.train, scenes.TRAIN_SEED, processor)
    test = scenes.draw(budget.test, scenes.TEST_SEED, processor)
    trunks = scenes.make_model("cross-modal", processor)
    saved = out / "scenes-trunks.pt"
    if saved.exists():
        for encoder, state in zip((trunks.image_encoder, trunks.text_encoder), torch.load(saved), strict=True):
            encoder.load_state_dict(state)
            encoder.pretrained = True
    else:
        torch.manual_seed(0)
        scenes.learn_to_see(trunks, train, budget.see)
        learn_to_read(trunks, train, budget.read)
        torch.save([trunks.image_encoder.state_dict(), trunks.text_encoder.state_dict()], saved)
    train_features, test_features = scenes.see(trunks, train), scenes.see(trunks, test)

    def run(choice: Choice, seed: int) -> Result:
        torch.manual_seed(seed)
        model = scenes.make_model(processor=processor, **({"fusion": "cross-modal"} | choice.fields))
        model.image_encoder.copy_trunk(trunks.image_encoder)
        model.text_encoder.copy_trunk(trunks.text_encoder)
        started = time.process_time()
        scenes.learn_to_judge(model, train, train_features, budget.steps, choice.only, size=SIZE, curriculum=CURRICULUM)
        seconds = (time.process_time() - started) * len(train.kinds) / (budget.steps * SIZE)
        hits, weight = judge(model, test, test_features, choice.only)
        if choice.name == choice.fields.get("fusion") and seed == 0:
            save_model(model, processor, out / f"scenes-{choice.name}")
        return Result(hits, heads(model), seconds, weight)

    for choice, seed in every_run()[runs]:
        remember(out, "scenes", choice.name, seed, partial(run, choice, seed))
    write_table(out, ["scenes"])


def every_run() -> list[tuple[Choice, int]]:
    """Choices and seeds, the first seed of every choice before the second of any."""
    runs = [(choice, seed) for choice in CHOICES for seed in range(choice.seeds)]
    return sorted(runs, key=lambda run: run[1])


def products_stage(out: Path, data: Path, text_encoder: str, runs: slice, budget: Budget) -> None:
    """Every choice on the season and the colour of products, over shared frozen trunks."""
    if not (out / "align" / "run.json").exists():
        train(
            data,
            out / "align",
            objective="align",
            image_encoder="resnet18",
            text_encoder=text_encoder,
            image_weights="random",
            image_size=(80, 60),
            max_length=32,
            epochs=budget.align,
            batch_size=128,
            learning_rate=1e-3,
        )
    trunks, processor = load_model(out / "align")
    features, names = encode(trunks, processor, data, ["season", "colour"])

    def run(choice: Choice, seed: int, column: str) -> Result:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 256, "fusion_hidden_size": 512, "region_grid": 0, "pool_words": False}
        model = make_heads(trunks, names[column], **(sizes | choice.fields))
        seconds = train_heads(
            model, features["train"], features["train"].labels[column], epochs=budget.products, only=choice.only
        )
        hits, weights = [], []
        for split in ("validation", "test"):
            found, weight = predict(model, features[split], choice.only)
            hits += (found == features[split].labels[column]).tolist()
            weights += [weight] * len(found)
        return Result(hits, heads(model), seconds, None if None in weights else float(np.mean(weights)))

    for choice, seed in every_run()[runs]:
        for column in ("season", "colour"):
            remember(out, column, choice.name, seed, partial(run, choice, seed, column))
    write_table(out, ["season", "colour"])


def nlvr_stage(out: Path, data: Path, runs: slice, budget: Budget) -> None:
    """Every fusion on NLVR, from random weights and from its model of the first stage."""
    splits = load_tables(data)
    tables = {split: splits[split].rows for split in ("train", "validation")}
    words = sorted({word for text in tables["train"].values("text") for word in re.findall(r"[a-z0-9]+", text.lower())})
    processor = scenes.make_processor(words)
    names = label_names(splits["train"], "label")
    pixels, ids, labels = {}, {}, {}
    for split, rows in tables.items():
        found = [read_image(image) for image in rows.values("image")]
        images = [image.resize(NLVR_SIZE[::-1], Image.Resampling.BICUBIC) for image in found]
        pixels[split] = torch.stack([torch.from_numpy(np.array(image)) for image in images])
        ids[split] = processor.tokenize(list(rows.values("text")))["input_ids"]
        labels[split] = torch.tensor(label_ids(splits[split], "label", names))
    sentences = np.unique(list(tables["validation"].values("text")), return_inverse=True)[1]
    share = float(labels["validation"].float().mean())
    print(f"{len(labels['validation'])} rows, majority {max(share, 1 - share):.1%}, {sentences.max() + 1} sentences")

    def batch(split: str, rows: Tensor) -> dict[str, Tensor]:
        chosen = ids[split][rows]
        chosen = chosen[:, : int((chosen != 0).sum(1).max())]
        return {
            "pixel_values": scenes.normalised(pixels[split][rows]),
            "input_ids": chosen,
            "attention_mask": (chosen != 0).long(),
        }

    def run(fusion: str, start: Path | None) -> Result:
        torch.manual_seed(0)
        model = scenes.make_model(fusion, processor)
        if start is not None:
            copy_weights(load_model(start)[0], model)
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.02)
        size = 96
        steps = budget.nlvr * -(-len(labels["train"]) // size)
        schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
        started = time.process_time()
        for _ in range(budget.nlvr):
            for rows in torch.randperm(len(labels["train"])).split(size):
                loss = model(**batch("train", rows), labels=labels["train"][rows]).loss
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
        seconds = (time.process_time() - started) / budget.nlvr
        model.eval()
        hits, weights = [], []
        with torch.inference_mode():
            for rows in torch.arange(len(labels["validation"])).split(128):
                output = model(**batch("validation", rows))
                hits += (output.logits.argmax(1) == labels["validation"][rows]).tolist()
                weights.append(output.modality_weights)
        weight = None if weights[0] is None else float(torch.cat(weights)[:, 0].mean())
        return Result(hits, heads(model), seconds, weight)

    for fusion in FUSIONS[runs]:
        remember(out, "nlvr", f"{fusion}, from scratch", 0, partial(run, fusion, None))
        remember(out, "nlvr", f"{fusion}, from Scenes", 0, partial(run, fusion, out / f"scenes-{fusion}"))
    write_table(out, ["nlvr"], clusters=sentences)


def copy_weights(source: DiptychModel, target: DiptychModel) -> None:
    """All weights of `source`; where `target` knows more words, those come after the ones they share."""
    weights = target.state_dict()
    for key, weight in source.state_dict().items():
        weights[key][tuple(slice(length) for length in weight.shape)] = weight.to(weights[key].dtype)
    target.load_state_dict(weights)


def learn_to_read(model: DiptychModel, train: scenes.Drawings, steps: int) -> None:
    """Train the text trunk to tell, of each word, the words around it: what is said, not whether it is true."""
    encoder, reach = model.text_encoder, max(OFFSETS)
    vocabulary = encoder.trunk.config.vocab_size
    head = torch.nn.Linear(encoder.width, len(OFFSETS) * vocabulary)
    optimizer = torch.optim.AdamW([*encoder.trunk.parameters(), *head.parameters()], lr=2e-3, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    for step in range(1, steps + 1):
        words = train.words[torch.randint(len(train.words), (128,))]
        words = words[:, : int((words != 0).sum(1).max())]  # (batch, words)
        states = encoder.encode(words, (words != 0).long())[..., : encoder.width]  # without the ids behind them
        found = head(states)  # (batch, words, offsets * vocabulary)
        padded = torch.nn.functional.pad(words, (reach, reach))
        around = torch.stack([padded[:, reach + i : reach + i + words.shape[1]] for i in OFFSETS], dim=-1)
        around = around.masked_fill((words == 0).unsqueeze(-1), 0)
        loss = torch.nn.functional.cross_entropy(found.view(-1, vocabulary), around.flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            print(f"reading {step}/{steps}: loss {loss:.3f}", flush=True)
    encoder.pretrained = True


@torch.no_grad()
def judge(
    model: DiptychModel, test: scenes.Drawings, features: Tensor, only: str | None
) -> tuple[list[bool], float | None]:
    """Which pairs the model judges right, four for each quadruple, and its mean image weight."""
    model.eval()
    hits, weights = [], []
    for start in range(0, len(test.kinds), 50):
        size = min(50, len(test.kinds) - start)
        halves = slice(2 * start, 2 * (start + size))
        words, present = test.words[halves], torch.ones(2 * size, dtype=torch.bool)
        image = model.image_encoder.project(features[halves].float(), present & (only != "text"))
        text = model.text_encoder(words, (words != 0).long(), present & (only != "image"))
        pairs = 2 * torch.arange(size).repeat_interleave(4)
        output = model.fuse(
            scenes.take(image, pairs + scenes.ROW_IMAGE.repeat(size)),
            scenes.take(text, pairs + scenes.ROW_TEXT.repeat(size)),
        )
        hits.append(output.logits.argmax(1) == scenes.ROW_LABEL.repeat(size))
        if output.modality_weights is not None:
            weights.append(output.modality_weights[:, 0])
    return torch.cat(hits).tolist(), float(torch.cat(weights).mean()) if weights else None


def heads(model: DiptychModel) -> int:
    """Number of parameters of the fusion and the head."""
    return sum(p.numel() for module in (model.fusion, model.head) for p in module.parameters())


if __name__ == "__main__":
    main()
