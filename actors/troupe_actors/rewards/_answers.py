"""Where in a text the answer stands, and what a row's answer may be."""

from collections.abc import Sequence

from troupe_actors.rewards import Sample


def part(text: str, after: str) -> str | None:
    """The rest of the line after the last `after`; the whole text without one.

    None where `after` is not in the text.
    """
    if not after:
        return text
    _, found, rest = text.rpartition(after)
    if not found:
        return None
    lines = rest.strip().splitlines()
    return lines[0] if lines else ""


def accepted(sample: Sample, after: str) -> Sequence[object]:
    """The answers that are right: one, or a list of them; texts only from `after` on.

    Raises:
        ValueError: the row has none.
    """
    answer = sample.answer
    answers = answer if isinstance(answer, list | tuple) else [answer]
    found = [part(one, after) if isinstance(one, str) else one for one in answers]
    if not found or any(one is None or isinstance(one, dict | list) for one in found):
        wanted = f" with {after!r}" if after else ""
        raise ValueError(f"the row's answer is {answer!r}, not a text or number{wanted}")
    return found
