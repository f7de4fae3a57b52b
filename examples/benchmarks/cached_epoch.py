"""What an epoch costs with features from the cache beside one that encodes, over frozen trunks.

    python examples/benchmarks/cached_epoch.py .../fashion-products --text-encoder MINILM
    python examples/benchmarks/cached_epoch.py .../fashion-products --image-encoder resnet50 \
        --text-encoder random-bert-base --tokenizer MINILM --heads "cross-modal, default"

Steps of 64 rows at 224 pixels, one thread: reading the rows, forward, backward, clipping, AdamW, as `train` does
them. With and without the cache take turns; times are medians of the process's CPU seconds, and an epoch is as
many steps either way, so the ratio of steps is that of epochs. `reading` is what it takes to get a batch from the
cache, as a share of the rest of the head's step. After so many epochs (`pays from`) encoding once and reading costs
less than encoding in each. Differences are of the logits of all rows, after these few steps. `random-bert-base`
is BERT-base with random weights and the tokenizer of `--tokenizer`: its cost does not hang on what it has learned.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diptych import DiptychConfig, DiptychModel, DiptychProcessor
from diptych.encoders.draws import RowDraws
from diptych.encoders.resnet import IMAGE_ENCODERS
from diptych.encoders.text import load_text_config
from diptych.encoders.vision import load_image_config
from diptych.pipeline.data.columns import find_columns
from diptych.pipeline.data.labels import label_ids, label_names
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.feature_cache.encode import RowsToEncode, encode_images, encode_texts
from diptych.pipeline.loading.dataset import PairDataset
from diptych.pipeline.loading.plan import Plan
from diptych.pipeline.model.image_processor import DiptychImageProcessor
from diptych.pipeline.model.tokenizer import load_tokenizer
from measuring import conditions

BATCH = 64
HEADS: dict[str, dict[str, Any]] = {
    "cross-modal, default": {},
    "cross-modal, feed-forward 1,024": {"fusion_hidden_size": 1024},
    "cross-modal, 7 x 7": {"fusion_hidden_size": 1024, "region_grid": 0},
    "self-attention": {"fusion": "self-attention"},
    "bilinear": {"fusion": "bilinear"},
    "mlp": {"fusion": "mlp"},
    "concat": {"fusion": "concat"},
}


class Bench:
    """One head over frozen trunks, with and without features of its rows."""

    def __init__(
        self, fields: dict[str, Any], options: argparse.Namespace, trunks: DiptychModel | None, cache: Path
    ) -> None:
        table = load_tables(options.data)["train"]
        columns = find_columns(table, label="label")
        names = label_names(table, "label")
        of_text = options.tokenizer or options.text_encoder
        text = load_text_config(options.text_encoder) if options.text_encoder != "random-bert-base" else None
        named = options.image_encoder in IMAGE_ENCODERS
        torch.manual_seed(0)
        self.model = DiptychModel(
            DiptychConfig(
                image_encoder=options.image_encoder if named else "",
                image_config=None if named else load_image_config(options.image_encoder),
                text_config=text,
                id2label=dict(enumerate(names)),
                label2id={name: index for index, name in enumerate(names)},
                **fields,
            )
        )
        for name in ("image_encoder", "text_encoder"):
            encoder = getattr(self.model, name)
            if trunks is not None:
                encoder.copy_trunk(getattr(trunks, name))
            encoder.pretrained = True
            encoder.unfreeze(0)
        processor = DiptychProcessor(DiptychImageProcessor(), load_tokenizer(of_text), max_length=128)
        rows = range(BATCH * options.batches)
        labels = label_ids(table, "label", names)
        plain = PairDataset(table, columns, labels, processor, rows=rows)
        wanted = [RowsToEncode(table, columns, rows)]
        started = time.process_time()
        images = encode_images(self.model, processor, wanted, cache)
        texts = encode_texts(self.model, processor, wanted, cache)
        self.encoding = (time.process_time() - started) / options.batches  # of a step's rows
        if images is None or texts is None:
            raise ValueError("half precision cannot hold the features")
        cached = plain.with_features(images[0], texts[0])
        self.data = [plain, cached]
        tokens = [int(half.places.length[list(rows)].sum()) * half.store.width for half in (images[0], texts[0])]
        self.bytes = [2 * count / len(rows) for count in tokens]
        self.batches = {
            "plain": plain.batches(Plan(len(rows), BATCH), shuffle=True),
            "cached": cached.batches(Plan(len(rows), BATCH), shuffle=True),
        }
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4, fused=True)
        self.running = {name: self._endless(name) for name in self.batches}
        self.times: dict[str, list[float]] = {"plain": [], "cached": [], "reading": []}

    def _endless(self, name: str) -> Iterator[dict[str, Any]]:
        epoch = 0
        while True:
            epoch += 1
            yield from self.batches[name].epoch(epoch)

    def step(self, name: str) -> None:
        """One step, timed."""
        self.model.train()
        started = time.process_time()
        batch = next(self.running[name])
        read = time.process_time()
        inputs = {key: value for key, value in batch.items() if key not in ("rows", "problems")}
        with RowDraws(0, batch["rows"], self.model.device):
            loss = self.model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        ended = time.process_time()
        self.times[name].append(ended - started)
        if name == "cached":
            self.times["reading"].append((read - started) / (ended - read))

    @torch.inference_mode()
    def difference(self) -> tuple[float, float]:
        """The largest difference of logits with and without the cache, and the share of equal labels."""
        self.model.eval()
        found = {}
        for name, batches in self.batches.items():
            logits, rows = [], []
            for batch in batches.epoch(1):
                rows += batch.pop("rows")
                batch.pop("problems")
                logits.append(self.model(**batch).logits)
            found[name] = torch.cat(logits)[torch.tensor(rows).argsort()]
        plain, cached = found["plain"], found["cached"]
        return float((plain - cached).abs().max()), float((plain.argmax(1) == cached.argmax(1)).float().mean())

    def cells(self) -> list[str]:
        """Its line of the table."""
        plain, cached, reading = (statistics.median(self.times[name][1:]) for name in ("plain", "cached", "reading"))
        difference, agreement = self.difference()
        image, text = self.bytes
        parameters = sum(p.numel() for p in self.trained) / 1e6
        return [
            f"{parameters:.1f}",
            f"{1000 * plain:,.0f}",
            f"{1000 * cached:,.1f}",
            f"{plain / cached:.1f}",
            f"{reading:.1%}",
            f"{image / 1000:.1f} + {text / 1000:.1f}",
            f"{self.encoding / (plain - cached):.1f}",
            f"{difference:.0e}",
            f"{agreement:.1%}",
        ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of the products")
    parser.add_argument("--image-encoder", default="resnet18", help="a name, or a folder of a vision model")
    parser.add_argument("--text-encoder", required=True, help="a folder or a Hub id, or random-bert-base")
    parser.add_argument("--tokenizer", help="of random-bert-base: a folder or a Hub id")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--batches", type=int, default=4, help="of 64 different rows")
    parser.add_argument("--rounds", type=int, default=3, help="steps that encode; with the cache four times as many")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(conditions(options.rounds))
    print(f"{options.image_encoder} + {options.text_encoder}\n")
    columns = ["head", "M parameters", "step that encodes, ms", "step from the cache, ms", "ratio", "reading"]
    columns += ["kB a row, image + text", "pays from epoch", "logits differ by", "equal labels"]
    with tempfile.TemporaryDirectory() as cache:
        benches: dict[str, Bench] = {}
        for name in options.heads:
            trunks = next(iter(benches.values())).model if benches else None
            benches[name] = Bench(HEADS[name], options, trunks, Path(cache) / name.replace(" ", ""))
        for _ in range(options.rounds + 1):  # the first round warms up
            for bench in benches.values():
                bench.step("plain")
                for _ in range(4):
                    bench.step("cached")
        print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
        for name, bench in benches.items():
            print("| " + " | ".join([name, *bench.cells()]) + " |", flush=True)


if __name__ == "__main__":
    main()
