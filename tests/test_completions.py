"""From completions to a block and back: where tokens, rewards, endings and prompts are."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from troupe.episodes import Ending
from troupe.policies import ACTION
from troupe_actors.completions import (
    Answered,
    Tokens,
    entries,
    measures,
    pack,
    samples,
    sound,
    texts,
)
from troupe_actors.recorder import Author
from troupe_actors.scoring import Scored

AUTHOR = Author("actor-2", 3, 4)
STOP = 0


@dataclass(frozen=True)
class Said:
    tokens: Tokens
    log_prob: NDArray[np.float32]
    version: NDArray[np.uint32]
    finish: Literal["stop", "length"]


def say(*tokens: int, version: int = 1) -> Said:
    array = np.array(tokens, np.int32)
    finish: Literal["stop", "length"] = "stop" if tokens[-1] == STOP else "length"
    return Said(array, -array.astype(np.float32), np.full(len(tokens), version, np.uint32), finish)


def decode(tokens: Tokens) -> str:
    return "".join(chr(96 + int(token)) for token in tokens)


def asked(group: int, text: str, *completions: Said, answer: object = None) -> Answered:
    prompt = np.array([ord(letter) - 96 for letter in text], np.int32)
    return Answered(group, prompt, text, completions, answer, {"id": group})


def scored(*total: float) -> Scored:
    values = np.array(total, np.float32)
    reasons = tuple("no" if np.isnan(value) else "" for value in total)
    return Scored(values, {"exact": values * 2, "length": values * 0 - 1}, reasons)


ANSWERED = [
    asked(70, "abc", say(1, 2, STOP), say(3, 4), answer="ab"),
    asked(2**40, "de", say(STOP, version=5), say(5, STOP), say(6, 6, 6), answer="e"),
]


def test_samples_are_what_a_reward_should_see() -> None:
    made = samples(ANSWERED, decode)
    assert [s.prompt for s in made] == ["abc"] * 2 + ["de"] * 3
    assert [s.completion for s in made] == ["ab", "cd", "", "e", "fff"]
    assert [s.tokens for s in made] == [3, 2, 1, 2, 3]
    assert [s.finish for s in made] == ["stop", "length", "stop", "stop", "length"]
    assert [s.group for s in made] == [70, 70, *[2**40] * 3]
    assert [s.answer for s in made] == ["ab", "ab", "e", "e", "e"]
    assert made[4].row == {"id": 2**40}


def test_a_block_has_a_step_for_every_sampled_token_and_nothing_else() -> None:
    block = pack(ANSWERED, scored(1, 2, 3, 4, 5), AUTHOR, turn=6, resume=b"r")
    assert (block.policy, block.actor, block.incarnation, block.attempt) == (
        "agent",
        "actor-2",
        3,
        4,
    )
    assert (block.turn, block.resume) == (6, b"r")
    assert block.action[ACTION].tolist() == [1, 2, 0, 3, 4, 0, 5, 0, 6, 6, 6]
    assert block.reward.tolist() == [0, 0, 1, 0, 2, 3, 0, 4, 0, 0, 5]
    assert block.log_prob.tolist() == [-1, -2, 0, -3, -4, 0, -5, 0, -6, -6, -6]
    assert block.version.tolist() == [1] * 5 + [5] + [1] * 5
    assert block.length.tolist() == [3, 2, 1, 2, 3]
    assert block.group.tolist() == [70, 70, *[2**40] * 3]
    stop, cut = Ending.TERMINATED, Ending.TRUNCATED
    assert block.ending.tolist() == [stop, cut, stop, stop, cut]
    assert block.seat.tolist() == [0] * 5
    assert block.context["token"].tolist() == [1, 2, 3, 4, 5]
    assert block.about["prompt"].tolist() == [[0, 3], [0, 3], [3, 5], [3, 5], [3, 5]]
    assert block.about["reward/exact"].tolist() == [2, 4, 6, 8, 10]
    assert block.about["reward/length"].tolist() == [-1] * 5
    assert dict(block.observation) == dict(block.final) == dict(block.initial) == {}
    dtypes = {
        "int32": (
            block.action[ACTION],
            block.length,
            block.context["token"],
            block.about["prompt"],
        ),
        "float32": (block.reward, block.log_prob, block.about["reward/exact"]),
        "uint32": (block.version,),
        "int64": (block.group,),
        "uint8": (block.seat, block.ending),
    }
    for dtype, arrays in dtypes.items():
        assert {str(array.dtype) for array in arrays} == {dtype}


def test_a_block_of_nothing_has_all_its_columns() -> None:
    block = pack([], scored(), AUTHOR, turn=1)
    assert (block.steps, block.fragments) == (0, 0)
    assert block.about["prompt"].shape == (0, 2)
    assert block.action[ACTION].dtype == block.context["token"].dtype == np.int32


@given(
    st.lists(
        st.tuples(
            st.text("abcxyz", max_size=4),
            st.lists(
                st.tuples(st.text("abcxyz", max_size=4), st.booleans()), min_size=1, max_size=3
            ),
        ),
        max_size=4,
    )
)
def test_text_comes_back(groups: list[tuple[str, list[tuple[str, bool]]]]) -> None:
    answered, expected = [], []
    for number, (prompt, completions) in enumerate(groups):
        told = []
        for text, stopped in completions:
            stopped = stopped or not text
            told.append(say(*(ord(letter) - 96 for letter in text), *([STOP] if stopped else [])))
            expected.append((prompt, text))
        answered.append(asked(number, prompt, *told))
    block = pack(answered, scored(*[0.0] * len(expected)), AUTHOR)
    assert texts(block, decode) == expected


def test_what_failed_is_left_out_and_so_is_a_group_of_one() -> None:
    nan = float("nan")
    kept, rest = sound(ANSWERED, scored(1, nan, 3, nan, 5))
    assert [one.group for one in kept] == [2**40]
    assert [c.tokens.tolist() for c in kept[0].completions] == [[0], [6, 6, 6]]
    assert rest.total.tolist() == [3, 5]
    assert rest.components["exact"].tolist() == [6, 10]
    assert pack(kept, rest, AUTHOR).about["prompt"].tolist() == [[0, 2], [0, 2]]
    kept, rest = sound(ANSWERED, scored(1, nan, 3, nan, 5), least=1)
    assert [len(one.completions) for one in kept] == [1, 2]
    assert rest.total.tolist() == [1, 3, 5]
    kept, rest = sound(ANSWERED, scored(*[nan] * 5), least=1)
    assert kept == []
    assert pack(kept, rest, AUTHOR).fragments == 0


def test_a_block_takes_no_sample_without_a_reward() -> None:
    with pytest.raises(ValueError, match="a token and a reward"):
        pack(ANSWERED, scored(1, float("nan"), 3, 4, 5), AUTHOR)
    with pytest.raises(ValueError, match="a token and a reward"):
        pack(ANSWERED, scored(1), AUTHOR)


def test_the_table_has_all_of_them() -> None:
    judged = samples(ANSWERED, decode)
    made = entries(ANSWERED, judged, scored(1, 2, float("nan"), 4, 5))
    assert [e.version for e in made] == [1, 1, 5, 1, 1]
    assert [e.completion for e in made] == ["ab", "cd", "", "e", "fff"]
    assert made[3].rewards == {"exact": 8, "length": -1}
    assert made[2].reason == "no"
    assert made[4].finish == "length"


def test_measures_are_means_of_what_there_is() -> None:
    nan = float("nan")
    made = measures(samples(ANSWERED, decode), scored(1, 2, nan, nan, 6))
    assert made == pytest.approx(
        {
            "reward": 3.0,
            "reward/exact": 6.0,
            "reward/length": -1.0,
            "completion_length": 11 / 5,
            "truncated": 2 / 5,
            "reward_failed": 2 / 5,
        }
    )
    assert measures([], scored()) == {}
    assert set(measures(samples(ANSWERED, decode), scored(*[nan] * 5))) == {
        "completion_length",
        "truncated",
        "reward_failed",
    }
