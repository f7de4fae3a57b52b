"""What is wrong with a table, in words: what would break, and what is worth a warning."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..data.rows import Columns
from .scan import NO_LABEL, NOT_BAD, ODD_LABEL, Facts, joined
from .statistics import HUGE, TINY, class_counts, contradictions, each_label, leakage, repeats

LOPSIDED = 20
"""Times that the largest class is the smallest, above which accuracy says little."""
STAND_IN = 0.02
"""Share of a split's rows above which one image or text that they have in common looks like a placeholder."""

ERRORS = (
    "no_rows",
    "column_missing",
    "no_images",
    "no_texts",
    "labels_missing",
    "odd_labels",
    "unknown_labels",
    "one_label",
    "nothing_to_hold_out",
)
WARNINGS = (
    "both_missing",
    "half_missing",
    "contradictions",
    "leaking_images",
    "untrained_classes",
    "unlabelled",
    "leaking_texts",
    "repeated_rows",
    "same_image",
    "same_text",
    "cut_texts",
    "single_row_classes",
    "imbalance",
    "tiny_images",
    "huge_images",
    "no_label_column",
)
"""Codes of findings, the most severe first."""

_NEITHER = ("row_unreadable", "both_missing")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a stable code, the split (None: all of them), rows, and a line with what to do."""

    code: str
    split: str | None
    rows: int
    message: str


@dataclass(frozen=True)
class Checked:
    """The facts of all splits, and what they are judged by.

    Attributes:
        parts: Facts by split.
        names: Labels by class index; tuples where rows have several.
        columns: Where they were read.
        training: The split that would be trained on, if it is among `parts`.
        classes: Labels that the training split declares; None if its rows tell.
        max_length: Texts of more tokens are cut; None if they were not counted in tokens.
    """

    parts: Mapping[str, Facts]
    names: Sequence[Any]
    columns: Columns
    training: str | None
    classes: Collection[str] | None = None
    max_length: int | None = None

    @property
    def multi_label(self) -> bool:
        """Whether rows have lists of labels."""
        return any(isinstance(name, tuple) for name in self.names)


def in_order(findings: Iterable[Finding], codes: Sequence[str]) -> list[dict[str, Any]]:
    """Findings for programs, the most severe first; of one kind, those of the most rows."""
    return [asdict(finding) for finding in sorted(findings, key=lambda f: (codes.index(f.code), -f.rows))]


def errors(checked: Checked) -> Iterator[Finding]:
    """What would break training, evaluating or classifying."""
    columns, training = checked.columns, checked.training
    for split, facts in checked.parts.items():
        if not len(facts):
            yield Finding("no_rows", split, 0, f"{split} has no rows: give it some, or take it out")
            continue
        yield from _unusable_halves(split, facts, columns)
        if columns.label is not None:
            yield from _bad_labels(split, facts, checked)
    if training is None or columns.label is None or not len(checked.parts[training]):
        return
    total, counts = len(checked.parts[training]), class_counts(checked.parts[training], checked.names)
    found = checked.parts[training].labels
    kinds, sizes = np.unique(found[found >= 0], return_counts=True)
    if len(kinds) == 1:
        label = checked.names[kinds[0]]
        message = f"{training}: all rows have the label {label!r} in {columns.label!r}, so that nothing can be learned"
        yield Finding("one_label", training, total, f"{message}: is it the right column?")
    elif counts and max(counts.values()) == max(sizes) == 1 and "validation" not in checked.parts:
        message = f"{training} has one row for each label, so that nothing can be held out: give a validation split"
        yield Finding("nothing_to_hold_out", training, total, f"{message}, or is {columns.label!r} the right column?")


def warnings(checked: Checked) -> Iterator[Finding]:
    """What is worth a look, and breaks nothing."""
    whole = joined(checked.parts.values())
    yield from _bad_rows(whole)
    clash = contradictions(checked.parts, checked.names)
    if clash["rows"]:
        shown = " and ".join(f"{e['split']} row {e['row']} {e['label']!r}" for e in clash["examples"][0])
        message = f"{clash['rows']:,} rows have the image and text of another row, but not its label ({shown}): "
        yield Finding("contradictions", None, clash["rows"], message + "correct them or take them out")
    for leak in leakage(checked.parts):
        yield from _leaks(leak, len(checked.parts[leak["splits"][1]]))
    for split, facts in checked.parts.items():
        yield from _repeated(split, facts)
        if checked.columns.label is not None and len(facts):
            yield from _classes(split, facts, checked)
    yield from _sizes(whole, checked.max_length)


def _unusable_halves(split: str, facts: Facts, columns: Columns) -> Iterator[Finding]:
    total = len(facts)
    for half, column, hashes in (("image", columns.image, facts.images), ("text", columns.text, facts.texts)):
        if column is None:
            continue
        if column in facts.absent:
            message = f"{split} has no {half} column {column!r}, which other splits have: add or rename it"
            yield Finding("column_missing", split, total, message)
        if column not in facts.absent and not hashes.any():
            row, _, reason = facts.bad_rows[0]
            reason = reason if len(reason) <= 160 else f"{reason[:80]} ... {reason[-75:]}"
            message = f"{split}: none of the {total:,} {half}s can be used (row {row}: {reason}): is {column!r} the "
            ask = "right column, and do relative paths start where the table lies?" if half == "image" else "text?"
            yield Finding(f"no_{half}s", split, total, message + ask)


def _bad_labels(split: str, facts: Facts, checked: Checked) -> Iterator[Finding]:
    column, total = checked.columns.label, len(facts)
    none, odd = np.flatnonzero(facts.labels == NO_LABEL), np.flatnonzero(facts.labels == ODD_LABEL)
    if len(none) and not (len(none) == total and _may_lack_labels(split, checked)):
        message = f"{split}: {_share(len(none), total, 'row')} have no label in {column!r}, row {none[0]} first: "
        yield Finding("labels_missing", split, len(none), message + "give them one or take them out")
    if len(odd):
        message = f"{split}: {_share(len(odd), total, 'row')} have something in {column!r} that is no label, "
        ask = "give lists of text or numbers" if checked.multi_label else "give text or numbers"
        yield Finding("odd_labels", split, len(odd), f"{message}row {odd[0]} first: {ask}")
    if checked.multi_label and split == "validation" and not class_counts(facts, checked.names):
        message = f"{split}: no row has a label in {column!r}, so that nothing can be measured: add rows that have"
        yield Finding("labels_missing", split, total, message)
    known = _known(checked)
    if known is None or split == checked.training:
        return
    codes = [code for code, name in enumerate(checked.names) if not known.issuperset(each_label(name))]
    rows = np.flatnonzero(np.isin(facts.labels, codes))
    if len(rows):
        found = (label for code in facts.labels[rows] for label in each_label(checked.names[code]))
        unknown = list(dict.fromkeys(label for label in found if label not in known))
        message = f"{split}: {_share(len(rows), total, 'row')} have a label that {checked.training} lacks, row "
        message += f"{rows[0]} first ({_listed(unknown)}): add rows of it to {checked.training}, or take these out"
        yield Finding("unknown_labels", split, len(rows), message)


def _may_lack_labels(split: str, checked: Checked) -> bool:
    """Whether a split is read neither by training nor to validate, so that it can do without any label."""
    return checked.training != split and split != "validation"


def _known(checked: Checked) -> set[str] | None:
    """Labels that a model trained on this data knows; None if the split that tells was not read."""
    if checked.training is None:
        return None
    return set(checked.classes or class_counts(checked.parts[checked.training], checked.names))


def _bad_rows(whole: Facts) -> Iterator[Finding]:
    neither = sum(whole.statuses.get(status, 0) for status in _NEITHER)
    if neither:
        message = f"{_share(neither, len(whole), 'row')} have neither an image nor a text that can be used, and get no "
        yield Finding("both_missing", None, neither, message + "prediction: mend them or take them out")
    half = {s: n for s, n in whole.statuses.items() if s not in (*NOT_BAD, *_NEITHER)}
    count = sum(half.values())
    if count:
        message = f"{_share(count, len(whole), 'row')} have one usable half only, which decides alone: "
        message += ", ".join(f"{n:,} {status}" for status, n in half.items())
        yield Finding("half_missing", None, count, message)


def _leaks(leak: Mapping[str, Any], total: int) -> Iterator[Finding]:
    first, second = leak["splits"]
    images, texts, pairs = (leak[what] for what in ("images", "texts", "pairs"))
    if images["rows"]:
        message = f"{second}: {_share(images['rows'], total, 'row')} have an image of {first}"
        message += f", {pairs['rows']:,} of them with its text" if pairs["rows"] else ""
        message += _example(first, second, images) + ": figures will flatter; keep each image in one split"
        yield Finding("leaking_images", second, images["rows"], message)
    if texts["rows"]:
        message = f"{second}: {_share(texts['rows'], total, 'row')} have a text of {first}"
        message += _example(first, second, texts) + ": fine where texts repeat by design, as questions do; else keep "
        yield Finding("leaking_texts", second, texts["rows"], message + "each text in one split")


def _example(first: str, second: str, shared: Mapping[str, Any]) -> str:
    example = shared["examples"][0]
    return f" (row {example[second]} that of row {example[first]})"


def _repeated(split: str, facts: Facts) -> Iterator[Finding]:
    pairs, total = repeats(facts.pairs), len(facts)
    again = pairs["rows_sharing"] - pairs["repeated"]
    if again:
        message = (
            f"{split}: {_share(again, total, 'row')} repeat the image and text of an earlier row: they count twice"
        )
        yield Finding("repeated_rows", split, again, message)
    for half, hashes in (("image", facts.images), ("text", facts.texts)):
        values, firsts, counts = np.unique(hashes[hashes != 0], return_index=True, return_counts=True)
        if len(values) and counts.max() >= max(10, STAND_IN * total):
            most = int(counts.max())
            row = np.flatnonzero(hashes != 0)[firsts[counts.argmax()]]
            message = f"{split}: {_share(most, total, 'row')} have one and the same {half}, row {row} first: if it "
            yield Finding(f"same_{half}", split, most, message + f"stands for 'no {half}', leave it empty")


def _classes(split: str, facts: Facts, checked: Checked) -> Iterator[Finding]:
    counts, total = class_counts(facts, checked.names), len(facts)
    if not counts and _may_lack_labels(split, checked):
        message = f"{split}: no row has a label in {checked.columns.label!r}: it can be classified, not evaluated"
        yield Finding("unlabelled", split, total, message)
    if checked.training is None:
        return
    if split != checked.training:
        trained = class_counts(checked.parts[checked.training], checked.names)
        untrained = [name for name in counts if name not in trained and name in (checked.classes or ())]
        rows = sum(counts[name] for name in untrained)
        if untrained:
            message = f"{split}: {_share(rows, total, 'row')} are of classes without a row in {checked.training} "
            yield Finding("untrained_classes", split, rows, f"{message}({_listed(untrained)}): they cannot be learned")
        return
    single = [name for name, count in counts.items() if count == 1]
    if single and len(counts) > 1:
        message = f"{split}: {len(single):,} of {len(counts):,} classes have a single row ({_listed(single)}): "
        yield Finding("single_row_classes", split, len(single), message + "add rows, or merge or leave out the class")
    if counts:
        ((most, largest), *_, (least, smallest)) = [*counts.items(), *counts.items()]
        if largest > LOPSIDED * smallest:
            message = f"{split}: the largest class, {_short(most)}, has {largest:,} rows, the smallest, "
            message += f"{_short(least)}, {smallest:,}: look at macro-F1 beside accuracy"
            yield Finding("imbalance", split, largest, message)


def _sizes(whole: Facts, max_length: int | None) -> Iterator[Finding]:
    long = 0 if max_length is None else int((whole.lengths > max_length).sum())
    if long:
        message = f"{_share(long, int((whole.texts != 0).sum()), 'text')} are longer than {max_length} tokens (up to "
        message += f"{whole.lengths.max():,}), and will be cut there: raise --max-length, or put first what matters"
        yield Finding("cut_texts", None, long, message)
    sizes = whole.sizes[whole.images != 0]
    tiny, huge = int((sizes.min(axis=1, initial=TINY) < TINY).sum()), int((sizes.prod(axis=1) > HUGE).sum())
    if tiny:
        message = f"{_share(tiny, len(sizes), 'image')} are under {TINY} pixels high or wide: are they meant to be?"
        yield Finding("tiny_images", None, tiny, message)
    if huge:
        message = f"{_share(huge, len(sizes), 'image')} have over {HUGE // 1_000_000} megapixels: shrink them, and "
        yield Finding("huge_images", None, huge, message + "every pass over the data is faster")


def _share(count: int, total: int, what: str) -> str:
    percent = 100 * count / total
    shown = (
        f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}".removesuffix(".0") if percent >= 0.1 else "under 0.1"
    )
    return f"{count:,} of {total:,} {what}s ({shown} %)"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(_short(name) for name in names[:3]) + more


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")
