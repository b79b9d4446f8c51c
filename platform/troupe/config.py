"""Typed settings: one decorator for every settings class, one function that reads plain data into them."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping
from typing import TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, TypeAdapter
from pydantic.dataclasses import dataclass as pydantic_dataclass

from troupe.errors import UserError

T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(pydantic.Field,))
def config(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that checks its values and refuses unknown keys."""
    settings = ConfigDict(extra="forbid", allow_inf_nan=False)
    made = pydantic_dataclass(cls, frozen=True, kw_only=True, config=settings)
    return typing.cast(type[T], made)


def parse(cls: type[T], data: object, at: str = "") -> T:
    """Read `data` (what YAML or JSON gave) into a settings class.

    `at` is the path of `data` in the job file, such as `algorithm`.

    Raises:
        UserError: a line for each mistake, with its path, the value and what would be right.
    """
    try:
        return TypeAdapter(cls).validate_python(data)
    except pydantic.ValidationError as error:
        lines = [_explain(cls, at, mistake) for mistake in error.errors(include_url=False)]
        raise UserError("\n".join(dict.fromkeys(lines))) from None


def dump(settings: object) -> dict[str, object]:
    """A settings object as plain data that YAML and JSON can hold, and `parse` reads back."""
    data = TypeAdapter(type(settings)).dump_python(settings, mode="json")
    assert isinstance(data, dict)
    return data


def _explain(cls: type, at: str, mistake: Mapping[str, typing.Any]) -> str:
    location = tuple(mistake["loc"])
    path = ".".join(str(part) for part in ((at, *location) if at else location)) or "job"
    value = mistake["input"]
    match mistake["type"]:
        case "unexpected_keyword_argument" | "extra_forbidden":
            known = _keys_at(cls, location[:-1])
            close = difflib.get_close_matches(str(location[-1]), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            return f"{path}: unknown key; {hint}"
        case "missing" | "missing_argument":
            return f"{path}: missing; this key has no default"
        case "dataclass_type" | "dict_type":
            return f"{path}: {value!r} is not a mapping of keys to values"
        case "value_error":
            return f"{path}: {mistake['ctx']['error']}"
        case _:
            return (
                f"{path}: {value!r} is not right: {mistake['msg'][0].lower()}{mistake['msg'][1:]}"
            )


def _keys_at(cls: type, location: tuple[int | str, ...]) -> list[str]:
    """The keys that a mapping at `location` below `cls` may have; none where that is not known."""
    here: object = cls
    for part in location:
        inner = typing.get_type_hints(here).get(str(part)) if isinstance(here, type) else None
        options = [inner, *typing.get_args(inner)]
        here = next((option for option in options if dataclasses.is_dataclass(option)), None)
    return [f.name for f in dataclasses.fields(here)] if dataclasses.is_dataclass(here) else []
