"""Options as fields of a dataclass: default, help and range stand once, for Python and for the command line."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Mapping, Sequence
from dataclasses import field, fields
from numbers import Real
from typing import Any

from .choices import require_choice


def option(
    default: Any,
    help: str,
    *,
    panel: str,
    choices: Sequence[str] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    none: str | None = None,
) -> Any:
    """A field of a frozen dataclass that is an option of a command as well.

    Args:
        default: Its value where none is given; None is never checked.
        help: One sentence in plain words; what None means stands in it.
        panel: Of the command's help. An empty one is for Python only.
        choices: Of a name, all that it may be.
        least: Of a number, the smallest that is allowed.
        most: The largest.
        above: It must be larger.
        below: It must be smaller.
        none: What stands for None on the command line, where None is a choice of its own.
    """
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    metadata = {"help": help, "panel": panel, "choices": tuple(choices), "none": none}
    return field(default=default, metadata={**metadata, "limits": {k: v for k, v in limits.items() if v is not None}})


def check_options(options: Any) -> None:
    """Check every field that was made by `option` against its choices and its range.

    Raises:
        ValueError: One is not allowed; the message names it, its value, and what is.
    """
    holds = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
    for spec in fields(options):
        value, limits = getattr(options, spec.name), spec.metadata.get("limits", {})
        if value is None:
            continue
        if choices := spec.metadata.get("choices"):
            require_choice(spec.name, value, choices)
        if limits and not isinstance(value, Real):
            raise ValueError(f"{spec.name} is {value!r}; it must be a number")
        kind = str(spec.type).partition(" ")[0]
        if kind == "bool" and value not in (True, False):
            raise ValueError(f"{spec.name} is {value!r}; it must be True or False")
        if kind == "int":
            try:
                object.__setattr__(options, spec.name, operator.index(value))  # of numpy it is none to all libraries
            except TypeError:
                raise ValueError(f"{spec.name} is {value!r}; it must be a whole number") from None
        if not all(holds[how](value, limit) for how, limit in limits.items()):
            raise ValueError(
                f"{spec.name} is {value}; it must be {' and '.join(f'{how} {limit}' for how, limit in limits.items())}"
            )


def sort_options(options: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """Options by name, sorted into what they are of: one of each of `kinds`.

    Raises:
        ValueError: One does not exist, and the message names the one that was probably meant; or is not allowed.
    """
    left = dict(options)
    found = [kind(**{spec.name: left.pop(spec.name) for spec in fields(kind) if spec.name in left}) for kind in kinds]
    for name in left:
        close = difflib.get_close_matches(name, [spec.name for kind in kinds for spec in fields(kind)], n=1)
        raise ValueError(f"there is no option {name!r}{f'; did you mean {close[0]!r}?' if close else ''}")
    return found
