"""Which columns of a table hold the image, the text and the label: by their names, else by what stands in them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import datasets

from .image_source import IMAGE_SUFFIXES, what_it_is
from .labels import as_list, one_label
from .options import OptionNeeded
from .rows import Columns, UnreadableRow, field_of
from .tables import Table
from .values import is_nothing

_IMAGE_NAMES = (
    *("image", "img", "photo", "picture", "image_path", "img_path", "image_file", "file_name", "filename", "path"),
    *("file_path", "filepath", "image_name", "image_filename", "photo_file", "photo_path", "image_id"),
)
_TEXT_NAMES = (
    *("text", "caption", "sentence", "title", "description", "question", "headline", "review", "content", "name"),
    *("tweet", "abstract", "plot", "summary", "statement", "comment", "post", "message", "body"),
)
_TEXT_PAIRS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"))
_LABEL_NAMES = (
    *("label", "labels", "target", "class", "category", "answer", "genres", "genre", "sentiment", "topic", "section"),
    *("class_name", "label_name"),
)
_LOOKED_AT = 10_000
"""Rows of which classes are counted, where a label column is to be chosen."""


def find_columns(
    table: Table,
    *,
    image: str | None = None,
    text: str | None = None,
    label: str | None = None,
    need_label: bool = True,
    modalities: Sequence[str] = ("image", "text"),
) -> Columns:
    """Find the columns by their features, their names and their values; a name that is given is taken as it is.

    Args:
        table: Of which a few rows may be read.
        text: The text column, or several, `premise+hypothesis`.
        need_label: Whether a label column is looked for.
        modalities: Which of `image` and `text` are looked for.

    Raises:
        OptionNeeded: A given column does not exist, or one cannot be told; the message names those that could be.
    """
    kinds = {leaf: kind for name in table.names for leaf, kind in _kinds(table, name)}
    if not kinds:
        raise ValueError(f"{table.name} is empty: there are no rows in it")
    if not table.rows.again:  # the first row of a stream may lack what others have
        kinds = {name: "string" for name in (image, text, label) if name is not None} | kinds
    for option, name in (("image", image), ("text", text), ("label", label)):
        for part in () if name is None else [name] if option != "text" or name in kinds else name.split("+"):
            if part not in kinds and (part.partition(".")[0] not in kinds or "." not in part):
                raise ValueError(f"{table.name} has no {option} column {part!r}; it has {', '.join(map(repr, kinds))}")

    def of(*wanted: str) -> list[str]:
        taken = {image, text, label}
        return [name for name, kind in kinds.items() if kind in wanted and name not in taken]

    if image is None and "image" in modalities:
        image = _find_image(table, of)
    if label is None and need_label:
        label = _named(of("class", "classes", "string", "integer", "list", "other"), _LABEL_NAMES)
        label = label or _the_only(of("class", "classes"))
        if label is None:
            _no_bytes(table, of, _LABEL_NAMES)
    if text is None and "text" in modalities:
        text = _find_text(table, of)
    if label is None and need_label:
        label = _ask_for_label(table, [n for n in kinds if n not in (image, *(text or "").split("+"))], kinds)
    return Columns(image if "image" in modalities else None, text if "text" in modalities else None, label)


def _find_image(table: Table, of: Callable[..., list[str]]) -> str:
    """A column of images; else one of paths by its name; else the one whose values are those of image files."""
    declared, strings = of("image"), of("string")
    named = _named(declared, _IMAGE_NAMES) or _the_only(declared)
    raw = [name for name in of("bytes") if _words(name) in _IMAGE_NAMES or _looks(table, name, _is_image_file)]
    raw += [name for name in of("pixels") if _words(name) in _IMAGE_NAMES]
    if named is None and not declared:
        named = _named(raw, _IMAGE_NAMES) or _the_only(raw) or _named(strings, _IMAGE_NAMES, ends=True)
    if named is not None:
        return named
    by_value = [name for name in strings if _looks(table, name, _is_image_path)]
    candidates = declared or raw or by_value
    if len(candidates) == 1:
        return candidates[0]
    lists = _named(of("list"), _IMAGE_NAMES)
    if lists is not None and not candidates:
        raise _lists(table, lists, "image")
    raise _choose(table, "image", candidates)


def _find_text(table: Table, of: Callable[..., list[str]]) -> str:
    strings = of("string")
    texts = [name for name in strings if not set(_words(name).split("_")) & {"label", "labels", "url", "id", "path"}]
    texts = [name for name in texts if _words(name) not in _LABEL_NAMES] or texts or strings
    by_words = {_words(name): name for name in texts}
    for pair in _TEXT_PAIRS:
        if set(pair) <= set(by_words):
            return "+".join(by_words[name] for name in pair)
    named = _named(texts, _TEXT_NAMES, ends=True)
    if named is not None:
        return named
    lists = _named(of("list"), _TEXT_NAMES)
    if lists is not None:
        raise _lists(table, lists, "text")
    objects = _named([name for name in of("other") if isinstance(table.features.get(name), Mapping)], _TEXT_NAMES)
    if objects is not None and not texts:
        part = f"{objects}.{next(iter(table.features[objects]))}"
        reason = f"{table.name}: {objects!r} holds objects: say which part is the text, as by --text-column {part}"
        raise OptionNeeded(reason, text_column=part)
    _no_bytes(table, of, _TEXT_NAMES)
    wordy = [name for name in texts if _looks(table, name, _is_wordy)]
    if len(wordy) == 1:
        return wordy[0]
    raise _choose(table, "text", wordy or strings)


def _ask_for_label(table: Table, names: Sequence[str], kinds: Mapping[str, str]) -> str:
    """Refuse, with the columns that could be the label and their numbers of classes, or the only one of ClassLabels."""
    declared = [name for name in names if kinds[name] in ("class", "classes")]
    if len(declared) == 1:
        return declared[0]
    names = declared or [name for name in names if kinds[name] not in ("image", "bytes")]
    classes: dict[str, set[str]] = {name: set() for name in names}
    rows = 0
    if table.rows.again:
        for row in islice(table.rows.select(names), _LOOKED_AT):
            rows += 1
            for name in names:
                try:
                    value = field_of(row, name)
                    found = as_list(value)
                    labels = found if found is not None else [] if is_nothing(value) else [value]
                    classes[name] |= {one_label(label, table.features.get(name)) for label in labels}
                except (ValueError, TypeError):
                    continue
    fit = {name: len(found) for name, found in classes.items() if 2 <= len(found) <= rows / 2}
    if not fit:
        raise _choose(table, "label", declared or list(kinds), several=bool(declared))
    best = min(fit, key=lambda name: (not set(_words(name).split("_")) & set(_LABEL_NAMES), list(fit).index(name)))
    shown = ", ".join(f"{name!r} ({count} classes)" for name, count in fit.items())
    raise OptionNeeded(
        f"{table.name}: {'several columns' if len(fit) > 1 else 'a column'} could be the label: {shown}; name it with "
        "--label-column",
        label_column=best,
    )


def _choose(table: Table, what: str, candidates: Sequence[str], several: bool | None = None) -> ValueError:
    several = len(candidates) > 1 if several is None else several
    names = ", ".join(map(repr, candidates or table.names))
    count = "several columns could be" if several else "no column looks like"
    reason = f"{table.name}: {count} the {what}: {names}; name it with --{what}-column"
    options: dict[str, Any] = {f"{what}_column": candidates[0]} if several else {}
    return OptionNeeded(reason, **options)


def _no_bytes(table: Table, of: Callable[..., list[str]], names: Sequence[str]) -> None:
    """Refuse a column of one of these names that holds bytes: nothing says in which encoding."""
    if (name := _named(of("bytes"), names)) is not None:
        raise ValueError(f"{table.name}: {name!r} holds bytes: decode them, and store the column as text")


def _lists(table: Table, name: str, what: str) -> ValueError:
    options: dict[str, Any] = {f"{what}_column": f"{name}.0"}
    reason = f"{table.name}: {name!r} holds lists, and a row has one {what}: take their first with "
    return OptionNeeded(f"{reason}--{what}-column {name}.0", **options)


def _words(name: str) -> str:
    """A column's name as words in small letters: `productDisplayName` and ` Image-Path` as `product_display_name`."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)
    return "_".join(words).lower() or name.strip().lower()


def _named(candidates: Iterable[str], names: Sequence[str], *, ends: bool = False) -> str | None:
    """The candidate with the best name, as it stands before one that only ends so if `ends` will do."""
    candidates = list(candidates)
    for name in names:
        same = [one for one in candidates if _words(one) == name]
        if same:
            return next((one for one in same if one.lower() == name), same[0])
    if ends:
        for name in names:
            like = [one for one in candidates if _words(one).split("_")[-1] == name]
            if like:
                return like[0]
    return None


def _the_only(candidates: Sequence[str]) -> str | None:
    return candidates[0] if len(candidates) == 1 else None


def _looks(table: Table, name: str, test: Callable[[Any], bool]) -> bool:
    """Whether most values of the first rows pass a test; of raw bytes without any row they do."""
    values = [field_of(row, name) for row in table.rows.ahead[:100] if not isinstance(row, UnreadableRow)]
    values = [value for value in values if not is_nothing(value) and value != ""]
    return sum(map(test, values)) > len(values) / 2 if values else test is _is_image_file


def _is_image_file(value: Any) -> bool:
    """Whether bytes may be those of an image file, and no hash or vector."""
    head = bytes(value[:16]) if isinstance(value, (bytes, bytearray)) else b""
    starts = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II", b"MM", b"P", b"\0\0\0\x0cjP")
    return head.startswith(starts) or what_it_is(head) is not None or head[4:8] == b"ftyp"


def _is_image_path(value: Any) -> bool:
    text = str(value).strip()
    return text.lower().endswith(IMAGE_SUFFIXES) or text[:11].lower() == "data:image/"


def _is_wordy(value: Any) -> bool:
    return len(str(value).split()) > 2


def _kinds(table: Table, name: str) -> Iterator[tuple[str, str]]:
    """A column's kind: image, bytes, pixels, class, string, integer, a list of classes or of others, or other.

    Of one that holds objects, of what is inside them: under names such as `data.choices.0`.
    """
    feature = table.features.get(name)
    yield from (
        islice(_leaves(name, table.rows.first.get(name)), 50) if feature is None else [(name, _feature_kind(feature))]
    )


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    kind = _value_kind(value)
    if kind == "other" and isinstance(value, Mapping):
        for inner, inside in value.items():
            yield from _leaves(f"{name}.{inner}", inside)
    elif kind == "list" and isinstance(next(iter(value), None), Mapping):
        yield from _leaves(f"{name}.0", value[0])
    else:
        yield name, kind


def _feature_kind(feature: Any) -> str:
    if isinstance(feature, datasets.Image):
        return "image"
    if isinstance(feature, datasets.ClassLabel):
        return "class"
    if isinstance(feature, (datasets.List, datasets.LargeList)):
        if isinstance(feature.feature, (datasets.List, datasets.LargeList)):
            return "pixels"
        return "classes" if isinstance(feature.feature, datasets.ClassLabel) else "list"
    if isinstance(feature, Mapping):
        return "image" if set(feature) == {"bytes", "path"} else "other"
    if len(getattr(feature, "shape", ())) > 1:  # Array2D and its like
        return "pixels"
    dtype = getattr(feature, "dtype", "")
    if "binary" in dtype:
        return "bytes"
    if "string" in dtype:
        return "string"
    return "integer" if "int" in dtype or dtype == "bool" else "other"


def _value_kind(value: Any) -> str:
    if value is None or isinstance(value, (str, Path)):  # a null says nothing: the name will tell
        return "string"
    if isinstance(value, (bool, int)):
        return "integer"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (list, tuple)):
        return "pixels"
    if isinstance(value, (list, tuple, set)) or getattr(value, "ndim", 2) < 2:
        return "list"
    is_image = hasattr(value, "getbands") or hasattr(value, "__array__")
    return "image" if is_image or (isinstance(value, dict) and set(value) == {"bytes", "path"}) else "other"
