"""What scaled decoding is worth on 12-megapixel JPEGs, and what it changes.

    python examples/benchmarks/large_photos.py [--photos 12] [--rounds 5] [--labels 200] [--text-encoder FOLDER]

Plain is `Image.open(...).convert("RGB")`, torchvision's Resize, ToTensor and Normalize, and the same
model; ours is `ImageTextClassifier`. Photos are made on the spot: scikit-image's, cut, turned and enlarged to
4000 x 3000 pixels, with noise, at quality 90. Times are medians of CPU seconds per photo, one thread, both paths
taking turns; memory is what reading one photo adds to a fresh process's peak. Needs scikit-image, for its photos.

Labels are those of whole decoding against scaled decoding, all else equal. The shipped Scenes model knows what it
sees: its pictures are drawn, then enlarged to 12 megapixels. The ResNet-18 that is timed has random weights, and a
random head whose logits are centred and scaled over at most 32 photos, so that all classes occur: its labels mean
nothing and lie as close as chance puts them, which makes their agreement the harder test.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cold_start import default_text_encoder
from diptych import ImageTextClassifier
from diptych.pipeline.data.images import read_image
from diptych.pipeline.demo.drawing import draw_scene
from diptych.pipeline.demo.scenes import LABELS, SHIPPED_MODEL, make_quadruples
from diptych.pipeline.model.build import build_model
from measuring import conditions, high_water
from PIL import Image, ImageChops
from skimage import data
from torchvision import transforms

SIDES = (4000, 3000)
NOISE = 6.0  # of 255: what makes a file of about 2.5 MB
TEXT = "a photo with more pixels than anybody looks at"
SOURCES = ("astronaut", "coffee", "chelsea", "rocket")


@functools.cache
def grain(size: tuple[int, int]) -> Image.Image:
    """Normal noise around 128 of `NOISE` grey levels; drawing it takes longer than all else, so it is drawn once."""
    noise = np.random.default_rng(0).normal(128, NOISE, (size[1], size[0], 3))
    return Image.fromarray(noise.round().clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image, size: tuple[int, int]) -> bytes:
    """The picture enlarged to `size` (width, height), with noise, at quality 90."""
    image = ImageChops.add(image.resize(size, Image.Resampling.BICUBIC), grain(size), offset=-128)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def photos(count: int) -> Iterator[bytes]:
    """JPEGs of 12 megapixels, each of another part of one of the sources."""
    rng = random.Random(0)
    for seed, name in zip(range(count), itertools.cycle(SOURCES), strict=False):
        image = Image.fromarray(getattr(data, name)()).convert("RGB")
        share = rng.uniform(0.5, 1)
        width = int(share * min(image.width, image.height * 4 / 3))
        height = width * 3 // 4
        left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
        image = image.crop((left, top, left + width, top + height))
        yield jpeg(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if seed % 8 > 3 else image, SIDES)


def drawings(count: int) -> Iterator[tuple[bytes, str, str]]:
    """JPEGs of 12 megapixels, each of another scene, with a sentence and whether it is true: `false` or `true`."""
    for seed, quadruple in enumerate(make_quadruples(count, seed=1)):
        scene, sentence = seed % 2, seed // 2 % 2
        image = draw_scene(quadruple.scenes[scene], 1000)
        yield jpeg(image, (3464, 3464)), quadruple.sentences[sentence], LABELS[scene == sentence]


def whole(file: bytes) -> Image.Image:
    """All pixels, which no reader can scale any more."""
    return Image.open(io.BytesIO(file)).convert("RGB")


def plain_pixels(classifier: ImageTextClassifier) -> Callable[[bytes], torch.Tensor]:
    """What most training scripts do to a picture, with the numbers of the classifier's own transforms."""
    numbers = classifier.processor.image_processor
    steps = transforms.Compose(
        [
            transforms.Resize((numbers.height, numbers.width)),
            transforms.ToTensor(),
            transforms.Normalize(numbers.image_mean, numbers.image_std),
        ]
    )
    return lambda file: steps(Image.open(io.BytesIO(file)).convert("RGB"))


def paths(classifier: ImageTextClassifier) -> dict[str, dict[str, Callable[[list[bytes]], Any]]]:
    """By what is measured, the plain path and ours, each for a list of files."""
    pixels, processor, model = plain_pixels(classifier), classifier.processor, classifier.model

    def plain(files: list[bytes]) -> Any:
        batch = processor.tokenize([TEXT] * len(files)) | {"pixel_values": torch.stack([pixels(f) for f in files])}
        with torch.inference_mode():
            return model(**batch).logits.argmax(dim=1)

    return {
        "decoding and transforms": {
            "plain": lambda files: [pixels(file) for file in files],
            "ours": lambda files: [processor.image_processor(file) for file in files],
        },
        "from the file to the label": {
            "plain": plain,
            "ours": lambda files: classifier([{"image": file, "text": TEXT} for file in files], batch_size=len(files)),
        },
    }


def spread(classifier: ImageTextClassifier, files: Iterator[bytes]) -> None:
    """Centre and scale the logits of a random head over some photos; as it is, one class takes them all."""
    head = classifier.model.head
    assert head is not None
    logits = []
    for file in files:
        with torch.inference_mode():
            logits.append(classifier.model(**classifier.processor([whole(file)], [TEXT])).logits)
    centre, scale = torch.cat(logits).mean(dim=0), torch.cat(logits).std(dim=0)
    with torch.no_grad():
        head.weight /= scale[:, None]
        head.bias -= centre
        head.bias /= scale


def seconds(sides: dict[str, Callable[[list[bytes]], Any]], files: list[bytes], rounds: int) -> dict[str, float]:
    """The median CPU seconds per photo of each side, four photos at a time; the first round does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    batches = [files[first : first + 4] for first in range(0, len(files), 4)]
    for number, batch in itertools.product(range(rounds + 1), batches):
        for name, side in sides.items():
            start = time.process_time()
            side(batch)
            if number:
                times[name].append((time.process_time() - start) / len(batch))
    return {name: statistics.median(taken) for name, taken in times.items()}


def peak(file: bytes, least: Sequence[int]) -> float:
    """MB that reading a photo adds to the peak of a process of its own; the whole of it if `least` is empty."""
    with tempfile.NamedTemporaryFile(suffix=".jpg") as place:
        Path(place.name).write_bytes(file)
        command = [sys.executable, str(Path(__file__).resolve()), "--peak", place.name, *map(str, least)]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_peak(place: str, *least: str) -> None:
    """In that process."""
    read_image(np.zeros((8, 8, 3), np.uint8))
    before = high_water()
    read_image(place, at_least=(int(least[0]), int(least[1])) if least else None)
    print(high_water() - before)


def agreement(classifier: ImageTextClassifier, rows: Iterator[tuple[bytes, str, str | None]]) -> list[list[str]]:
    """Rows of the table: what scaled decoding changes in pictures, scores and labels."""
    resize, differences, shifts = classifier.processor.image_processor, [], []
    same = count = 0
    right, seen = {"plain": 0, "ours": 0}, set()
    for file, text, label in rows:
        pictures = {"plain": whole(file), "ours": file}
        small = [resize.resize(read_image(p, at_least=resize.needed_size)) for p in pictures.values()]
        differences.append(float(np.abs(np.subtract(*small, dtype=np.float32)).mean()))
        found = {name: classifier(image=picture, text=text) for name, picture in pictures.items()}
        shifts.append(max(abs(found["ours"]["scores"][k] - v) for k, v in found["plain"]["scores"].items()))
        same += found["plain"]["label"] == found["ours"]["label"]
        seen.add(found["plain"]["label"])
        count += 1
        for name in right:
            right[name] += found[name]["label"] == label
    cells = [["pictures: mean difference of 255, mean and worst photo", "", f"{np.mean(differences):.2f}"]]
    cells[-1].append(f"{max(differences):.2f}")
    cells += [["scores: largest difference, median and worst photo", "", f"{np.median(shifts):.4f}"]]
    cells[-1].append(f"{max(shifts):.4f}")
    if right["plain"]:
        cells.append(["right labels", str(right["plain"]), str(right["ours"]), f"of {count}"])
    cells.append([f"same label ({len(seen)} labels occur)", "", str(same), f"of {count}"])
    return cells


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=12, help="that are timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=200, help="photos whose labels are compared; 0 for none")
    parser.add_argument("--text-encoder", help="a folder of a BERT's weights; the installed MiniLM's if not given")
    parser.add_argument("--peak", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        return print_peak(*options.peak)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    encoder = options.text_encoder or default_text_encoder()
    labels = [f"class {number}" for number in range(10)]
    resnet = ImageTextClassifier(*build_model("resnet18", encoder, labels=labels, image_weights="random"), device="cpu")
    scenes = ImageTextClassifier.from_pretrained(SHIPPED_MODEL, device="cpu")
    files = list(photos(options.photos))
    print(conditions(options.rounds))
    print(f"{len(files)} photos of {sum(map(len, files)) / len(files) / 1e6:.1f} MB\n")
    print("| 12-megapixel JPEGs | plain | ours | |\n|---|---|---|---|")
    for name, sides in paths(resnet).items():
        taken = seconds(sides, files, options.rounds)
        ratio = taken["plain"] / taken["ours"]
        print(f"| {name} | {1000 * taken['plain']:.0f} ms | {1000 * taken['ours']:.0f} ms | {ratio:.2f} times |")
    memory = [peak(files[0], least) for least in ((), resnet.processor.image_processor.needed_size)]
    print(f"| reading one, peak | {memory[0]:.0f} MB | {memory[1]:.0f} MB | {memory[0] / memory[1]:.1f} times |")
    if not options.labels:
        return None
    spread(resnet, photos(max(2, min(options.labels, 32))))
    for name, classifier, rows in (
        ("Scenes", scenes, drawings(options.labels)),
        ("random ResNet-18", resnet, ((file, TEXT, None) for file in photos(options.labels))),
    ):
        for cells in agreement(classifier, rows):
            print(f"| {name}, {' | '.join(cells)} |", flush=True)
    return None


if __name__ == "__main__":
    main()
