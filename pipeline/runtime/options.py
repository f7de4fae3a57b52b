"""Options as fields of a dataclass: default, help and range stand once, for Python and for the command line."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, fields
from numbers import Integral, Real
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
    needs: str | None = None,
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
        needs: The field without which this one would do nothing: another value than the default is refused then.
    """
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    metadata = {"help": help, "panel": panel, "choices": tuple(choices), "none": none, "needs": needs}
    return field(default=default, metadata={**metadata, "limits": {k: v for k, v in limits.items() if v is not None}})


def check_options(options: Any) -> None:
    """Check every field that was made by `option` against its type, its choices, its range and what it needs.

    Raises:
        ValueError: One is not allowed; the message names it, its value, and what is.
    """
    holds = {"at least": operator.ge, "above": operator.gt, "at most": operator.le, "below": operator.lt}
    for spec in fields(options):
        value, limits = getattr(options, spec.name), spec.metadata.get("limits", {})
        if value is None:
            continue
        needed = spec.metadata.get("needs")
        if needed and value != spec.default and (getattr(options, needed) is None or getattr(options, needed) is False):
            raise ValueError(f"{spec.name} is {value!r}, which does nothing without {needed}: give both, or neither")
        if choices := spec.metadata.get("choices"):
            require_choice(spec.name, value, choices)
        if limits and not isinstance(value, Real):
            raise ValueError(f"{spec.name} is {value!r}; it must be a number")
        kind = str(spec.type).partition(" ")[0]
        if kind == "bool":
            require_flags(**{spec.name: value})
        if kind == "str" and not isinstance(value, (str, os.PathLike)):
            raise ValueError(f"{spec.name} is {value!r}, of type {type(value).__name__}; it must be text")
        if kind == "dict[str," and not isinstance(value, Mapping):
            raise ValueError(f"{spec.name} is {value!r}; it must be a dict")
        if kind == "tuple[int," and not _is_size(value):
            raise ValueError(f"{spec.name} is {value!r}; it must be (height, width) in pixels, such as (224, 224)")
        if kind == "int":
            try:
                object.__setattr__(options, spec.name, operator.index(value))  # of numpy it is none to all libraries
            except TypeError:
                raise ValueError(f"{spec.name} is {value!r}; it must be a whole number") from None
        if not all(holds[how](value, limit) for how, limit in limits.items()):
            raise ValueError(
                f"{spec.name} is {value}; it must be {' and '.join(f'{how} {limit}' for how, limit in limits.items())}"
            )


def require_flags(**flags: Any) -> None:
    """See that each is True or False: any text, "no" among them, would count as yes.

    Raises:
        ValueError: One is not.
    """
    for name, value in flags.items():
        if value is not True and value is not False and type(value).__name__ not in ("bool_", "bool"):  # of numpy
            raise ValueError(f"{name} is {value!r}; it must be True or False")


def _is_size(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(side, Integral) for side in value)


def sort_options(options: Mapping[str, Any], *kinds: type[Any]) -> list[Any]:
    """Options by name, sorted into what they are of: one of each of `kinds`.

    Raises:
        ValueError: One does not exist, and the message names the one that was probably meant; or is not allowed.
    """
    left = dict(options)
    found = [kind(**{spec.name: left.pop(spec.name) for spec in fields(kind) if spec.name in left}) for kind in kinds]
    require_names(left, [spec.name for kind in kinds for spec in fields(kind)], "option")
    return found


def require_names(given: Iterable[str], names: Sequence[str], what: str) -> None:
    """See that all that is given exists.

    Raises:
        ValueError: One does not, and the message names the one that was probably meant.
    """
    for name in given:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            raise ValueError(f"there is no {what} {name!r}{f'; did you mean {close[0]!r}?' if close else ''}")
