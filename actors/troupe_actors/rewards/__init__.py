"""Rewards: what a completion is worth. One file each, found by its name, or a function of the user.

A file offers `Options` (settings of its own) and `create(options) -> Reward`. It may say `NEEDS`
(the optional package it needs) and `APART`: whether it is called in a process of its own, which
can be killed when it hangs. A user's function always is, and so is a module of the user's that
does not say. `scoring.py` combines several.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from types import ModuleType
from typing import Final, Protocol

from troupe import plugins
from troupe.config import parse
from troupe.errors import UserError
from troupe.jobs.spec import RewardSettings

EXTRA: Final = "text"
"""The optional packages that some rewards need."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion, as a reward sees it."""

    prompt: str
    """What the policy read, as text."""
    completion: str
    """What it said, without the stop token."""
    answer: object = None
    """What the prompt's row has as its answer: any JSON value."""
    tokens: int = 0
    """How many were sampled, the stop token included."""
    finish: str = "stop"
    """`stop` or `length`: whether it came to its end or to the limit."""
    group: int = 0
    """The same for all completions of one prompt."""
    row: Mapping[str, object] | None = None
    """The prompt's whole row, where it has more than prompt and answer."""


class Reward(Protocol):
    """Judges completions; it is called with one group at a time, or with a part of one."""

    def __call__(self, samples: Sequence[Sample], /) -> Sequence[float | Exception]:
        """[n]: a finite number for each sample, in their order; an exception fails that one alone."""
        ...


def each(judge: Callable[[Sample], float]) -> Reward:
    """The reward that judges every sample by itself."""

    def reward(samples: Sequence[Sample], /) -> list[float | Exception]:
        return [_one(judge, sample) for sample in samples]

    return reward


def _one(judge: Callable[[Sample], float], sample: Sample) -> float | Exception:
    try:
        return judge(sample)
    except Exception as error:  # noqa: BLE001 - it costs this sample, and is counted as that
        return error


def label(settings: RewardSettings) -> str:
    """What a reward is called in metrics and tables."""
    return settings.label or settings.name.replace(":", ".").rpartition(".")[2]


def check(settings: Sequence[RewardSettings], key: str = "rewards") -> None:
    """See that all of these could be made, without making them; `key` is where they stand.

    Raises:
        UserError: there is no such reward, it needs a package or takes no such option; two of one
            label, or none that weighs anything.
    """
    labels = [label(reward) for reward in settings]
    for place, reward in enumerate(settings):
        at = f"{key}.{place}"
        if labels[place] in labels[:place]:
            raise UserError(f"{at}.label: there is a {labels[place]!r} before it; choose another")
        if ":" in reward.name:
            _function(reward, at)
        else:
            _options(_module(reward.name, at), reward, at)
    if not any(reward.weight for reward in settings):
        raise UserError(f"{key}: no reward of a weight other than 0; give at least one")


def is_apart(settings: RewardSettings) -> bool:
    """Whether the reward is called in a process of its own."""
    if ":" in settings.name:
        return True
    return bool(getattr(_module(settings.name, "rewards"), "APART", "." in settings.name))


def create(settings: RewardSettings) -> Reward:
    """The reward itself, in this process.

    Raises:
        UserError: as `check`, or what its options name cannot be used.
    """
    at = f"rewards, {label(settings)!r}"
    if ":" in settings.name:
        return _function(settings, at)
    module = _module(settings.name, at)
    reward: Reward = module.create(_options(module, settings, at))
    return reward


def _module(name: str, at: str) -> ModuleType:
    module = plugins.find(__name__, name, f"{at}.name")
    if not hasattr(module, "create"):
        raise UserError(
            f"{at}.name: {name!r} is no reward; a function of your own is written package.module:function"
        )
    needs = getattr(module, "NEEDS", None)
    if needs and find_spec(needs) is None:
        raise UserError(
            f"{at}.name: {name!r} needs the package {needs}; pip install 'troupe[{EXTRA}]'"
        )
    return module


def _options(module: ModuleType, settings: RewardSettings, at: str) -> object:
    options: object = parse(module.Options, settings.options, f"{at}.options")
    return options


def _function(settings: RewardSettings, at: str) -> Reward:
    """The user's function, with its options bound."""
    found = _find(settings.name, f"{at}.name")
    try:
        inspect.signature(found).bind([], **settings.options)
    except TypeError as error:
        raise UserError(f"{at}.options: {settings.name} does not take them: {error}") from None
    except ValueError:  # a builtin without a signature: the call will tell
        pass
    return functools.partial(found, **settings.options)


def _find(name: str, key: str) -> Callable[..., Sequence[float | Exception]]:
    path, _, attribute = name.partition(":")
    try:
        found: object = importlib.import_module(path)
    except ModuleNotFoundError as error:
        package = error.name or path
        raise UserError(
            f"{key}: {name!r} needs the module {package!r}; install it, or put its folder in PYTHONPATH"
        ) from None
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UserError(f"{key}: no {part!r} in {path}")
        found = getattr(found, part)
    if not callable(found):
        raise UserError(f"{key}: {name!r} is no function")
    return found
