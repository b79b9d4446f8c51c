"""A stream of numbers for each deal: cheap to begin, since most games draw only a few."""

from typing import Final

_MASK: Final = 2**64 - 1


class Uniforms:
    """Numbers in [0, 1) that follow from a 64-bit key: splitmix64 (Steele, Lea and Flood, 2014)."""

    __slots__ = ("_state",)

    def __init__(self, key: int) -> None:
        self._state = key

    def __call__(self) -> float:
        """The next number."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((z ^ (z >> 31)) >> 11) * 2.0**-53
