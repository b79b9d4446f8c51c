"""What `number` and `symbolic` share: the library math-verify, called where its alarms are safe.

It stops what takes too long with SIGALRM, so it runs on the main thread of a process of its own.
What an alarm cannot stop (a power of powers within C) is ended with that process.
"""

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from functools import lru_cache
from typing import TypeAlias

import sympy
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify
from math_verify.errors import TimeoutException

Value: TypeAlias = "sympy.Basic | sympy.MatrixBase | str"

_SECONDS = 3
"""For parsing one text, and for comparing two values."""
_KINDS = (LatexExtractionConfig(), ExprExtractionConfig())
_MARKS = ("$", "\\boxed", "\\(", "\\[")


def said(text: str) -> list[Value]:
    """What the last formula or number of a completion may mean; empty where there is none.

    Raises:
        TimeoutError: it takes too long.
    """
    return _parse(text)


@lru_cache(maxsize=1024)
def meant(answer: str | float) -> Sequence[Value]:
    """What an answer of the data means.

    Raises:
        ValueError: it means nothing that could be compared.
        TimeoutError: it takes too long.
    """
    with suppress(ValueError, ZeroDivisionError):
        return [sympy.Rational(Fraction(str(answer)))]
    if not isinstance(answer, str):
        raise ValueError(f"the row's answer {answer!r} is neither a text nor a number")
    marked = any(mark in answer for mark in _MARKS)
    found = _parse(answer) if marked else _parse(f"${answer}$") or _parse(answer)
    if not found:
        raise ValueError(f"the row's answer {answer!r} is no formula and no number")
    return found


def numbers(values: Sequence[Value]) -> list[Value]:
    """Those that are numbers."""
    return [value for value in values if isinstance(value, sympy.Basic) and value.is_number]


def same(meant: Sequence[Value], said: Sequence[Value], digits: int) -> bool:
    """Whether any of one is the same as any of the other, numbers to so many decimal places.

    What the library cannot compare is not the same.

    Raises:
        TimeoutError: it takes too long.
    """
    return any(_same(one, other, digits) for one in meant for other in said)


def _parse(text: str) -> list[Value]:
    try:
        found: list[Value] = parse(text, _KINDS, parsing_timeout=_SECONDS, raise_on_error=True)
    except TimeoutException:
        raise TimeoutError(f"reading {text[-60:]!r} took longer than {_SECONDS} s") from None
    except Exception:  # noqa: BLE001 - it raises whatever it meets; then there is nothing to read
        return []
    return found


def _same(one: Value, other: Value, digits: int) -> bool:
    try:
        return bool(
            verify(
                one,
                other,
                float_rounding=digits,
                timeout_seconds=_SECONDS,
                raise_on_error=True,
            )
        )
    except TimeoutException:
        raise TimeoutError(f"comparing took longer than {_SECONDS} s") from None
    except Exception:  # noqa: BLE001 - it raises whatever it meets; then they are not the same
        return False
