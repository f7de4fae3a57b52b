"""What is wrong with a table, in words: what would break, and what is worth a warning."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from ..data.labels import alike
from ..data.rows import Columns
from .scan import NO_LABEL, NOT_BAD, ODD_LABEL
from .statistics import (
    HUGE,
    LOPSIDED,
    STAND_IN,
    STAND_IN_ROWS,
    TINY,
    contradictions,
    each_label,
    leakage,
    metrics,
)  # fmt: skip

EXPECTED = 10
"""A class is absent from a split if so many of its rows, or more, would be there were they divided by chance."""

ERRORS = (
    *("no_rows", "column_missing", "no_images", "no_texts", "labels_missing", "odd_labels"),
    *("unknown_labels", "one_label", "nothing_to_hold_out"),
)
WARNINGS = (
    *("both_missing", "half_missing", "contradictions", "similar_labels", "leaking_images", "untrained_classes"),
    "absent_classes",
    *("unlabelled", "leaking_texts", "repeated_rows", "same_image", "same_text", "cut_texts", "single_row_classes"),
    *("imbalance", "tiny_images", "huge_images", "no_label_column"),
)
"""Codes of findings, the most severe first."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong: a stable code, the split (None: all of them), rows, and a line with what to do."""

    code: str
    split: str | None
    rows: int
    message: str


@dataclass(frozen=True)
class Checked:
    """The rows of all splits, what they are judged by, and what they amount to, computed once.

    Attributes:
        whole: The rows, as of `together`.
        names: Labels by class index; tuples where rows have several.
        columns: Where they were read.
        training: The split that would be trained on, if it is among them.
        classes: Labels that the training split declares; None if its rows tell.
        max_length: Texts of more tokens are cut; None if they were not counted in tokens.
        absent: Columns that a split lacks, by split.
        bad_rows: The first rows of each split of which a half cannot be used, with `split`, `row` and `reason`.
    """

    whole: pd.DataFrame
    names: Sequence[Any]
    columns: Columns
    training: str | None
    classes: Collection[str] | None = None
    max_length: int | None = None
    absent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    bad_rows: Sequence[Mapping[str, Any]] = ()

    @cached_property
    def parts(self) -> dict[str, pd.DataFrame]:
        """The rows of each split, without those of others; their index counts them."""
        splits = self.whole["split"]
        return {split: self.whole[splits == split].reset_index(drop=True) for split in splits.cat.categories}

    @cached_property
    def metrics(self) -> dict[str | None, dict[str, Any]]:
        """As of `metrics`, by split; those of all rows by None."""
        limits: dict[str, Any] = {
            "unit": "words" if self.max_length is None else "tokens",
            "max_length": self.max_length,
        }
        parts = [*self.parts.items(), (None, self.whole)]
        return {split: metrics(part, self.names, **limits) for split, part in parts}

    @cached_property
    def leakage(self) -> list[dict[str, Any]]:
        """As of `leakage`."""
        return leakage(self.whole)

    @cached_property
    def contradictions(self) -> dict[str, Any]:
        """As of `contradictions`."""
        return contradictions(self.whole, self.names)

    @property
    def multi_label(self) -> bool:
        """Whether rows have lists of labels."""
        return any(isinstance(name, tuple) for name in self.names)

    def counts(self, split: str) -> dict[str, int]:
        """Rows by label."""
        return dict(self.metrics[split]["labels"]["counts"])

    def may_lack_labels(self, split: str) -> bool:
        """Whether a split is read neither by training nor to validate, so that it can do without any label."""
        return self.training != split and split != "validation"


def in_order(findings: Iterable[Finding], codes: Sequence[str]) -> list[dict[str, Any]]:
    """Findings of these codes for programs, the most severe first; of one kind, those of the most rows."""
    chosen = [finding for finding in findings if finding.code in codes]
    return [asdict(finding) for finding in sorted(chosen, key=lambda f: (codes.index(f.code), -f.rows))]


def findings(checked: Checked) -> Iterator[Finding]:
    """All that is wrong: what would break training, evaluating or classifying, and what is worth a look."""
    for split, part in checked.parts.items():
        if not len(part):
            yield Finding("no_rows", split, 0, f"{split} has no rows: give it some, or take it out")
            continue
        yield from _unusable(split, part, checked)
        yield from _repeated(split, part, checked)
        if checked.columns.label is not None:
            yield from _labels(split, part, checked)
    yield from _bad_rows(checked)
    clash = checked.contradictions
    if clash["rows"]:
        shown = " and ".join(f"{e['split']} row {e['row']} {e['label']!r}" for e in clash["examples"][0])
        message = f"{clash['rows']:,} rows have the image and text of another row, but not its label ({shown}): "
        yield Finding("contradictions", None, clash["rows"], message + "correct them or take them out")
    for names in alike({label for name in checked.names for label in each_label(name)}):
        rows = sum(checked.metrics[None]["labels"]["counts"].get(name, 0) for name in names)
        message = f"labels {_listed(names)} differ in letter case alone, and are {len(names)} classes: make them one?"
        yield Finding("similar_labels", None, rows, message)
    for leak in checked.leakage:
        yield from _leaks(leak, len(checked.parts[leak["splits"][1]]))
    yield from _sizes(checked.metrics[None], checked.max_length)


def _unusable(split: str, part: pd.DataFrame, checked: Checked) -> Iterator[Finding]:
    total = len(part)
    for half in ("image", "text"):
        column = getattr(checked.columns, half)
        if column is None:
            continue
        if column in checked.absent.get(split, ()):
            message = f"{split} has no {half} column {column!r}, which other splits have: add or rename it"
            yield Finding("column_missing", split, total, message)
        elif not part[half].any() and checked.bad_rows:
            bad = next(row for row in checked.bad_rows if row["split"] == split)
            reason = bad["reason"]
            reason = reason if len(reason) <= 160 else f"{reason[:80]} ... {reason[-75:]}"
            message = (
                f"{split}: none of the {total:,} {half}s can be used (row {bad['row']}: {reason}): is {column!r} the "
            )
            ask = "right column, and do relative paths start where the table lies?" if half == "image" else "text?"
            yield Finding(f"no_{half}s", split, total, message + ask)


def _labels(split: str, part: pd.DataFrame, checked: Checked) -> Iterator[Finding]:
    column, total, counts = checked.columns.label, len(part), checked.counts(split)
    none, odd = np.flatnonzero(part["label"] == NO_LABEL), np.flatnonzero(part["label"] == ODD_LABEL)
    if len(none) and not (len(none) == total and checked.may_lack_labels(split)):
        message = f"{split}: {_share(len(none), total, 'row')} have no label in {column!r}, row {none[0]} first: "
        yield Finding("labels_missing", split, len(none), message + "give them one or take them out")
    if len(odd):
        message = f"{split}: {_share(len(odd), total, 'row')} have something in {column!r} that is no label, "
        ask = "give lists of text or numbers" if checked.multi_label else "give text or numbers"
        yield Finding("odd_labels", split, len(odd), f"{message}row {odd[0]} first: {ask}")
    if checked.multi_label and split == "validation" and not counts:
        message = f"{split}: no row has a label in {column!r}, so that nothing can be measured: add rows that have"
        yield Finding("labels_missing", split, total, message)
    if not counts and checked.may_lack_labels(split):
        message = f"{split}: no row has a label in {column!r}: it can be classified, not evaluated"
        yield Finding("unlabelled", split, total, message)
    if split == checked.training:
        yield from _classes(split, part, counts, checked)
    elif checked.training is not None:
        yield from _strangers(split, part, counts, checked)


def _classes(split: str, part: pd.DataFrame, counts: dict[str, int], checked: Checked) -> Iterator[Finding]:
    """Of the split to train on, its classes: whether they can be learned, and how evenly."""
    column, total = checked.columns.label, len(part)
    kinds = part["label"][part["label"] >= 0].value_counts()
    if len(kinds) == 1:
        label = checked.names[kinds.index[0]]
        message = f"{split}: all rows have the label {label!r} in {column!r}, so that nothing can be learned"
        yield Finding("one_label", split, total, f"{message}: is it the right column?")
    elif counts and max(counts.values()) == kinds.max() == 1 and "validation" not in checked.parts:
        message = f"{split} has one row for each label, so that nothing can be held out: give a validation split"
        yield Finding("nothing_to_hold_out", split, total, f"{message}, or is {column!r} the right column?")
    single = checked.metrics[split]["labels"]["single"]
    if single and len(counts) > 1:
        message = f"{split}: {len(single):,} of {len(counts):,} classes have a single row ({_listed(single)}): "
        yield Finding("single_row_classes", split, len(single), message + "add rows, or merge or leave out the class")
    if counts and max(counts.values()) > LOPSIDED * min(counts.values()):
        (most, largest), (least, smallest) = (checked.metrics[split]["labels"][end] for end in ("largest", "smallest"))
        message = f"{split}: the largest class, {_short(most)}, has {largest:,} rows, the smallest, "
        message += f"{_short(least)}, {smallest:,}: look at macro-F1 beside accuracy"
        yield Finding("imbalance", split, largest, message)


def _strangers(split: str, part: pd.DataFrame, counts: dict[str, int], checked: Checked) -> Iterator[Finding]:
    """Of another split, the classes that a model trained on this data does not know, or has not seen."""
    training = str(checked.training)
    trained = checked.counts(training)
    known = set(checked.classes or trained)
    codes = [code for code, name in enumerate(checked.names) if not known.issuperset(each_label(name))]
    rows = np.flatnonzero(part["label"].isin(codes))
    if len(rows):
        found = (label for code in part["label"].iloc[rows] for label in each_label(checked.names[code]))
        unknown = list(dict.fromkeys(label for label in found if label not in known))
        message = f"{split}: {_share(len(rows), len(part), 'row')} have a label that {training} lacks, row "
        message += f"{rows[0]} first ({_listed(unknown)}): add rows of it to {training}, or take these out"
        yield Finding("unknown_labels", split, len(rows), message)
    untrained = [name for name in counts if name not in trained and name in (checked.classes or ())]
    if untrained:
        seen = sum(counts[name] for name in untrained)
        message = f"{split}: {_share(seen, len(part), 'row')} are of classes without a row in {training} "
        yield Finding("untrained_classes", split, seen, f"{message}({_listed(untrained)}): they cannot be learned")
    share = sum(counts.values()) / max(1, sum(trained.values()))
    absent = [name for name, count in trained.items() if name not in counts and share * count >= EXPECTED]
    if counts and absent:
        there = sum(trained[name] for name in absent)
        message = f"{split} has no row of {_listed(absent)}, of which {training} has {there:,}: its metrics say "
        yield Finding("absent_classes", split, there, f"{message}nothing of that, so divide the rows anew")


def _bad_rows(checked: Checked) -> Iterator[Finding]:
    statuses, total = dict(checked.metrics[None]["statuses"]), len(checked.whole)
    neither = statuses.pop("row_unreadable", 0) + statuses.pop("both_missing", 0)
    if neither:
        message = f"{_share(neither, total, 'row')} have neither an image nor a text that can be used, and get no "
        yield Finding("both_missing", None, neither, message + "prediction: fix them or take them out")
    half = {status: count for status, count in statuses.items() if status not in NOT_BAD}
    if half:
        count = sum(half.values())
        message = f"{_share(count, total, 'row')} have one usable half only, which decides alone: "
        yield Finding("half_missing", None, count, message + ", ".join(f"{n:,} {status}" for status, n in half.items()))


def _leaks(leak: Mapping[str, Any], total: int) -> Iterator[Finding]:
    first, second = leak["splits"]
    pairs = leak["pairs"]["rows"]
    advice = {
        "image": "metrics will look too good; keep each image in one split",
        "text": "fine where texts repeat by design, as questions do; else keep each text in one split",
    }
    for half, ask in advice.items():
        shared = leak[f"{half}s"]
        if not shared["rows"]:
            continue
        message = f"{second}: {_share(shared['rows'], total, 'row')} have {'an' if half == 'image' else 'a'} {half} of "
        message += first + (f", {pairs:,} of them with its text" if pairs and half == "image" else "")
        example = shared["examples"][0]
        message += f" (row {example[second]} that of row {example[first]}): {ask}"
        yield Finding(f"leaking_{half}s", second, shared["rows"], message)


def _repeated(split: str, part: pd.DataFrame, checked: Checked) -> Iterator[Finding]:
    pairs, total = part["pair"][part["pair"] != 0], len(part)
    again = int(pairs.duplicated().sum())
    if again:
        message = f"{split}: {_share(again, total, 'row')} repeat the image and text of an earlier row"
        yield Finding("repeated_rows", split, again, f"{message}: they count twice")
    for half in ("image", "text"):
        hashes = part[half][part[half] != 0]
        counts = hashes.value_counts()
        if len(counts) and counts.iloc[0] >= max(STAND_IN_ROWS, STAND_IN * total):
            most, row = int(counts.iloc[0]), (hashes == counts.index[0]).idxmax()
            message = f"{split}: {_share(most, total, 'row')} have one and the same {half}, row {row} first: if it "
            yield Finding(f"same_{half}", split, most, message + f"stands for 'no {half}', leave it empty")


def _sizes(every: Mapping[str, Any], max_length: int | None) -> Iterator[Finding]:
    images, texts = every["images"], every["texts"]
    if texts["too_long"]:
        message = f"{_share(texts['too_long'], texts['usable'], 'text')} are longer than {max_length} tokens (up to "
        message += f"{texts['longest']:,}), and will be cut there: raise --max-length, or put first what matters"
        yield Finding("cut_texts", None, texts["too_long"], message)
    if images["tiny"]:
        message = f"{_share(images['tiny'], images['usable'], 'image')} are under {TINY} pixels high or wide"
        yield Finding("tiny_images", None, images["tiny"], f"{message}: are they meant to be?")
    if images["huge"]:
        message = f"{_share(images['huge'], images['usable'], 'image')} have over {HUGE // 1_000_000} megapixels"
        yield Finding("huge_images", None, images["huge"], f"{message}: shrink them, and every pass is faster")


def _share(count: int, total: int, what: str) -> str:
    percent = 100 * count / total
    shown = f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}".removesuffix(".0")
    return f"{count:,} of {total:,} {what}s ({shown if percent >= 0.1 else 'under 0.1'} %)"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
    return ", ".join(_short(name) for name in names[:3]) + more


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:37]}...")
