"""What the fast paths of classifying give: rows per CPU second and labels, beside 32 bits.

    python examples/benchmarks/fast_paths.py MODEL DATA [--paths int8 bf16 compile] [--rounds 3]

MODEL is a run's folder, DATA a parquet file of products, such as the test split of fashion-products. Its first 64 rows
warm up and calibrate 8 bits; labels are counted of the others. One thread; everything is loaded, quantized and
compiled beforehand. All ways take turns in each round; what counts are medians of CPU seconds: of classifying, from
undecoded rows to predictions, and of the image trunk alone on ready tensors.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from diptych import ImageTextClassifier
from diptych.pipeline.data.tables import load_tables
from diptych.pipeline.inference.encoding import InferenceEncoders
from diptych.pipeline.inference.fast_path import WARM_UP, use_fast_path
from diptych.pipeline.inference.options import Fast
from measuring import conditions, seconds

PATHS = {"int8": Fast(int8=True, min_agreement=0), "bf16": Fast(dtype="bf16", min_agreement=0)} | {
    "compile": Fast(compile=True, min_agreement=0)
}


def same_labels(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> str:
    """How many labels are the same."""
    same = sum(a["label"] == b["label"] for a, b in zip(one, other, strict=True))
    return f"{same} of {len(one)} ({same / len(one):.1%})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("data", help="a parquet file with the columns image and text")
    parser.add_argument("--paths", nargs="+", choices=PATHS, default=list(PATHS))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = list(load_tables(options.data)["train"].rows)
    classify = ImageTextClassifier.from_pretrained(options.model, device="cpu")
    encoders: dict[str, InferenceEncoders] = {"32 bits": classify.encoders}
    for path in options.paths:
        use_fast_path(classify, PATHS[path], lambda: rows, say=lambda line: None)
        encoders[path] = classify.encoders
    rest = rows[WARM_UP:]
    images = [{"image": row["image"]} for row in rest]
    pixels = classify.processor([row["image"] for row in rest[:32]], ["a"] * 32)["pixel_values"]

    def use(path: str, some: list[Any]) -> list[dict[str, Any]]:
        classify.encoders = encoders[path]
        return classify(some)

    def encode(path: str) -> None:
        with torch.inference_mode():
            encoders[path].encode_images(pixels)

    both, alone = ({path: use(path, some) for path in encoders} for some in (rest, images))
    whole = seconds({path: lambda path=path: use(path, rest[:256]) for path in encoders}, options.rounds)
    trunk = seconds({path: lambda path=path: encode(path) for path in encoders}, 3 * options.rounds)
    print(conditions(options.rounds))
    print(f"{len(rest)} rows, images of {pixels.shape[2]} x {pixels.shape[3]}, {len(classify.labels)} classes\n")
    print("| | rows per CPU second | image trunk | same labels | same from the image alone |\n|---|---|---|---|---|")
    for path in encoders:
        rate = f"{min(256, len(rest)) / whole[path]:.0f}, {whole['32 bits'] / whole[path]:.2f} times"
        agreed = f"{same_labels(both['32 bits'], both[path])} | {same_labels(alone['32 bits'], alone[path])}"
        print(f"| {path} | {rate} | {trunk['32 bits'] / trunk[path]:.2f} times | {agreed} |")


if __name__ == "__main__":
    main()
