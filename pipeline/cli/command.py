"""`command`: a function becomes a command; the fields of dataclasses become its options."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from enum import Enum
from functools import cache
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Optional, Union, get_args, get_origin, get_type_hints

import typer

from .terminal import Show, one_line_errors


def option(help: str, *names: str, panel: str | None = None) -> Any:
    """An option of a command, in a panel of its help; its names are those of the parameter if none are given."""
    return typer.Option(*names, help=help, rich_help_panel=panel)


_OUTPUT = [
    Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, option(text, flag, panel="Output")],
    )
    for name, flag, text in (
        ("as_json", "--json", "Print JSON, for programs."),
        ("quiet", "--quiet", "Print results and errors only: no progress, no remarks."),
        ("debug", "--debug", "On an error, show the traceback."),
    )
]

Reader = Callable[[Any], Any]
"""From what stands on the command line to the value of a field."""


def command(
    *options: type,
    defaults: Mapping[str, str] | None = None,
    without: Iterable[str] = (),
    renamed: Mapping[str, str] | None = None,
    needs: Mapping[str, Iterable[str]] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command, with the fields of dataclasses among its options.

    A field is an option if its metadata has a `panel` of the help and a `help` text; `choices` are all that it may
    be, `none` is the word for None. The function gets those that were given as its `**options`, by name: a default
    stands in the dataclass alone. `show` is what all commands print by. Errors of a user are printed in one line, or
    with `--debug` as they are.

    Args:
        defaults: What the help says of an option's default, by name, where the command has another.
        without: Fields that are no options of this command.
        renamed: Old names of fields with their new ones: still read, with a remark, and not shown.
        needs: By an option, or several of which one will do (`data, out`), the others that do nothing without it.
    """
    old_names = renamed or {}

    def make(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in signature(function).parameters.values()]
        before = [p for p in own if p.kind is not Parameter.VAR_KEYWORD and p.name != "show"]
        usual = {parameter.name: parameter.default for parameter in before}
        readers: dict[str, Reader] = {}
        made = []
        for kind in options:
            for name, (field, hint) in _shown(kind).items():
                if name not in {*without}:
                    parameter, readers[name] = _option(field, hint, (defaults or {}).get(name))
                    made.append(parameter)

        kinds = {parameter.name: get_args(parameter.annotation)[0] for parameter in made}
        for old, new in old_names.items():
            hidden: Any = Annotated[kinds[new], typer.Option(f"--{old.replace('_', '-')}", hidden=True)]
            made.append(Parameter(old, Parameter.KEYWORD_ONLY, default=None, annotation=hidden))

        def run(**given: Any) -> None:
            as_json, quiet = given.pop("as_json"), given.pop("quiet")
            with one_line_errors(given.pop("debug")):
                given["show"] = show = Show(as_json, quiet or as_json)
                for old, new in old_names.items():
                    if (value := given.pop(old)) is not None:
                        show.remark(f"{old} is called {new} now; the old name goes with 0.5".replace("_", "-"))
                        given[new] = value
                for name, read in readers.items():
                    value = given.pop(name)
                    if value is not None:
                        given[name] = read(value)
                for one_of, names in (needs or {}).items():
                    _require_one(
                        one_of, [name for name in names if given.get(name, usual.get(name)) != usual.get(name)], given
                    )
                for name, value in given.items():  # as of a variable of the shell that is not set
                    if value == "" and name not in ("image", "text", "text_alone"):
                        raise ValueError(f"{name.replace('_', '-')} is empty: give a value, or leave the option out")
                function(**given)

        parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (*before, *made, *_OUTPUT)]
        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return make


def _require_one(one_of: str, names: Sequence[str], given: Mapping[str, Any]) -> None:
    """See that something gives a meaning to options that were given."""
    needed = one_of.split(", ")
    if names and all(given.get(name) is None or given[name] is False for name in needed):
        flags = " or ".join(f"--{one}".replace("_", "-") for one in needed)
        raise ValueError(f"--{names[0].replace('_', '-')} goes with {flags}, and does nothing without it: leave it out")


@cache
def _shown(kind: type) -> dict[str, tuple[Field[Any], Any]]:
    """The fields of a dataclass that are options, with their types; several commands have the same."""
    chosen = [field for field in fields(kind) if field.metadata.get("panel")]
    different = {str(field.type): field.type for field in chosen}  # each is compiled, which is most of a help's time
    types_of = get_type_hints(type(kind.__name__, (), {"__annotations__": different, "__module__": kind.__module__}))
    return {field.name: (field, types_of[str(field.type)]) for field in chosen}


@cache
def _option(field: Field[Any], hint: Any, default: str | None) -> tuple[Parameter, Reader]:
    """The parameter of a command for a field, None if it is not given, and how its value is read."""
    kind: Any = hint
    if get_origin(hint) in (Union, types.UnionType):
        (kind,) = (part for part in get_args(hint) if part is not type(None))
    flag, choices, none = f"--{field.name.replace('_', '-')}", field.metadata.get("choices"), field.metadata.get("none")
    names = [flag]
    read: Reader = lambda value: value  # noqa: E731
    if kind is bool:
        names = [flag] if field.default is False else [f"{flag}/--no-{flag[2:]}"]
    elif choices:
        kind = Enum(field.name, [(choice, choice) for choice in choices], type=str)  # type: ignore[misc, no-redef]
        read = lambda choice: choice.value  # noqa: E731
    elif none is not None:
        kind, read = str, _number_or(none, flag)
    elif get_origin(kind) is tuple:
        kind, read = str, _size_of(flag)
    help_text = field.metadata["help"]
    if default is not None:
        help_text = f"{help_text.partition('  [default: ')[0]}  [default: {default}]"
    elif field.default is not MISSING and field.default is not None and field.default is not False:
        help_text += f"  [default: {field.default if field.default is not True else 'yes'}]"
    annotation: Any = Annotated[Optional[kind], option(help_text, *names, panel=field.metadata["panel"])]  # noqa: UP045
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation), read


def _number_or(none: str, flag: str) -> Reader:
    def read(value: str) -> int | None:
        if value == none:
            return None
        if not value.isdigit():
            raise ValueError(f"{flag} is {value!r}; give a number, or {none}")
        return int(value)

    return read


def _size_of(flag: str) -> Reader:
    def read(value: str) -> tuple[int, int]:
        height, _, width = value.lower().partition("x")
        if not height.isdigit() or (width and not width.isdigit()):
            raise ValueError(f"{flag} is {value!r}; give HEIGHTxWIDTH in pixels, such as 80x60, or one number")
        return int(height), int(width or height)

    return read
