"""Prompts: read from files, handed out by the store, each answered once."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from troupe.config import config

Message = Mapping[str, str]
"""Of a chat: `role` and `content`."""


@config
class PromptSettings:
    """Which prompts are answered, in which order, and what happens when answering fails."""

    path: Annotated[str, Field(min_length=1)]
    """A file of JSON lines or Parquet, or a folder of such files or as `datasets` saves one."""
    format: Literal["auto", "jsonl", "parquet", "datasets"] = "auto"
    """`auto` goes by the name, and by what a folder holds."""
    split: str | None = None
    """Of a folder that has several, such as `train`."""
    prompt: str = "prompt"
    """The column of prompts: texts, or chats as lists of `role` and `content`."""
    answer: str | None = "answer"
    """The column of what is right, any JSON value; none where rewards need none."""
    keep: tuple[str, ...] | None = None
    """Other columns that rewards are given; none keeps all that JSON can hold."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Of the file's prompts, the first so many."""
    shuffle: bool = True
    """Every epoch has an order of its own, by the seed."""
    epochs: Annotated[int, Field(gt=0)] | None = None
    """How often each prompt is answered; none is without end."""
    timeout: Annotated[float, Field(ge=1)] = 60.0
    """Seconds without a sign of life after which a prompt is given to somebody else."""
    deliveries: Annotated[int, Field(gt=0)] = 5
    """A prompt whose answering fails so often is put aside."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, and what its rewards need to know."""

    id: int
    """Its row in the file, counted from 0."""
    prompt: str | tuple[Message, ...]
    """A text, or the messages of a chat."""
    answer: object = None
    """What is right: any JSON value."""
    row: Mapping[str, object] = field(default_factory=dict)
    """The other columns that are kept: JSON values."""
