"""Damaged tables: every row accounted for, the same one after another and by number, or one line that refuses all."""

from __future__ import annotations

import csv
import io
import json
import random

import pandas as pd
import pytest
from diptych.pipeline.data.read import read_data
from diptych.pipeline.data.rows import UnreadableRow, read_pair

ROWS = [{"image": f"p{i}.png", "text": f'some é "text" {i}, x\ny', "label": "ab"[i % 2]} for i in range(8)]
PIECES = (b'"', b"\r", b"\0", b"{", b"[", b"\n", b";", b"\t")


def sources() -> dict[str, bytes]:
    text, table = io.StringIO(newline=""), io.BytesIO()
    writer = csv.DictWriter(text, ROWS[0])
    writer.writeheader()
    writer.writerows(ROWS)
    pd.DataFrame(ROWS).to_parquet(table)
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
    return {
        ".csv": text.getvalue().encode(),
        ".jsonl": lines.encode(),
        ".json": json.dumps(ROWS).encode(),
        ".parquet": table.getvalue(),
    }


def mutated(data: bytes, rng: random.Random) -> bytes:
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place, kind = rng.randrange(len(found) or 1), rng.randrange(5)
        if kind == 0 and found:
            found[place] = rng.randrange(256)
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            found[place:place] = rng.randbytes(rng.randrange(1, 5))
        elif kind == 3:
            del found[place : place + rng.randrange(1, 20)]
        else:
            found[place:place] = rng.choice(PIECES)
    return bytes(found)


def shown(row):
    return row.reason if isinstance(row, UnreadableRow) else row


def check(count: int, seed: int, folder) -> None:
    rng, whole = random.Random(seed), sources()
    for number in range(count):
        suffix = rng.choice([*whole])
        file = folder / f"{number}{suffix}"
        file.write_bytes(mutated(whole[suffix], rng))
        try:
            data = read_data(file)
            rows = list(data.table.rows)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
            continue
        by_number = [data.table.rows[index] for index in range(len(data.table.rows))]
        assert [*map(shown, rows)] == [*map(shown, by_number)], file
        for index, row in enumerate(rows):
            read_pair(index, row, data.columns, data.table.folder)


def test_150_damaged_tables(tmp_path):
    check(150, 0, tmp_path)


@pytest.mark.slow
def test_500_damaged_tables(tmp_path):
    check(500, 1, tmp_path)
