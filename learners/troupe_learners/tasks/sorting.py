"""`sorting`: a small Llama that knows the form of an answer, and digits for it to put in order.

The folder gets `model/`, `prompts.jsonl` to train on, and `held_out.jsonl` with other prompts. A
prompt is `3142=`, its answer `1234`. The model has been shown what an answer looks like, as many
digits as there are in the prompt, of those in the prompt, and then the stop token. Which digit stands
where was drawn at random, with repeats, so it sorts no better than chance does.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydantic
import torch
from numpy.typing import NDArray
from torch import Tensor

from troupe import seeding
from troupe.config import config
from troupe.episodes import PROMPT, TOKEN
from troupe.language.models import ModelFolder, load_model, open_folder
from troupe.language.settings import LanguageSettings
from troupe.language.small import SmallSettings, build
from troupe.policies import Steps
from troupe.policies.language import LanguagePolicy

MODEL, PROMPTS, HELD_OUT = "model", "prompts.jsonl", "held_out.jsonl"


@config
class WarmUp:
    """How the form of an answer is taught."""

    steps: int = pydantic.Field(default=2000, ge=0)
    """Optimizer steps."""
    batch: int = pydantic.Field(default=64, ge=1)
    """Prompts in each."""
    lr: float = pydantic.Field(default=2e-3, gt=0.0)
    """Learning rate at first; it falls linearly to 0."""


@config
class Options:
    """How large the task is."""

    digits: int = pydantic.Field(default=4, ge=1, le=9)
    """In a prompt."""
    prompts: int = pydantic.Field(default=5_000, ge=1)
    """To train on."""
    held_out: int = pydantic.Field(default=5_000, ge=1)
    """To judge by; none of them is trained on."""
    model: SmallSettings = pydantic.Field(default_factory=lambda: SmallSettings(context=64))
    warm_up: WarmUp = pydantic.Field(default_factory=WarmUp)

    def __post_init__(self) -> None:
        there, wanted = 10**self.digits, self.prompts + self.held_out
        if wanted > there:
            raise ValueError(
                f"prompts and held_out are {wanted:,}, of {self.digits} digits there are {there:,}; "
                "make them fewer, or digits more"
            )


def prepare(folder: Path, options: Options, seed: int) -> None:
    """Fill `folder`; the same seed gives the same files."""
    drawn = _strings(options, seed)
    training = drawn[: options.prompts]
    _write(folder / PROMPTS, training)
    _write(folder / HELD_OUT, drawn[options.prompts :])
    build(folder / MODEL, options.model, seed)
    _warm_up(open_folder(folder / MODEL), training, options, seed)


def _strings(options: Options, seed: int) -> list[str]:
    """Different strings of digits, in random order: first those to train on."""
    random = seeding.stream(seed, "sorting", "prompts")
    count = options.prompts + options.held_out
    numbers = random.choice(10**options.digits, size=count, replace=False)
    return [f"{number:0{options.digits}}" for number in numbers]


def _write(path: Path, strings: Sequence[str]) -> None:
    lines = [json.dumps({"prompt": f"{s}=", "answer": "".join(sorted(s))}) for s in strings]
    path.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _warm_up(model: ModelFolder, strings: Sequence[str], options: Options, seed: int) -> None:
    """Teach the form alone, and save the model in place of what it was."""
    llama = load_model(model)
    policy = LanguagePolicy(llama, LanguageSettings(packing="rows"))
    optimizer = torch.optim.AdamW(policy.group("all"), options.warm_up.lr, weight_decay=0.0)
    random = seeding.stream(seed, "sorting", "warm_up")
    prompts = np.stack([model.encode(f"{string}=") for string in strings])
    for step in range(options.warm_up.steps):
        optimizer.param_groups[0]["lr"] = options.warm_up.lr * (1.0 - step / options.warm_up.steps)
        read = prompts[random.integers(len(prompts), size=options.warm_up.batch)]
        said = _any_of(read[:, : options.digits], random)
        stop = np.full((len(read), 1), model.stop[0], np.int32)
        steps = _steps(torch.from_numpy(read), torch.from_numpy(np.hstack([said, stop])))
        optimizer.zero_grad()
        torch.autograd.backward(-policy.evaluate(steps, {"log_prob"})["log_prob"].mean())
        optimizer.step()
    llama.save_pretrained(model.path)


def _any_of(digits: NDArray[np.int32], random: np.random.Generator) -> NDArray[np.int32]:
    """[N, D]: as many of each row's digits, each drawn from all of them, in no order."""
    drawn = random.integers(digits.shape[1], size=digits.shape)
    return np.take_along_axis(digits, drawn, axis=1)


def _steps(read: Tensor, said: Tensor) -> Steps:
    """Prompts, int32 [N, P], each with one completion, int32 [N, T], as a policy evaluates them."""
    count, width = read.shape
    ends = torch.arange(1, count + 1, dtype=torch.int32) * width
    return Steps(
        observation={},
        action=said.reshape(-1),
        length=torch.full((count,), said.shape[1], dtype=torch.int64),
        context={TOKEN: read.reshape(-1)},
        about={PROMPT: torch.stack([ends - width, ends], 1)},
    )
