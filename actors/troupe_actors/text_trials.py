"""Judging a language model: one completion of each of many prompts, and what rewards say of it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from troupe import checkpoint as checkpoints
from troupe import seeding
from troupe.checkpoint import CheckpointError
from troupe.episodes import Columns
from troupe.errors import TroupeError, UserError
from troupe.jobs.spec import Job, RewardSettings
from troupe.language.models import open_folder
from troupe.language.settings import EngineSettings
from troupe.policies.adapters import published
from troupe.prompts import PromptSettings
from troupe.prompts.source import read
from troupe.runs import RunFolder
from troupe_actors import engines
from troupe_actors.completions import POLICY, Answered, Completion, samples
from troupe_actors.engines import Request, Sampling
from troupe_actors.rewards import Sample
from troupe_actors.sampling import engine_settings
from troupe_actors.scoring import Rewards, Scored
from troupe_actors.text_results import Result, joined

ROLE = "trial"
AT_ONCE = 64
"""Completions that are judged between two looks at whether to stop."""


@dataclass(frozen=True, slots=True)
class TrialSettings:
    """What a language model is asked, and how its completions are made and judged."""

    model: str
    """Its folder."""
    prompts: PromptSettings
    held_out: bool
    """Whether these are other prompts than those that are trained on."""
    rewards: tuple[RewardSettings, ...]
    engine: EngineSettings
    max_tokens: int
    temperature: float
    """0 takes the likeliest token."""


def settings_of(job: Job) -> TrialSettings:
    """A trial as the job has it: on `evaluation.prompts`, or, where there are none, those trained on."""
    text, evaluation, language = job.text, job.evaluation, job.network.language
    assert text is not None
    assert language is not None
    return TrialSettings(
        model=language.model,
        prompts=evaluation.prompts or text.prompts,
        held_out=evaluation.prompts is not None,
        rewards=text.rewards,
        engine=engine_settings(job, text),
        max_tokens=text.max_tokens,
        temperature=evaluation.exploration,
    )


def asked_for(
    settings: TrialSettings, file: Path | None, limit: int | None, temperature: float | None
) -> TrialSettings:
    """The trial with what somebody wants otherwise; None is as it is.

    Raises:
        UserError: a number is out of range.
    """
    if limit is not None and limit < 1:
        raise UserError(f"--limit: {limit} is not a number of prompts; 1 or more")
    if temperature is not None and not 0.0 <= temperature < float("inf"):
        raise UserError(f"--temperature: {temperature} is below 0 or endless; 0 is greedy")
    prompts, held_out = settings.prompts, settings.held_out
    if file is not None:
        prompts = replace(prompts, path=str(file), format="auto", split=None, limit=None)
        held_out = True
    if limit is not None:
        prompts = replace(prompts, limit=limit)
    if temperature is not None:
        settings = replace(settings, temperature=temperature)
    return replace(settings, prompts=prompts, held_out=held_out)


class Exam:
    """Prompts, an engine that answers them and rewards that judge the answers.

    Raises:
        UserError: the model, the prompts, a reward or the engine is not to be had, or a prompt leaves
            no room for a completion.
    """

    def __init__(self, name: str, settings: TrialSettings) -> None:
        folder = open_folder(settings.model, "network.language.model")
        self.name = name
        self._settings = settings
        self._decode = folder.decode
        self._sampling = Sampling(settings.max_tokens, settings.temperature, stop=folder.stop)
        self._asked: list[Answered] = []
        for number, prompt in enumerate(read(settings.prompts, "evaluation.prompts")):
            tokens = folder.encode(prompt.prompt)
            text = prompt.prompt if isinstance(prompt.prompt, str) else folder.decode(tokens)
            row = {**prompt.row}
            self._asked.append(Answered(number, tokens, text, (), prompt.answer, row))
        self._engine = engines.create(folder, settings.engine, "text.engine")
        for request in self._requests(0):
            engines.check_request(request, folder.vocabulary, settings.engine.max_length)
        self._rewards = Rewards(settings.rewards)

    def load(self, version: int, tensors: Columns, bfloat16: frozenset[str] = frozenset()) -> None:
        """Take weights, as `Engine.load`."""
        self._engine.load(version, tensors, bfloat16)

    def judge(self, seed: int = 0, stopped: Callable[[], bool] = lambda: False) -> Result | None:
        """Answer every prompt once; None where `stopped` said so between two steps.

        Raises:
            TroupeError: the weights have diverged, or a reward failed on too many completions.
        """
        start = time.perf_counter()
        completions = self._answers(seed, stopped)
        if completions is None:
            return None
        answered = [replace(one, completions=(completions[one.group],)) for one in self._asked]
        said = samples(answered, self._decode)
        scored = self._scored(said, stopped)
        if scored is None:
            return None
        return Result(
            agent=self.name,
            prompts=Path(self._settings.prompts.path).name,
            held_out=self._settings.held_out,
            temperature=self._settings.temperature,
            seed=seed,
            scored=scored,
            lengths=np.array([sample.tokens for sample in said]),
            truncated=np.array([sample.finish == "length" for sample in said]),
            seconds=time.perf_counter() - start,
        )

    def close(self) -> None:
        """End the processes of the rewards."""
        self._rewards.close()

    def _answers(self, seed: int, stopped: Callable[[], bool]) -> Mapping[int, Completion] | None:
        """By the prompt's number."""
        completions: dict[int, Completion] = {}
        self._engine.submit([*self._requests(seed)])
        while self._engine.pending:
            if stopped():
                self._engine.cancel({*range(len(self._asked))} - completions.keys())
                return None
            completions |= {done.id: done for done in self._engine.step()}
        return completions

    def _requests(self, seed: int) -> Iterator[Request]:
        for one in self._asked:
            own = seeding.key(seed, ROLE, one.group)
            yield Request(one.group, one.prompt, own, self._sampling, one.group)

    def _scored(self, said: Sequence[Sample], stopped: Callable[[], bool]) -> Scored | None:
        parts: list[Scored] = []
        for start in range(0, len(said), AT_ONCE):
            if stopped():
                return None
            parts.append(self._rewards(said[start : start + AT_ONCE]))
        return joined(parts)


def evaluate_run(
    run_folder: Path, settings: TrialSettings, checkpoint: str | None = None, seed: int = 0
) -> Result:
    """Judge a run's newest (or named) checkpoint.

    Raises:
        UserError: there is no such checkpoint, or as `Exam`.
        CheckpointError: there is no sound checkpoint, or it is of another job.
        TroupeError: as `Exam.judge`.
    """
    run = RunFolder(run_folder)
    path = run.saved(checkpoint)
    tensors = published(checkpoints.load_policy(path, POLICY))
    exam = Exam(run.name, settings)
    try:
        try:
            exam.load(1, tensors)
        except TroupeError as error:
            raise CheckpointError(f"{path}: {POLICY}: {error}; was job.yaml changed?") from None
        result = exam.judge(seed)
    finally:
        exam.close()
    assert result is not None
    return result
