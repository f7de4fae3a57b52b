"""What a model trained with modality dropout loses where a half is missing, against one made for that half.

    python examples/missing_halves.py RUN DATA --label-column label

RUN is a trained run whose frozen trunks all heads share. For each seed one head is trained with modality
dropout and judged on both halves and on each alone; beside it heads trained on the text alone, on the image
alone, and on both without dropout. Rows of validation and test together, paired differences in points with
95 % intervals over the rows, of the mean over the seeds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diptych import load_model
from heads import encode, make_heads, predict, train_heads


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--label-column", default="label")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--modality-dropout", type=float, default=0.8)
    args = parser.parse_args()
    torch.set_num_threads(1)
    trunks, processor = load_model(args.run)
    features, names = encode(trunks, processor, args.data, [args.label_column])
    train, labels = features["train"], features["train"].labels[args.label_column]
    sizes = {"hidden_size": args.hidden_size, "fusion_hidden_size": 2 * args.hidden_size}

    def hits(seed: int, dropout: float, only: str | None, judged: tuple[str | None, ...]) -> list[np.ndarray]:
        """Train one head and judge it on the halves that are named: right or not, row by row."""
        torch.manual_seed(seed)
        model = make_heads(trunks, names[args.label_column], modality_dropout=dropout, **sizes)
        train_heads(model, train, labels, epochs=args.epochs, only=only)
        return [
            np.concatenate(
                [
                    (predict(model, features[split], half)[0] == features[split].labels[args.label_column]).numpy()
                    for split in ("validation", "test")
                ]
            ).astype(float)
            for half in judged
        ]

    halves = ("text", "image", None)
    with_dropout, alone = [], []
    for seed in range(args.seeds):
        with_dropout.append(hits(seed, args.modality_dropout, None, halves))
        alone.append([hits(seed, 0.0, half, (half,))[0] for half in halves])
        scores = " ".join(f"{a.mean():.1%}/{b.mean():.1%}" for a, b in zip(with_dropout[-1], alone[-1], strict=True))
        print(f"seed {seed}: text only, image only, both, with dropout / made for it: {scores}", flush=True)
    print(f"\n| {len(alone[0][0])} rows, `{args.label_column}` | with modality dropout | made for it | difference |")
    print("|---|---|---|---|")
    for index, half in enumerate(halves):
        ours = np.mean([run[index] for run in with_dropout], axis=0)
        others = np.mean([run[index] for run in alone], axis=0)
        difference = 100 * (ours - others)
        error = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
        print(
            f"| {f'{half} only' if half else 'both'} | {ours.mean():.1%} | {others.mean():.1%} "
            f"| {difference.mean():+.1f} ({difference.mean() - error:+.1f} to {difference.mean() + error:+.1f}) |"
        )


if __name__ == "__main__":
    main()
