import io

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from troupe.errors import UserError
from troupe_actors import games
from troupe_actors.agents import Position
from troupe_actors.agents.doudizhu_rule import RuleAgent
from troupe_actors.play import find_seat, play

GAME = games.load("doudizhu", {})


class _Adviser(RuleAgent):
    """Values moves by their place in the list."""

    def values(self, position: Position) -> NDArray[np.float32]:
        return np.arange(len(position.moves), dtype=np.float32)


def sit(words: str, seat: int = 0, seed: int = 1) -> tuple[str, float]:
    """What a person sees who writes these words, a line each, and what they win."""
    out = io.StringIO()
    console = Console(file=out, width=100, color_system=None)
    won = play(GAME, _Adviser(), seat, seed, console, io.StringIO(words))
    return out.getvalue(), won


def test_a_whole_deal_is_played_by_number() -> None:
    text, won = sit("#1\n" * 40)
    assert "you lead" in text
    assert "in all)" in text
    assert "still held" in text
    assert won != 0
    assert f"{won:+.0f} points. Good bye." in text


def test_a_seed_repeats_the_deals() -> None:
    assert sit("#1\n" * 30) == sit("#1\n" * 30)
    assert sit("quit\n", seed=1)[0] != sit("quit\n", seed=2)[0]


def test_another_deal_is_offered() -> None:
    """`#1` plays on, and after a deal it is not a no."""
    text, _ = sit("#1\n" * 80)
    assert text.count("Another deal?") >= 2
    assert "deal 1 " not in text  # each deal is the first of its table
    text, _ = sit("#1\n" * 14 + "n\n" * 20)
    assert text.count("Another deal?") == 1


@pytest.mark.parametrize("words", ["", "quit\n", "exit\n", "?\n", "moves\nquit\n"])
def test_leaving_is_polite(words: str) -> None:
    text, won = sit(words)
    assert won == 0
    assert text.endswith("0 deals played, +0 points. Good bye.\n")


def test_ctrl_c_is_polite(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100)

    def interrupted(prompt: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "input", interrupted)
    assert play(GAME, _Adviser(), 0, 1, console) == 0
    assert "Good bye" in out.getvalue()


def test_every_seat_can_be_taken() -> None:
    for seat, name in enumerate(GAME.seats):
        text, _ = sit("quit\n", seat)
        assert f"You are {name}" in text


def test_hints_show_the_best_moves_first() -> None:
    text, _ = sit("?\nmoves\nquit\n", seat=1)
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if "the agents' choice" in line)
    values = [float(line.split()[-1]) for line in lines[at + 1 : at + 3]]
    assert values == sorted(values, reverse=True)


def test_what_cannot_be_played_is_explained() -> None:
    text, _ = sit("xyz\n2222\n#999\n#\nquit\n")
    assert "is not a card" in text
    assert "2222 is not legal here" in text
    assert text.count("there are moves #1 to #") == 2


def test_a_move_is_played_by_its_name() -> None:
    listed, _ = sit("moves\nquit\n")
    name = listed.split("#1 ")[1].split()[0]
    text, _ = sit(f"{name}\nquit\n")
    assert text.count("╭") == 2
    assert "not legal" not in text


def test_a_seat_that_is_not_there_is_one_line() -> None:
    assert find_seat(GAME, "") == 0
    assert find_seat(GAME, "landlord_up") == 2
    with pytest.raises(UserError, match="no seat 'dealer'; it has landlord, "):
        find_seat(GAME, "dealer")
