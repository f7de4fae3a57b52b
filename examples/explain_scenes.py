"""Does an explanation point at what the answer hangs on? On Scenes that is known.

    python examples/explain_scenes.py
    python examples/explain_scenes.py --method occlusion --pairs 200

Explains true sentences that the model gets right, and prints in how many of them the highest place of the heat map lies
on a shape that the sentence names, beside the share of the picture that these shapes cover, and in how many the words
that decide (colour, shape, relation, number) have a higher mean attribution than the others.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import torch
from diptych import load_model
from diptych.pipeline.demo.drawing import COLOURS, SHAPES, Scene, Thing, draw_scene
from diptych.pipeline.demo.scenes import KINDS, LABELS, NUMBERS, SHIPPED_MODEL, make_quadruples
from diptych.pipeline.explain.explain import DEFAULT_METHOD, make_pair
from diptych.pipeline.explain.methods import METHODS
from diptych.pipeline.explain.removal import log_odds
from PIL import Image
from tqdm.auto import tqdm

SHAPE_OF = {name: shape for shape, plural in SHAPES.items() for name in (shape, plural)}
DECIDING = {*COLOURS, *SHAPE_OF, *NUMBERS[1:], "left", "right", "above", "below"}
SEED = 30_000


def named(kind: str, scene: Scene, sentence: str) -> list[Thing]:
    """The things of a scene that a true sentence is about."""
    if kind == "relation":
        return list(scene.things[:2])
    looks = {SHAPE_OF.get(word, word) for word in sentence.split() if word in COLOURS or word in SHAPE_OF}
    return [thing for thing in scene.things if looks <= {thing.colour, thing.shape}]


def covered(scene: Scene, things: list[Thing], size: tuple[int, int]) -> np.ndarray:
    """Where these things are drawn, (height, width)."""
    bare, drawn = (draw_scene(Scene(shown, scene.background), 256) for shown in ((), tuple(things)))
    where = (np.asarray(drawn) != np.asarray(bare)).any(axis=2)
    return np.asarray(Image.fromarray(where).resize(size[::-1], Image.Resampling.NEAREST))


def true_pairs(count: int) -> Iterator[tuple[str, Scene, str]]:
    """Kind, scene and a sentence that is true of it, without end."""
    for quadruple in make_quadruples(count, seed=SEED):
        yield from ((quadruple.kind, *pair) for pair in zip(quadruple.scenes, quadruple.sentences, strict=True))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SHIPPED_MODEL, help="a model of Scenes; the one that ships if not given")
    parser.add_argument("--method", choices=METHODS, default=DEFAULT_METHOD)
    parser.add_argument("--pairs", type=int, default=1000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = load_model(options.model)
    model.eval()
    true = LABELS.index("true")
    on_object, by_area, words_above = (defaultdict[str, list[float]](list) for _ in range(3))
    seconds, done, asked = 0.0, 0, 0
    with tqdm(total=options.pairs, disable=None) as bar:
        for kind, scene, sentence in true_pairs(options.pairs):
            if done == options.pairs:
                break
            asked += 1
            pair, spans = make_pair(processor, draw_scene(scene), sentence)
            with torch.inference_mode():
                if int(model(**pair.batch).logits.argmax()) != true:
                    continue
            started = time.process_time()
            attribution = METHODS[options.method](model, pair, log_odds(model, true))
            seconds += time.process_time() - started
            assert attribution.heat is not None
            assert attribution.words is not None
            where = covered(scene, named(kind, scene, sentence), tuple(attribution.heat.shape))
            on_object[kind].append(float(where.flat[int(attribution.heat.argmax())]))
            by_area[kind].append(float(where.mean()))
            values = [float(attribution.words[group].sum()) for *_, group in spans]
            decides = [sentence[start:end] in DECIDING for start, end, _ in spans]
            means = [np.mean([v for v, d in zip(values, decides, strict=True) if d is side]) for side in (True, False)]
            words_above[kind].append(float(means[0] > means[1]))
            done += 1
            bar.update()
    print(f"{datetime.date.today()}, {options.method}, {seconds / done:.2f} CPU s a pair;", end=" ")
    print(f"{done} true sentences that the model gets right, of the first {asked}\n")
    print("| | pairs | peak on a shape that is named | by chance | deciding words above the others |")
    print("|---|---|---|---|---|")
    for name, kinds in {"all": KINDS, **{kind: (kind,) for kind in KINDS}}.items():
        cells = [np.concatenate([part[kind] for kind in kinds]) for part in (on_object, by_area, words_above)]
        print(f"| {name} | {len(cells[0])} | {' | '.join(f'{cell.mean():.1%}' for cell in cells)} |")


if __name__ == "__main__":
    main()
