"""Whether a job of text is sound, as far as can be seen before anything starts."""

from troupe.errors import UserError
from troupe.jobs.roles import imitates
from troupe.jobs.spec import Job, TextSettings
from troupe.language.models import ModelFolder, open_folder
from troupe.prompts import Prompt
from troupe.prompts.source import read
from troupe_actors import engines, rewards
from troupe_actors.sampling import engine_settings, sampling_of

_MODEL = "network.language.model"


def report(job: Job) -> str:
    """One line on a job's model and prompts.

    Raises:
        UserError: one line that says what is wrong.
    """
    text = job.text
    assert text is not None
    assert job.network.language is not None
    if not imitates(job):
        rewards.check(text.rewards, "text.rewards")
    folder = open_folder(job.network.language.model, _MODEL)
    sampling = sampling_of(text, folder)
    engines.check_sampling(sampling)
    engines.check_training(sampling, "text")
    engines.check_context(folder, engine_settings(job, text), "text.engine")
    _check_group(job, text)
    prompts = read(text.prompts)
    longest = _longest(prompts, folder, text, "text.prompts")
    if (asked := job.evaluation.prompts) is not None:
        _longest(read(asked, "evaluation.prompts"), folder, text, "evaluation.prompts")
    return (
        f"{folder.path.name}: {folder.vocabulary:,} words; {text.prompts.path}: {len(prompts):,} "
        f"prompts of at most {longest} tokens, {text.completions} completions to each"
    )


def _check_group(job: Job, text: TextSettings) -> None:
    compares = job.algorithm["name"] == "grpo" and job.algorithm["relative"] != "reinforce++"
    if text.completions == 1 and compares:
        raise UserError(
            "text.completions: 1, but grpo compares the completions to one prompt; make it 2 or "
            "more, or take algorithm.relative: reinforce++"
        )


def _longest(prompts: list[Prompt], folder: ModelFolder, text: TextSettings, key: str) -> int:
    """Tokens of the longest prompt; looks closely only at those that could be too long."""
    most, longest = text.engine.max_length, 0
    for prompt in prompts:
        tokens = len(folder.encode(prompt.prompt))
        longest = max(longest, tokens)
        if tokens >= most:
            raise UserError(
                f"{key}: row {prompt.id}: {tokens} tokens, text.engine.max_length is {most}; "
                "leave the prompt out, or raise that, up to what the model reads"
            )
    return longest
