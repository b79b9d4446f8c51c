"""The live view's blocks of a language model's run."""

from collections.abc import Iterator

from rich.text import Text

from troupe.blocks import ALARM, LABEL, Block, figure, lines, short
from troupe.frame import Completions, Frame, Learned, Prompts, Score

FEWEST = 6
"""Lines that a block has, if it has so many, however low the terminal is."""
TOLD = {
    "entropy": ("entropy", ".4f"),
    "approx_kl": ("approx KL", ".2e"),
    "clip_fraction": ("clipped", ".1%"),
    "zero_variance": ("groups without variance", ".1%"),
    "log_prob_gap": ("trainer-sampler gap", ".2e"),
    "kl": ("KL to reference", ".4f"),
    "rejected": ("rejected as stale", ".1%"),
    "value_loss": ("value loss", ".4g"),
    "policy_loss": ("policy loss", ".4g"),
    "loss": ("loss", ".4g"),
    "grad_norm": ("gradient norm", ".4g"),
}
"""Of what an algorithm tells by name: what a person reads, and how it is written; the first first."""
_OF_COMPLETIONS = ("reward", "completion_length", "truncated")
"""Told by the learner too; they stand with the actors' own."""


def throughput(frame: Frame, told: Completions) -> Block:
    """What is made and trained on a second, and in all."""
    rows = lines("left", "right", "right")
    rows.columns[1].min_width = 10
    rows.columns[2].min_width = 9
    for name, rate, total in (
        ("tokens sampled", f"{frame.decisions_per_second:,.0f}", frame.decisions),
        ("tokens trained", f"{frame.steps_per_second:,.0f}", frame.step),
        ("completions", f"{told.per_second:,.1f}", told.count),
        ("updates", f"{frame.updates_per_second:.2f}", frame.updates),
    ):
        rows.add_row(
            Text(name, LABEL), Text.assemble(rate, (" /s", LABEL)), Text(short(total), LABEL)
        )
    return Block("Throughput", rows)


def rewards(frame: Frame, told: Completions, most: int) -> Block:
    """Rewards by component, lengths and ends, as sampled and as judged, in about `most` lines."""
    rows = lines("left", "right", "right", "left", header=("", "sampled", "judged", "95 %"))
    whole, *parts = told.scores
    others = 5 + bool(told.failed)
    room = max(max(most, FEWEST) - others, 1)
    shown = parts[:room] if len(parts) > 1 else []
    for score in (whole, *shown):
        name = Text(score.name, LABEL, overflow="ellipsis")
        rows.add_row(name, _reward(score.sampled), _reward(score.judged), _spread(score))
    rows.add_row(Text("tokens", LABEL), _number(told.length), _number(told.judged_length))
    rows.add_row(Text("cut off", LABEL), _share(told.truncated), _share(told.judged_truncated))
    if told.failed:
        rows.add_row(Text("failed", LABEL), Text(f"{told.failed:.1%}", ALARM))
    after = "" if whole.judged is None else f", judged at {short(frame.evaluated)} tokens"
    return Block(f"Completions{after}", rows)


def learning(learned: Learned | None, most: int) -> Block:
    """What the algorithm tells, in at most `most` lines."""
    rows = lines("left", "right")
    if learned is None:
        return Block("Learning", rows)
    rows.columns[1].min_width = 9
    names = [name for name in TOLD if name in learned.scalars]
    names += [name for name in learned.scalars if not (name in TOLD or _of_completions(name))]
    for name in names[: max(most, FEWEST) - 1]:
        label, form = TOLD.get(name, (name.replace("_", " "), ".4g"))
        rows.add_row(Text(label, LABEL), figure(learned.scalars[name], form))
    behind = "" if learned.lag is None else f", actors {learned.lag} behind"
    return Block(f"Learning{behind}", rows)


def flow(frame: Frame, told: Completions, most: int) -> Block:
    """What waits for what, in at most `most` lines."""
    rows = lines("left", "left")
    rows.columns[0].min_width = len("staleness")
    for label, phrase in [*_flow(frame, told)][: max(most, FEWEST) - 1]:
        rows.add_row(Text(label, LABEL), phrase)
    return Block("Flow", rows)


def _flow(frame: Frame, told: Completions) -> Iterator[tuple[str, str]]:
    if frame.staleness is not None:
        stale = f"{frame.staleness:.1f} updates, at most {frame.staleness_max or 0:.0f}"
        yield "staleness", stale
    for place, phrase in enumerate(frame.waits.phrases()):
        yield "" if place else "waiting", phrase
    if told.prompts is not None:
        for place, phrase in enumerate(prompt_counts(told.prompts)):
            yield "" if place else "prompts", phrase
    elif told.dropped_groups:
        yield "dropped", f"{told.dropped_groups:,} groups"
    if frame.capacity:
        yield "queue", f"{frame.queue_fill:.0%} of {frame.capacity:,} tokens"
    else:
        yield "queue", f"{frame.backlog:,} tokens"


def prompt_counts(of: Prompts) -> Iterator[str]:
    """The counts in words: of those to come, of those that are over, of those put aside."""
    yield f"{of.ready:,} ready, {of.leased:,} leased"
    yield f"{of.done:,} done" + (f", {of.dropped:,} dropped" if of.dropped else "")
    if of.dead:
        yield f"{of.dead:,} dead"


def phrases(told: Completions, learned: Learned | None) -> Iterator[str]:
    """The key figures in words, for a line."""
    for score in told.scores if len(told.scores) > 2 else told.scores[:1]:
        if score.sampled is not None:
            yield f"{score.name} {score.sampled:.3f}"
    if told.scores[0].judged is not None:
        yield f"judged {told.scores[0].judged:.3f}"
    if told.length is not None:
        yield f"length {told.length:.1f}"
    if told.truncated is not None:
        yield f"cut off {told.truncated:.0%}"
    if told.failed:
        yield f"rewards failed {told.failed:.1%}"
    scalars = learned.scalars if learned is not None else {}
    for name in [name for name in TOLD if name in scalars][:6]:
        label, form = TOLD[name]
        yield f"{label} {scalars[name]:{form}}"
    if told.prompts is not None:
        yield f"prompts {', '.join(prompt_counts(told.prompts))}"


def _of_completions(name: str) -> bool:
    return name.partition("/")[0] in _OF_COMPLETIONS


def _reward(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _spread(score: Score) -> Text:
    if score.judged is None or score.judged_low is None or score.judged_high is None:
        return Text("")
    return Text(f"± {(score.judged_high - score.judged_low) / 2:.3f}", LABEL)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"
