"""From what the processes of a language model's run report to what its frame tells of text."""

from collections.abc import Iterator, Mapping

from troupe.frame import Completions, Prompts, Score

REWARD = "reward"
SAMPLED, JUDGED = "actor/", "evaluator/eval/"
LOW, HIGH = "_low", "_high"


def told(reported: Mapping[str, float], per_second: float, prompts: Prompts | None) -> Completions:
    """What is known of completions, by `role/name`; prompts as they stand."""
    return Completions(
        scores=tuple(_scores(reported)),
        length=reported.get(f"{SAMPLED}completion_length"),
        truncated=reported.get(f"{SAMPLED}truncated"),
        failed=reported.get(f"{SAMPLED}reward_failed"),
        judged_length=reported.get(f"{JUDGED}completion_length"),
        judged_truncated=reported.get(f"{JUDGED}truncated"),
        count=reported.get(f"{SAMPLED}completions", 0.0),
        per_second=per_second,
        dropped_groups=int(reported.get(f"{SAMPLED}dropped_groups", 0)),
        prompts=prompts,
    )


def _scores(reported: Mapping[str, float]) -> Iterator[Score]:
    """The sum, then the components in the order of their labels."""
    for name in (REWARD, *(f"{REWARD}/{label}" for label in sorted(_labels(reported)))):
        yield Score(
            name=name.removeprefix(f"{REWARD}/"),
            sampled=reported.get(f"{SAMPLED}{name}"),
            judged=reported.get(f"{JUDGED}{name}"),
            judged_low=reported.get(f"{JUDGED}{name}{LOW}"),
            judged_high=reported.get(f"{JUDGED}{name}{HIGH}"),
        )


def _labels(reported: Mapping[str, float]) -> set[str]:
    """Of all components that anybody tells of; an evaluation tells the ends of an interval too."""
    sampled, judged = f"{SAMPLED}{REWARD}/", f"{JUDGED}{REWARD}/"
    found = {name.removeprefix(sampled) for name in reported if name.startswith(sampled)}
    return found | {
        name.removeprefix(judged)
        for name in reported
        if name.startswith(judged) and f"{name}{LOW}" in reported
    }
