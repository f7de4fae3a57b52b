"""One seed for each draw, and one id for each content."""

from __future__ import annotations

import hashlib


def content_id(*parts: bytes) -> int:
    """A number of 63 bits, equal for equal contents, whatever parts they are in."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return int.from_bytes(found.digest(), "big") >> 1


def draw_seed(seed: int, *what: object) -> int:
    """The seed of one draw, such as (seed, "order", epoch): the same wherever and whenever it is made."""
    return content_id(repr((seed, *what)).encode())
