"""Load a model folder, and save one: whole or not at all."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ...encoders.text import quiet_transformers
from .config import MULTI_LABEL, DiptychConfig
from .model import DiptychModel
from .processor import DiptychProcessor


def load_model(
    name_or_folder: str | Path, *, labels: list[str] | None = None, multi_label: bool = False
) -> tuple[DiptychModel, DiptychProcessor]:
    """Load a saved model and its processor, from a folder (a run's or a model's) or the Hub, in eval mode.

    Args:
        name_or_folder: A model's folder, a run's folder, which holds one in `model/`, or a Hub id.
        labels: Give the model a new random head for these classes.
        multi_label: With `labels`: a row may have any number of them.

    Raises:
        ValueError: There is no model of ours, or it is damaged; the message says what is there.
    """
    place = model_folder(name_or_folder)
    try:
        with quiet_transformers():
            config = DiptychConfig.from_pretrained(place)
            if labels is not None:
                config.id2label = dict(enumerate(labels))
                config.label2id = {name: index for index, name in enumerate(labels)}
                config.problem_type, config.thresholds = MULTI_LABEL if multi_label else None, None
            model, info = DiptychModel.from_pretrained(
                place, config=config, output_loading_info=True, use_safetensors=True, ignore_mismatched_sizes=True
            )
            processor = DiptychProcessor.from_pretrained(place, trust_remote_code=False)
        _require_words(processor.tokenizer)
    except Exception as error:  # of safetensors, of tokenizers, of JSON that is no such file: each has its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if "trust_remote_code" in str(error):
            first = "it brings code of its own, which is never run"
        if isinstance(place, str):
            raise ValueError(
                f"there is no folder {name_or_folder} here, and the Hub's model of that name cannot be loaded: {first}"
            ) from error
        raise ValueError(f"the model at {name_or_folder} cannot be loaded: {first}") from error
    wrong = set(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]}
    if labels is not None:
        wrong = {key for key in wrong if not key.startswith("head.")}
    if wrong:
        raise ValueError(
            f"the model at {name_or_folder} is damaged: {len(wrong)} weights are missing or of another "
            f"shape, {min(wrong)} first; train or copy it again"
        )
    return model.eval(), processor


def model_folder(name_or_folder: str | Path) -> str | Path:
    """Where the model itself is: a run's folder holds it in `model/`; a Hub id stays as it is.

    Raises:
        ValueError: It is a folder without a model of ours.
    """
    folder = Path(name_or_folder)
    if (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    if not folder.exists():
        name = str(name_or_folder)
        if isinstance(name_or_folder, Path) or name.startswith((".", "/", "~")) or name.count("/") != 1:
            raise ValueError(f"there is no model at {name_or_folder}: no such folder")
        return name
    kind = _model_type(folder)
    if kind is None:
        raise ValueError(f"{name_or_folder} holds no model: there is no config.json in it, nor in a model/ below it")
    if kind != "diptych":
        raise ValueError(f"{name_or_folder} holds a {kind!r} model, not one trained with diptych")
    return folder


def save_model(model: DiptychModel, processor: DiptychProcessor, folder: Path) -> None:
    """Save a complete model folder: whole or not at all, replacing what was there.

    Raises:
        OSError: The folder cannot be written, or the disk is full; what was there before stays.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with quiet_transformers():
            model.save_pretrained(beside)
            processor.save_pretrained(beside)
        beside.chmod(0o755)  # temporary folders and safetensors files are made for their owner's eyes only
        for file in beside.iterdir():
            file.chmod(0o644)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)  # of a save that was killed at the line after the next rename
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except SafetensorError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Undo what a save that was killed left beside `folder`: half of a new one, or an old one out of its place."""
    old = folder.with_name(f".{folder.name}.old")
    if old.is_dir() and not folder.exists():
        old.rename(folder)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def _require_words(tokenizer: Any) -> None:
    """Without its file transformers makes a tokenizer that knows no word, and says nothing."""
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise OSError("its tokenizer knows no words: tokenizer.json is missing")


def _is_ours(name_or_folder: str) -> bool:
    folder = Path(name_or_folder)
    return any(_model_type(place) == "diptych" for place in (folder, folder / "model"))


def _model_type(folder: Path) -> str | None:
    """`model_type` of the config.json in `folder`; None if there is none, `unknown` if it says none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(config.get("model_type", "unknown")) if isinstance(config, dict) else None
