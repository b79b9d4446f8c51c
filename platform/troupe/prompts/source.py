"""From rows to prompts, with a line for whatever is wrong with one."""

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

import xxhash

from troupe.errors import UserError
from troupe.prompts import Message, Prompt, PromptSettings
from troupe.prompts.formats import Row, rows

_MESSAGE = {"role", "content"}


def read(settings: PromptSettings, key: str = "text.prompts") -> list[Prompt]:
    """All prompts of a file or folder, in its order; `key` is where the settings stand, for errors.

    Raises:
        UserError: it cannot be read, holds none, or one of them is not right: says which, and how.
    """
    path = Path(settings.path).expanduser()
    found = islice(rows(path, settings.format, settings.split, key), settings.limit)
    prompts = [_prompt(number, row, settings, key) for number, row in enumerate(found)]
    if not prompts:
        raise UserError(f"{key}.path: {path}: there are no prompts in it")
    return prompts


def fingerprint(prompts: Iterable[Prompt], seed: int, *, shuffle: bool) -> str:
    """Tells whether these are the same prompts in the same order."""
    digest = xxhash.xxh3_64(f"{seed if shuffle else 'file'}\n".encode())
    for prompt in prompts:
        digest.update(to_json(prompt))
        digest.update(b"\n")
    return digest.hexdigest()


def to_json(prompt: Prompt) -> bytes:
    """A prompt as the store keeps it; half a surrogate pair, which JSON can hold, is kept too."""
    data = {"prompt": prompt.prompt, "answer": prompt.answer, "row": prompt.row}
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass")


def from_json(id_: int, text: bytes | str) -> Prompt:
    """A prompt that `to_json` has written."""
    data = json.loads(text)
    prompt = data["prompt"]
    return Prompt(
        id=id_,
        prompt=prompt if isinstance(prompt, str) else tuple(prompt),
        answer=data["answer"],
        row=data["row"],
    )


def opening(prompt: Prompt, length: int) -> str:
    """The beginning of a prompt, in one line; of a chat, of its last message."""
    text = prompt.prompt if isinstance(prompt.prompt, str) else prompt.prompt[-1]["content"]
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _prompt(id_: int, row: Row, settings: PromptSettings, key: str) -> Prompt:
    text = _column(row, settings.prompt, f"{key}.prompt")
    answer = None
    if settings.answer is not None:
        answer = _column(row, settings.answer, f"{key}.answer")
        _check_json(row, settings.answer, answer)
    return Prompt(id_, _text(row, settings.prompt, text), answer, _kept(row, settings, key))


def _column(row: Row, name: str, key: str) -> object:
    if name not in row.values:
        there = ", ".join(row.values) or "no columns at all"
        raise UserError(f"{row.where}: no column {name!r}; it has {there}; set {key}")
    return row.values[name]


def _text(row: Row, column: str, value: object) -> str | tuple[Message, ...]:
    if isinstance(value, str) and value:
        return value
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and value:
        return tuple(_message(row, column, one) for one in value)
    raise UserError(
        f"{row.where}: {column}: {_short(value)} is not a prompt: a text that is not empty, or a "
        "list of messages"
    )


def _message(row: Row, column: str, value: object) -> Message:
    if isinstance(value, Mapping) and value.keys() >= _MESSAGE:
        role, content = value["role"], value["content"]
        if isinstance(role, str) and isinstance(content, str):
            return {"role": role, "content": content}
    raise UserError(
        f"{row.where}: {column}: {_short(value)} is not a message: `role` and `content`, both texts"
    )


def _kept(row: Row, settings: PromptSettings, key: str) -> Mapping[str, object]:
    if settings.keep is not None:
        kept = {name: _column(row, name, f"{key}.keep") for name in settings.keep}
        for name, value in kept.items():
            _check_json(row, name, value)
        return kept
    known = (settings.prompt, settings.answer)
    return {k: v for k, v in row.values.items() if k not in known and _reason(v) is None}


def _check_json(row: Row, column: str, value: object) -> None:
    if (reason := _reason(value)) is not None:
        raise UserError(f"{row.where}: {column}: {_short(value)} is not a JSON value: {reason}")


def _reason(value: object) -> str | None:
    """Why JSON cannot hold a value; none if it can."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
