"""Kill a run 20 times, 5 of them inside a save, and resume it: does it end with the weights that it would have had?

    python examples/kill_and_resume.py

Trains a tiny model on Scenes in a process of its own, without a break, then again and again with a SIGKILL: at random
moments, and at five places inside the saving of a checkpoint or of the best model. The weights of each resumed run are
compared with the unbroken run's bit for bit, and so are the figures of every epoch: they hang on all weights before.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch
from datasets import Dataset
from diptych import make_scenes, train
from diptych.encoders.text import quiet_transformers
from diptych.pipeline.demo.scenes import vocabulary
from diptych.pipeline.runtime.record import read_record
from diptych.pipeline.training import checkpoints
from safetensors.torch import load_file
from transformers import BertConfig, BertModel, BertTokenizer

PLACES = (
    "model half written",
    "optimizer half written",
    "before the rename",
    "after the rename",
    "best model not yet in",
)
"""Where in a save a run is killed: of a checkpoint, and last of the best epoch's model."""


def main() -> None:
    """Run without a break, then with each kill; print what came of each and the count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="in all; one in four is inside a save")
    parser.add_argument("--rows", type=int, default=96, help="pairs to train on and to validate with")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    torch.set_num_threads(1)  # with more, sums may be added up in another order
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs, bert = make_scenes(options.rows, seed=0, size=32), make_bert(folder / "bert")
        started = time.monotonic()
        ended = wait(start(pairs, bert, folder / "unbroken"))
        seconds = time.monotonic() - started
        if ended != 0:
            raise SystemExit("the unbroken run failed; its error stands above")
        print(f"unbroken: {seconds:.1f} s, {read_record(folder / 'unbroken')['steps']} steps", flush=True)
        same = 0
        for kill in range(options.kills):
            out = folder / str(kill)
            place = PLACES[kill // 4 % len(PLACES)] if kill % 4 == 3 else None
            how = killed_in_a_save(pairs, bert, out, place, rng) if place else killed(pairs, bert, out, seconds, rng)
            left = [int(path.name) for path in checkpoints.checkpoint_folders(out / "checkpoints")]
            ended = wait(start(pairs, bert, out, resume=True))
            good = ended == 0 and result(out) == result(folder / "unbroken")
            same += good
            found = f"resumed from {f'step {left[-1]}' if left else 'the beginning'}"
            print(f"{kill + 1:>3}  {how}; {found}: {'the same' if good else 'DIFFERENT'}", flush=True)
    print(f"{same} of {options.kills} killed runs ended with the unbroken run's weights, bit for bit")
    raise SystemExit(same < options.kills)


def make_bert(folder: Path) -> str:
    """A folder with a BERT of 16 dimensions that knows the words of Scenes."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *vocabulary(), "?", "."]
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    with quiet_transformers():
        BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes)).save_pretrained(folder)
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(folder)
    return str(folder)


def start(pairs: Dataset, bert: str, out: Path, *, resume: bool = False, prepare: Callable[[], None] = bool) -> int:
    """Train in a new process; its id. `prepare` is called there first."""
    child = os.fork()  # has imported everything already; nothing has been trained in this process, as fork needs
    if child:
        return child
    try:
        prepare()
        train(
            pairs,
            out,
            image_encoder="resnet-tiny",
            image_weights="random",
            image_size=(32, 32),
            text_encoder=bert,
            architecture={"hidden_size": 16, "fusion_heads": 2, "fusion_layers": 1, "fusion_hidden_size": 32},
            unfreeze_text=None,
            epochs=3,
            batch_size=8,
            learning_rate=3e-3,
            checkpoint_steps=2,
            resume=resume,
            quiet=True,
            say=lambda line: None,
        )
    except BaseException as error:
        print(f"{out.name}: {type(error).__name__}: {error}", flush=True)
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    """Its exit code; negative if a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def killed(pairs: Dataset, bert: str, out: Path, seconds: float, rng: random.Random) -> str:
    """Start a run that takes about `seconds` and kill it at a random moment."""
    moment = rng.uniform(0.1, 0.9) * seconds
    while True:
        child = start(pairs, bert, out)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        if wait(child) == -signal.SIGKILL and read_record(out).get("state") != "done":
            return f"killed after {moment:.1f} s"
        shutil.rmtree(out, ignore_errors=True)  # on a machine that has become faster it was done by then
        moment *= 0.7


def killed_in_a_save(pairs: Dataset, bert: str, out: Path, place: str, rng: random.Random) -> str:
    """Start a run that kills itself at `place` of one of its saves."""
    which = 0 if place == PLACES[-1] else rng.randrange(1, 8)
    child = start(pairs, bert, out, prepare=lambda: die_at(place, which))
    if wait(child) != -signal.SIGKILL:
        raise SystemExit(f"the run was to be killed at save {which}, {place}, and was not")
    return f"killed in a save, {place}"


def die_at(place: str, which: int) -> None:
    """Let this process be killed at `place`, after it has been passed `which` times."""
    passed = 0

    def die() -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    def at(*, here: bool) -> bool:
        nonlocal passed
        passed += here
        return here and passed > which

    save_file, rename = checkpoints.save_file, Path.rename

    def half(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        if at(here=place == f"{path.stem} half written"):
            os.truncate(path, path.stat().st_size // 2)
            die()

    def renamed(path: Path, target: Path) -> Any:
        checkpoint = target.parent.name == "checkpoints"
        if at(here=checkpoint and place == "before the rename"):
            die()
        if at(here=target.name == "model" and place == "best model not yet in"):
            die()
        found = rename(path, target)
        if at(here=checkpoint and place == "after the rename"):
            die()
        return found

    checkpoints.save_file = half
    Path.rename = renamed  # type: ignore[method-assign]


def result(out: Path) -> tuple[Any, ...]:
    """The weights that a run kept, as bytes, and the figures of its epochs."""
    weights = load_file(out / "model" / "model.safetensors")
    record = read_record(out)
    epochs = [{name: value for name, value in epoch.items() if name != "seconds"} for epoch in record["epochs"]]
    return {name: tensor.numpy().tobytes() for name, tensor in weights.items()}, record["start"], epochs


if __name__ == "__main__":
    main()
