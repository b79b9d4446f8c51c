"""A person at the terminal talks to the language model of a run, and reads along as it answers."""

import secrets
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.text import Text

from troupe import checkpoint as checkpoints
from troupe.jobs.prepare import prepared_paths
from troupe.jobs.spec import Job
from troupe.language.export import language_of, weights_of
from troupe.language.models import ModelFolder, open_folder
from troupe.language.settings import EngineSettings
from troupe.prompts import Message
from troupe.prompts.source import read
from troupe.runs import RunFolder
from troupe_actors import engines
from troupe_actors.engines import Engine, Request, Sampling

LONGEST = 4096
"""Tokens of a conversation, where the model reads as many."""
_HALF = "\N{REPLACEMENT CHARACTER}"
"""What the first bytes of a character look like while the others are still to come."""


class Streaming(Engine, Protocol):
    """An engine that lets somebody read along."""

    def said(self, id_: int) -> NDArray[np.int32]:
        """The tokens of a request so far."""
        ...


@dataclass(frozen=True, slots=True)
class Speaker:
    """A model that answers one prompt at a time."""

    folder: ModelFolder
    engine: Streaming
    sampling: Sampling
    longest: int
    """Tokens of prompt and answer together."""

    @property
    def room(self) -> int:
        """Tokens that a prompt may have: half of all where long answers would leave it less."""
        return max(self.longest - self.sampling.max_tokens, self.longest // 2)

    def answer(self, prompt: NDArray[np.int32], seed: int) -> Generator[str]:
        """The answer in pieces, as it comes; to stop early, close the iterator."""
        number, shown = 0, ""
        self.engine.submit([Request(number, prompt, seed, self.sampling)])
        try:
            while self.engine.pending:
                done = self.engine.step()
                tokens = done[0].tokens if done else self.engine.said(number)
                text = self.folder.decode(tokens)
                whole = text if done else text.rstrip(_HALF)
                if len(whole) > len(shown):
                    yield whole[len(shown) :]
                    shown = whole
        finally:
            self.engine.cancel([number])


def open_speaker(
    run: RunFolder, name: str | None, *, temperature: float, max_tokens: int
) -> Speaker:
    """The model of a run as its newest checkpoint has it, or the one named.

    Raises:
        UserError: the run has no language model, no such checkpoint, or nothing can be drawn so.
        CheckpointError: there is none yet.
    """
    language = language_of(run)
    state = checkpoints.load(run.saved(name))
    folder = open_folder(language.model, "network.language.model")
    sampling = Sampling(max_tokens, temperature, stop=folder.stop)
    engines.check_sampling(sampling)
    longest = min(folder.context or LONGEST, LONGEST)
    lora = language.lora
    settings = EngineSettings(
        slots=1, max_length=longest, lora_scale=None if lora is None else lora.scale
    )
    engine = engines.create(folder, settings)
    engine.load(max(state.updates.values()), weights_of(state))
    return Speaker(folder, cast(Streaming, engine), sampling, longest)


def chats(job: Job, run: Path) -> bool:
    """Whether the job's prompts are chats, rather than texts that are to be continued."""
    text = prepared_paths(job, run).text
    if text is None:
        return True
    return not isinstance(read(replace(text.prompts, limit=1))[0].prompt, str)


def talk(
    speaker: Speaker,
    console: Console,
    ask: Callable[[], str],
    *,
    plain: bool,
    seed: int | None = None,
) -> None:
    """Answer what is asked until nothing more is (EOFError) or Ctrl-C at the prompt.

    Ctrl-C during an answer ends that answer.

    Args:
        speaker: who answers.
        console: where answers go.
        ask: the next line of the person.
        plain: lines are continued as they are, each by itself; else they are a conversation.
        seed: of what is drawn; none is a new one for every answer.
    """
    said: list[Message] = []
    while True:
        try:
            line = ask()
        except (EOFError, KeyboardInterrupt):
            console.print()
            return
        if not line.strip():
            continue
        said.append({"role": "user", "content": line})
        prompt = _prompt(speaker, said, plain=plain)
        if prompt is None:
            console.print(f"Too long: there is room for {speaker.room} tokens.", style="yellow")
            said.pop()
            continue
        pieces = speaker.answer(prompt, secrets.randbits(32) if seed is None else seed)
        said.append({"role": "assistant", "content": _show(pieces, console)})


def _prompt(speaker: Speaker, said: list[Message], *, plain: bool) -> NDArray[np.int32] | None:
    """What the model is to read; none if even the last line is too long.

    The oldest of a conversation is forgotten where there is no room for it.
    """
    while said:
        line = said[-1]["content"]
        tokens = speaker.folder.encode(line if plain else said)
        if len(tokens) <= speaker.room:
            return tokens
        if plain or len(said) == 1:
            return None
        del said[:2]
    return None


def _show(pieces: Generator[str], console: Console) -> str:
    """Print an answer as it comes; the whole of it, or as far as it was listened to."""
    heard: list[str] = []
    try:
        for piece in pieces:
            heard.append(piece)
            console.print(Text(piece, "cyan"), end="", soft_wrap=True)
            console.file.flush()
    except KeyboardInterrupt:
        console.print(" …", style="dim", end="")
    finally:
        pieces.close()
    console.print("\n")
    return "".join(heard)
