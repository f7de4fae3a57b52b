"""Train the small model that ships with Diptych on Scenes, from nothing, in minutes on one CPU core.

    python examples/train_scenes.py --out runs/scenes       train, measure on 5,000 new pairs, save
    python examples/train_scenes.py --table                 the same training for every rival, in one table
    python examples/train_scenes.py --measure [MODEL]       measure a saved model, or the one that ships

Trained on true or false alone, such a model stays at 50 % for long: whether a sentence is true depends on
both halves, and neither gives a first hint. Three things that a drawing gives for free help it:

1. The image trunk first learns to see, as ImageNet teaches a full-size one: for each cell of its grid,
   which shape and colour is centred there, if any. Then it is frozen, and what it puts out is kept.
2. Sentence types come one after the other, the easiest first.
3. Beside the verdict, a linear layer that is thrown away afterwards reads from the fused features how
   many things the sentence is about, and how far apart they are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diptych import DiptychConfig, DiptychModel, DiptychProcessor
from diptych.encoders.tokens import Tokens
from diptych.fusion.attention import Attention
from diptych.pipeline.demo.drawing import COLOURS, SHAPES, Scene, draw_scene
from diptych.pipeline.demo.scenes import (
    KINDS,
    LABELS,
    NUMBERS,
    SHIPPED_MODEL,
    Quadruple,
    make_quadruples,
    make_scenes,
    vocabulary,
)
from diptych.pipeline.model.folder import load_model, save_model
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import BertConfig, BertTokenizer, get_cosine_schedule_with_warmup

SIDE, GRID = 48, 6  # pixels, and cells of 8 pixels: no two shapes have their centres in one cell
DRAWN = (48, 64, 64, 96, 128)  # pixels: sizes that pictures come in, before they are scaled to SIDE
MEAN, STD = 0.85, 0.25  # of pixels, all colours alike: the background is light
TRAIN_SEED, TEST_SEED = 1, 20_000
# Until this share of the steps: how often each of KINDS is drawn.
CURRICULUM = ((0.08, (1, 0, 0, 0)), (0.16, (1, 2, 0, 0)), (1.0, (1, 1, 3, 3)))
SIZES = {
    "region_grid": 0,
    "pool_words": False,
    "fusion_layers": 2,
    "fusion_heads": 4,
    "fusion_hidden_size": 256,
    "dropout": 0.0,
    "modality_dropout": 0.05,
}
# Rows of a quadruple: which of its images, which of its sentences, and whether that is true.
ROW_IMAGE, ROW_TEXT, ROW_LABEL = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.tensor([1, 0, 0, 1])


@dataclass(frozen=True)
class Drawings:
    """Quadruples as tensors; n of them have 2n pictures and 2n sentences.

    Attributes:
        pixels: (2n, side, side, 3), bytes.
        words: (2n, words), ids.
        kinds: (n,), indices into `KINDS`.
        cells: (2n, grid * grid, 5): colour and shape of what is centred there (-1: nothing), offset right
            and down from the cell's middle in cells, and radius, scaled to about -0.5 to 0.5.
        hints: (n, 4, 3) by row: how many things the sentence is about (-1: does not say), and how far the
            first thing that it names lies right of and below the second, in sides.
    """

    pixels: Tensor
    words: Tensor
    kinds: Tensor
    cells: Tensor
    hints: Tensor


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder to save the model in")
    parser.add_argument("--table", action="store_true", help="train and compare every fusion and each half alone")
    parser.add_argument("--measure", nargs="?", const=SHIPPED_MODEL, help="a model's folder; train nothing")
    parser.add_argument("--fusion", default="cross-modal", help="cross-modal, self-attention, bilinear, concat or mlp")
    parser.add_argument("--only", choices=("image", "text"), help="train and test with this half alone")
    parser.add_argument("--steps", type=int, default=3000, help="of 96 pairs each, after the image trunk")
    parser.add_argument("--trunk-steps", type=int, default=600, help="of 128 pictures each")
    parser.add_argument("--quadruples", type=int, default=24_000, help="to train on, 4 pairs each")
    parser.add_argument("--test-rows", type=int, default=5_000)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; on a busy machine 1 is fastest")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    if args.measure:
        scores = measure(*load_model(args.measure), args.test_rows)
        print(", ".join(f"{key} {score:.1%}" for key, score in scores.items()))
        return
    processor = make_processor()
    started = time.perf_counter()
    train = draw(args.quadruples, TRAIN_SEED, processor)
    print(f"{len(train.words) * 2} training pairs in {time.perf_counter() - started:.0f} s")
    torch.manual_seed(0)
    seeing = make_model("cross-modal", processor)
    learn_to_see(seeing, train, args.trunk_steps)
    features = see(seeing, train)

    runs = [(args.fusion, args.only)]
    if args.table:
        runs = [
            ("cross-modal", None),
            ("concat", None),
            ("mlp", None),
            ("cross-modal", "text"),
            ("cross-modal", "image"),
        ]
    rows = []
    for fusion, only in runs:
        torch.manual_seed(0)
        model = make_model(fusion, processor)
        model.image_encoder.copy_trunk(seeing.image_encoder)
        minutes = learn_to_judge(model, train, features, args.steps, only)
        scores = measure(model, processor, args.test_rows, only)
        name = f"{fusion}, {only} alone" if only else fusion
        rows.append([name, *(f"{scores[key]:.1%}" for key in ("all", *KINDS)), f"{minutes:.1f}"])
        if args.out and (fusion, only) == runs[0]:
            save_model(model.half(), processor, args.out)
            saved, processor = load_model(args.out)
            print(
                f"saved to {args.out}; accuracy as saved: {measure(saved, processor, args.test_rows, only)['all']:.1%}"
            )
    print(f"\n| {args.test_rows} new pairs | all | {' | '.join(KINDS)} | minutes |\n|---|" + "---|" * (len(KINDS) + 2))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def make_processor(more_words: Sequence[str] = ()) -> DiptychProcessor:
    """Whole words, those of Scenes and `more_words`, and pictures scaled to SIDE."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary(), "?", "."]
    words += [word for word in more_words if word not in words]
    tokenizer = BertTokenizer(vocab={word: index for index, word in enumerate(words)}, model_max_length=32)
    images = DiptychImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[MEAN] * 3, image_std=[STD] * 3)
    return DiptychProcessor(images, tokenizer, max_length=32)


def make_model(fusion: str, processor: DiptychProcessor, **fields: Any) -> DiptychModel:
    """The architecture, with random weights: 1.3 M parameters."""
    text = BertConfig(
        vocab_size=len(processor.tokenizer),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return DiptychModel(
        DiptychConfig(
            image_encoder="resnet-tiny",
            text_config=text.to_dict(),
            hidden_size=128,
            fusion=fusion,
            id2label=dict(enumerate(LABELS)),
            label2id={name: index for index, name in enumerate(LABELS)},
            **(SIZES | fields),
        )
    )


def draw(count: int, seed: int, processor: DiptychProcessor) -> Drawings:
    """Draw `count` quadruples, as the processor hands pictures to a model, with all that is known of them."""
    pixels = torch.empty(2 * count, SIDE, SIDE, 3, dtype=torch.uint8)
    cells = torch.full((2 * count, GRID * GRID, 5), -1.0)
    hints = torch.zeros(count, 4, 3)
    hints[..., 0] = -1
    kinds, sentences = [], []
    for index, quadruple in enumerate(make_quadruples(count, seed=seed)):
        kinds.append(KINDS.index(quadruple.kind))
        sentences += quadruple.sentences
        for which, scene in enumerate(quadruple.scenes):
            picture = processor.image_processor.resize(draw_scene(scene, DRAWN[index % len(DRAWN)]))
            pixels[2 * index + which] = torch.from_numpy(np.array(picture))
            for cell, target in cell_targets(scene):
                cells[2 * index + which, cell] = torch.tensor(target)
        if quadruple.kind in ("relation", "counting"):
            hints[index] = torch.tensor(
                [hint(quadruple, int(i), int(j)) for i, j in zip(ROW_IMAGE, ROW_TEXT, strict=True)]
            )
    words = processor.tokenize(sentences)["input_ids"]
    return Drawings(pixels, words, torch.tensor(kinds), cells, hints)


def cell_targets(scene: Scene) -> list[tuple[int, list[float]]]:
    """For each thing: the grid cell that its centre is in, and what `Drawings.cells` holds there."""
    targets = []
    for thing in scene.things:
        column, row = int(thing.x * GRID), int(thing.y * GRID)
        place = [thing.x * GRID - column - 0.5, thing.y * GRID - row - 0.5, 15 * (thing.radius - 0.115)]
        targets.append(
            (row * GRID + column, [list(COLOURS).index(thing.colour), list(SHAPES).index(thing.shape), *place])
        )
    return targets


def hint(quadruple: Quadruple, image: int, text: int) -> list[float]:
    """What `Drawings.hints` holds for one row."""
    things, words = quadruple.scenes[image].things, quadruple.sentences[text].split()
    if quadruple.kind == "counting":
        one = {plural: shape for shape, plural in SHAPES.items()}
        attribute = next(one.get(w, w) for w in words if one.get(w, w) in (*COLOURS, *SHAPES))
        return [sum(attribute in (thing.colour, thing.shape) for thing in things), 0, 0]
    first, second = things[:2]
    if words[1:3] != [first.colour, first.shape]:
        first, second = second, first
    return [-1, first.x - second.x, first.y - second.y]


def normalised(pixels: Tensor) -> Tensor:
    """(batch, 3, side, side) as the processor normalises, from bytes (batch, side, side, 3)."""
    return ((pixels.float() / 255 - MEAN) / STD).permute(0, 3, 1, 2)


def learn_to_see(model: DiptychModel, train: Drawings, steps: int) -> None:
    """Train the image trunk to tell what is centred in each cell of its grid."""
    encoder = model.image_encoder
    trunk = encoder.trunk.to(memory_format=torch.channels_last).train()
    sizes = (1, len(COLOURS), len(SHAPES), 3)  # something there? colour, shape, place and radius
    head = nn.Linear(encoder.width, sum(sizes))
    optimizer = torch.optim.AdamW([*trunk.parameters(), *head.parameters()], lr=3e-3, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 10, steps)
    started = time.perf_counter()
    for step in range(1, steps + 1):
        chosen = torch.randint(len(train.pixels), (128,))
        features = encoder.encode(normalised(train.pixels[chosen])).flatten(2).transpose(1, 2)  # (batch, cells, width)
        there, colour, shape, place = head(features).flatten(0, 1).split(sizes, dim=-1)
        target = train.cells[chosen].flatten(0, 1)
        full = target[:, 0] >= 0
        loss = (
            F.binary_cross_entropy_with_logits(there[:, 0], full.float())
            + 0.3 * F.cross_entropy(colour[full], target[full, 0].long())
            + 0.5 * F.cross_entropy(shape[full], target[full, 1].long())
            + 0.5 * F.mse_loss(place[full], target[full, 2:])
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0:
            right = (shape[full].argmax(1) == target[full, 1]).float().mean()
            print(f"seeing {step}/{steps}: loss {loss:.3f}, shapes {right:.1%}, {time.perf_counter() - started:.0f} s")
    encoder.pretrained = True


@torch.no_grad()
def see(model: DiptychModel, drawings: Drawings) -> Tensor:
    """What the frozen image trunk puts out for every picture, in half precision: (2n, width, grid, grid)."""
    trunk = model.image_encoder.trunk.eval()
    return torch.cat([trunk(normalised(pixels)).half() for pixels in drawings.pixels.split(256)])


def take(tokens: Tokens, rows: Tensor) -> Tokens:
    """Tokens of these rows; a row may be taken more than once, so each half is encoded only once."""
    rest = {
        name: getattr(tokens, name)[rows] for name in ("mask", "present", "ids") if getattr(tokens, name) is not None
    }
    return replace(tokens, states=tokens.states[rows], **rest)


def learn_to_judge(
    model: DiptychModel,
    train: Drawings,
    features: Tensor,
    steps: int,
    only: str | None,
    *,
    size: int = 24,
    curriculum: tuple[tuple[float, tuple[int, ...]], ...] = CURRICULUM,
) -> float:
    """Train all but the image trunk to tell true from false, on `size` quadruples a step. Returns minutes."""
    model.image_encoder.unfreeze(0)
    model.train()
    for module in model.fusion.modules():
        # Larger queries and keys than the default: attention that is sharper from the start.
        if isinstance(module, Attention):
            for linear in (module.query, module.key):
                nn.init.orthogonal_(linear.weight)
    hints = nn.Linear(model.fusion.out_dim, len(NUMBERS) + 2)
    fused: list[Tensor] = []  # the features that the head has just read
    hook = model.head.register_forward_pre_hook(lambda _, inputs: fused.append(inputs[0]))
    trained = [p for p in (*model.parameters(), *hints.parameters()) if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1]},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.02)
    schedule = get_cosine_schedule_with_warmup(optimizer, steps // 20, steps)
    of_kind = [torch.nonzero(train.kinds == kind)[:, 0] for kind in range(len(KINDS))]
    offsets = torch.arange(size).repeat_interleave(4) * 2
    image_rows, text_rows, labels = (
        offsets + ROW_IMAGE.repeat(size),
        offsets + ROW_TEXT.repeat(size),
        ROW_LABEL.repeat(size),
    )
    present = torch.ones(2 * size, dtype=torch.bool)
    started, average = time.perf_counter(), np.log(2)
    for step in range(1, steps + 1):
        shares = next(shares for until, shares in curriculum if step <= until * steps)
        kinds = torch.multinomial(torch.tensor(shares, dtype=torch.float), size, replacement=True)
        chosen = torch.stack([of_kind[kind][torch.randint(len(of_kind[kind]), ())] for kind in kinds])
        halves = (2 * chosen[:, None] + torch.arange(2)).flatten()
        words = train.words[halves]
        words = words[:, : int((words != 0).sum(1).max())]

        image = model.image_encoder.project(features[halves].float(), present & (only != "text"))
        text = model.text_encoder(words, (words != 0).long(), present & (only != "image"))
        output = model.fuse(take(image, image_rows), take(text, text_rows), labels=labels)
        loss = output.loss + hint_loss(hints(fused.pop()), train.hints[chosen].flatten(0, 1))

        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        average += 0.02 * (F.cross_entropy(output.logits.detach(), labels).item() - average)
        if step % 200 == 0:
            print(f"judging {step}/{steps}: loss {average:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
    hook.remove()
    model.text_encoder.pretrained = True
    return (time.perf_counter() - started) / 60


def hint_loss(found: Tensor, target: Tensor) -> Tensor:
    """Loss of the layer that is thrown away, over the rows that have a hint: (rows, numbers + 2) and (rows, 3)."""
    counted, placed = target[:, 0] >= 0, (target[:, 1:] != 0).any(1)
    number = F.cross_entropy(found[:, :-2], target[:, 0].long().clamp(min=0), reduction="none")
    distance = (found[:, -2:] - 3 * target[:, 1:]).square().mean(1)
    return (number * counted + distance * placed).mean()


@torch.no_grad()
def measure(model: DiptychModel, processor: DiptychProcessor, rows: int, only: str | None = None) -> dict[str, float]:
    """Accuracy on new pairs, made and classified as a user would: overall, and by kind."""
    data = make_scenes(rows, seed=TEST_SEED)
    model = model.float().eval()
    right = []
    for start in range(0, rows, 200):
        batch = data[start : min(start + 200, rows)]
        images = None if only == "text" else batch["image"]
        inputs = processor(images=images, text=None if only == "image" else batch["text"])
        right.append(model(**inputs).logits.argmax(1) == torch.tensor(batch["label"]))
    hits, kinds = torch.cat(right).float(), np.array(data["kind"])
    return {"all": float(hits.mean()), **{kind: float(hits[torch.from_numpy(kinds == kind)].mean()) for kind in KINDS}}


if __name__ == "__main__":
    main()
