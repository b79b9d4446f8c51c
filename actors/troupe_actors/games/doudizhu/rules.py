"""Which Dou Dizhu is played."""

from troupe.config import config


@config
class Rules:
    """The default is DouZero's game: no bidding, no spring, bombs double the stake.

    No rule profile lets a bomb be kickers, or a kicker share its rank with the body.
    """

    both_jokers_kicker: bool = False
    """Whether one move may carry both jokers as kickers."""
    four_with_two: bool = True
    """Whether four of a rank may carry two single cards or two pairs."""
    bomb_doubling: bool = True
    """Whether every bomb and the rocket double the payoff."""
