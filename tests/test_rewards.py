"""Each reward by itself: golden cases, and one line for every mistake."""

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe import plugins
from troupe.config import parse
from troupe.errors import UserError
from troupe.jobs.spec import RewardSettings
from troupe_actors import rewards
from troupe_actors.rewards import Sample, create, label, length


def values(name: str, samples: Sequence[Sample], options: dict[str, object]) -> list[object]:
    given = create(RewardSettings(name=name, options=options))(samples)
    return [type(v).__name__ if isinstance(v, Exception) else v for v in given]


def judge(name: str, completion: str, answer: object = None, **options: object) -> object:
    return values(name, [Sample("?", completion, answer)], options)[0]


@pytest.mark.parametrize(
    ("completion", "answer", "options", "value"),
    [
        ("Paris", "paris", {}, 1),
        ("Paris", "paris", {"ignore_case": False}, 0),
        ("  two \n words ", "two words", {}, 1),
        ("1 2 3 4", "1234", {}, 0),
        ("1 2 3 4", "1234", {"ignore_space": True}, 1),
        ("Paris.", "Paris", {}, 0),
        ("Paris.", "Paris", {"ignore_punctuation": True}, 1),
        ("ﬁve", "five", {}, 1),
        ("72", 72, {}, 1),
        ("b", ["a", "b"], {}, 1),
        ("so\n#### 7\nthat is it", "7", {"after": "####"}, 1),
        ("#### 3 no, #### 7", "7", {"after": "####"}, 1),
        ("7", "7", {"after": "####"}, 0),
        ("7", "6 + 1\n#### 7", {"answer_after": "####"}, 1),
        ("7", None, {}, "ValueError"),
        ("7", [], {}, "ValueError"),
        ("7", {"a": 7}, {}, "ValueError"),
        ("7", "7", {"answer_after": "####"}, "ValueError"),
        ("", "", {}, 1),
        ("x", "", {}, 0),
        ("####", "", {"after": "####"}, 1),
    ],
)
def test_exact(completion: str, answer: object, options: dict[str, object], value: object) -> None:
    assert judge("exact", completion, answer, **options) == value


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        ("1234", "1234", 1),
        ("1243", "1234", 0.5),
        ("123", "1234", 0.75),
        ("12345", "1234", 0.8),
        ("", "1234", 0),
        ("", "", 1),
        ("72", 72, 1),
        ("ab", ["xy", "ax"], 0.5),
        ("ab", None, "ValueError"),
    ],
)
def test_characters(completion: str, answer: object, value: object) -> None:
    assert judge("characters", completion, answer) == value


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        ("so the answer is \\boxed{72}", "72", 1),
        ("70 + 2 = 72 apples.", "72", 1),
        ("72 or 73", "72", 0),
        ("1,234", 1234, 1),
        ("it is 1234.0", "1,234", 1),
        ("$\\frac{3}{4}$", 0.75, 1),
        ("0.333333", "1/3", 1),
        ("0.33", "1/3", 0),
        ("1000", "1e3", 1),
        ("0.0000001", 1e-7, 1),
        ("$x + 1$", "72", 0),
        ("no idea", "72", 0),
        ("72", "x + 1", "ValueError"),
        ("72", "", "ValueError"),
        ("72", True, "ValueError"),
        ("-5", [5, -5], 1),
    ],
)
def test_number(completion: str, answer: object, value: object) -> None:
    assert judge("number", completion, answer) == value


@pytest.mark.parametrize(
    ("completion", "answer", "value"),
    [
        ("$(x-1)(x+1)$", "x^2 - 1", 1),
        ("\\boxed{x^2 - 1}", "$(x-1)(x+1)$", 1),
        ("$x^2 + 1$", "x^2 - 1", 0),
        ("$\\{2, 1\\}$", "\\boxed{\\{1,2\\}}", 1),
        ("$\\sqrt{8}$", "2\\sqrt{2}", 1),
        ("72", 72, 1),
        ("(((", "x^2", 0),
        ("", "x^2", 0),
        ("$x$", "", "ValueError"),
    ],
)
def test_symbolic(completion: str, answer: object, value: object) -> None:
    assert judge("symbolic", completion, answer) == value


@given(st.fractions(max_denominator=10**6).filter(lambda f: abs(f) < 10**9))
def test_a_fraction_is_itself_however_it_is_written(number: Fraction) -> None:
    sign, top = ("-" if number < 0 else ""), abs(number.numerator)
    latex = f"${sign}\\frac{{{top}}}{{{number.denominator}}}$"
    assert judge("number", latex, str(number)) == 1
    assert judge("number", latex, str(number + 1)) == 0


def test_a_tower_of_powers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troupe_actors.rewards._mathematics._SECONDS", 1)
    assert judge("number", "$9^{9^{9^9}}$", "72") == "TimeoutError"


@pytest.mark.parametrize(
    ("completion", "options", "value"),
    [
        ("<think>a\nb</think> 7", {"pattern": "<think>.*</think> \\d"}, 1),
        ("<think>a\nb</think> 7", {"pattern": "<think>.*</think> \\d", "dot_all": False}, 0),
        (" 7\n", {"pattern": "\\d"}, 1),
        ("say 7", {"pattern": "\\d"}, 0),
        ("say 7", {"pattern": "\\d", "whole": False}, 1),
        ("YES", {"pattern": "yes", "ignore_case": True}, 1),
    ],
)
def test_pattern(completion: str, options: dict[str, object], value: float) -> None:
    assert judge("pattern", completion, **options) == value


def test_length() -> None:
    """DAPO's curve: 0 up to max - buffer, linear to -1 at max, -1 beyond."""
    lengths = [1, 80, 85, 90, 99, 100, 120]
    overlong = [0, 0, -0.25, -0.5, -0.95, -1, -1]
    assert [length.overlong(n, 100, 20) for n in lengths] == pytest.approx(overlong)
    samples = [Sample("", "", tokens=n, finish="length" if n == 100 else "stop") for n in lengths]
    assert values("length", samples, {"max_tokens": 100}) == pytest.approx(overlong)
    options: dict[str, object] = {"max_tokens": 100, "rule": "cut"}
    assert values("length", samples, options) == [0, 0, 0, 0, 0, -1, 0]
    price = [-0.01, -0.8, -0.85, -0.9, -0.99, -1, -1]
    options = {"max_tokens": 100, "rule": "price"}
    assert values("length", samples, options) == pytest.approx(price)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"name": "exat"}, "rewards.0.name: no 'exat'; did you mean 'exact'"),
        ({"name": "exact", "options": {"aftr": "x"}}, "rewards.0.options.aftr: unknown key; did"),
        ({"name": "pattern", "options": {"pattern": "("}}, r"rewards.0.options: .* no regular"),
        ({"name": "pattern"}, "rewards.0.options.pattern: missing"),
        ({"name": "length", "options": {"max_tokens": 8, "buffer": 9}}, "buffer 9 is more than"),
        ({"name": "judges"}, "no 'judges'"),
        ({"name": "tests.judges"}, "rewards.0.name"),
        ({"name": "judges:nothing"}, "rewards.0.name: no 'nothing' in judges"),
        ({"name": "judges:NO_FUNCTION"}, "rewards.0.name: 'judges:NO_FUNCTION' is no function"),
        ({"name": "nowhere:reward"}, "needs the module 'nowhere'"),
        ({"name": "judges:rank"}, "rewards.0.options: judges:rank .* missing .* 'scale'"),
        ({"name": "judges:obey", "options": {"x": 1}}, "rewards.0.options: .* unexpected .* 'x'"),
        ({"name": "exact", "weight": 0.0}, "rewards: no reward of a weight"),
    ],
)
def test_a_mistake_is_one_line(settings: dict[str, object], text: str) -> None:
    with pytest.raises(UserError, match=text) as caught:
        rewards.check([parse(RewardSettings, settings)])
    assert "\n" not in str(caught.value)


def test_a_weight_that_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"rewards\.0\.weight"):
        parse(RewardSettings, {"name": "exact", "weight": float("nan")}, "rewards.0")


def test_two_of_one_name_need_labels() -> None:
    first = RewardSettings(name="pattern", options={"pattern": "a"})
    second = RewardSettings(name="pattern", options={"pattern": "b"}, label="other")
    rewards.check([first, second])
    with pytest.raises(UserError, match=r"rewards\.1\.label: there is a 'pattern' before it"):
        rewards.check([first, first])


def test_labels_are_the_last_part_of_a_name() -> None:
    assert label(RewardSettings(name="exact")) == "exact"
    assert label(RewardSettings(name="mine.judges:Best.score")) == "score"
    assert label(RewardSettings(name="mine.judges", label="a")) == "a"


def test_a_missing_package_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs the package math_verify; pip install 'troupe\[t"):
        rewards.check([RewardSettings(name="number")])


@pytest.mark.parametrize("name", plugins.names("troupe_actors.rewards"))
def test_every_file_keeps_the_contract(name: str) -> None:
    module = plugins.find("troupe_actors.rewards", name, "rewards.0.name")
    assert module.__doc__.startswith(f"`{name}`: ")
    assert isinstance(module.Options, type)
    assert callable(module.create)
