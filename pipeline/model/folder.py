"""Load a model folder, and save one: whole or not at all."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...encoders.text import quiet_transformers
from ..runtime.files import reason, user_path
from ..runtime.outputs import beside, restore
from .checks import check_files
from .config import DiptychConfig
from .model import DiptychModel
from .processor import DiptychProcessor
from .tokenizer import require_fit, require_words

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
"""Of a model's folder; none of them holds code."""
_TRAINING_IDS = "training_rows.safetensors"
"""In a model's folder: hashes of the rows that it was trained on, by which evaluation knows them again."""


def load_model(
    name_or_folder: str | Path,
    *,
    labels: list[str] | None = None,
    multi_label: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> tuple[DiptychModel, DiptychProcessor]:
    """Load a saved model and its processor, from a folder (a run's or a model's) or the Hub, in eval mode.

    Args:
        name_or_folder: A model's folder, a run's folder, which holds one in `model/`, or a Hub id.
        labels: Give the model a head for these classes; those that it knows by name keep what they learned.
        multi_label: With `labels`: a row may have any number of them.
        revision: A branch, tag or commit of the Hub's model.
        token: To a private one.

    Raises:
        ValueError: There is no model of ours, or it is damaged; the message says what is there.
    """
    if multi_label and labels is None:
        raise ValueError("multi_label goes with labels, the names of the classes: give both, or neither")
    place = model_folder(name_or_folder)
    try:
        with quiet_transformers():
            folder = _fetched(place, revision, token) if isinstance(place, str) else place
            check_files(folder)
            model = DiptychModel.from_pretrained(folder)
            processor = DiptychProcessor.from_pretrained(folder, trust_remote_code=False)
            if (folder / _TRAINING_IDS).exists():
                model.training_ids = load_file(folder / _TRAINING_IDS)["ids"]
        require_words(processor.tokenizer)
        require_fit(processor.tokenizer, model.text_encoder, processor.max_length)
    except Exception as error:  # of safetensors, of tokenizers, of JSON that is no such file: each has its own
        raise _not_loaded(name_or_folder, place, error) from error
    if labels is not None:
        model.set_labels(labels, multi_label=multi_label)
    return model.eval(), processor


def load_config(name_or_folder: str | Path) -> tuple[DiptychConfig, int]:
    """The configuration of a saved model, and the version of the format that it was saved in; no weights are read.

    Raises:
        ValueError: As of `load_model`.
    """
    place = model_folder(name_or_folder)
    try:
        folder = _fetched(place, None, None, ("config.json",)) if isinstance(place, str) else place
        check_files(folder)
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return DiptychConfig.from_pretrained(folder), int(content.get("format_version", 1))
    except Exception as error:
        raise _not_loaded(name_or_folder, place, error) from error


def _not_loaded(name_or_folder: str | Path, place: str | Path, error: Exception) -> ValueError:
    if isinstance(place, str):
        return ValueError(
            f"there is no folder {name_or_folder} here, and the Hub's model of that name cannot be loaded: "
            f"{reason(error)}"
        )
    return ValueError(f"the model at {name_or_folder} cannot be loaded: {reason(error)}")


def _fetched(name: str, revision: str | None, token: str | None, files: Sequence[str] = _FILES) -> Path:
    """The folder of a Hub's model, without any code that is in it."""
    return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=[*files]))


def model_folder(name_or_folder: str | Path) -> str | Path:
    """Where the model itself is: a run's folder holds it in `model/`; a Hub id stays as it is.

    Raises:
        ValueError: It is a folder without a model of ours.
    """
    folder = user_path(name_or_folder)
    folder = next((there for place in (folder / "model", folder) if (there := _restored(place)).exists()), folder)
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


def _restored(place: Path) -> Path:
    """Where the model of `place` is, if a process was killed while it replaced it."""
    there, old = restore(place), place.with_name(f".{place.name}.old")  # so version 0.3 called it
    if there.exists() or _model_type(old) != "diptych":
        return there
    with contextlib.suppress(OSError):  # of a disk that is read only
        old.rename(place)
    return place if place.exists() else old


def save_model(model: DiptychModel, processor: DiptychProcessor, folder: Path) -> None:
    """Save a complete model folder: whole or not at all, replacing the model that was there, and no file of others.

    Raises:
        ValueError: Files of others by the same names are there.
        OSError: The folder cannot be written, or the disk is full; what was there before stays.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with beside(folder, ours=_model_type(folder) == "diptych") as new, quiet_transformers():
            new.mkdir()
            model.save_pretrained(new)
            processor.save_pretrained(new)
            if model.training_ids is not None:
                save_file({"ids": model.training_ids}, new / _TRAINING_IDS)
            for file in new.iterdir():
                file.chmod(0o644)  # safetensors files are made for their owner's eyes only
    except SafetensorError as error:
        raise OSError(f"{folder} cannot be written: {error}") from error


def remember_rows(model: DiptychModel, ids: Tensor | None) -> None:
    """Have a model remember rows that it is trained on, beside those that it remembers; after None it remembers none.

    Args:
        model: Changed in place.
        ids: (rows, 3), of each row together, of its image and of its text, as `data.digest.row_ids` gives them.
    """
    before = model.training_ids
    if ids is not None:
        ids = torch.cat([ids.flatten(), *([] if before is None else [before])]).unique()
    model.training_ids = ids


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
