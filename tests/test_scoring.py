"""Several rewards as one, and rewards that raise, hang, die and lie."""

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from troupe.errors import UserError
from troupe.jobs.spec import RewardSettings
from troupe_actors.rewards import Sample, is_apart
from troupe_actors.rewards._failures import WINDOW, Failures, RewardFaultError
from troupe_actors.scoring import Rewards

OBEY = RewardSettings(name="judges:obey", max_failed=1.0)
LENGTH = RewardSettings(name="length", weight=0.5, options={"max_tokens": 10, "rule": "price"})


@pytest.fixture(scope="module")
def obeying() -> Iterator[Rewards]:
    with Rewards([OBEY, LENGTH]) as made:
        yield made


def said(words: Sequence[str], groups: Sequence[int] | None = None) -> list[Sample]:
    numbers = groups or [0] * len(words)
    return [Sample("?", w, tokens=len(w), group=g) for w, g in zip(words, numbers, strict=True)]


def test_the_sum_is_weighted_and_its_parts_are_not(obeying: Rewards) -> None:
    scored = obeying(said(["1", "2.5", "-3"], [0, 1, 0]))
    np.testing.assert_allclose(scored.components["obey"], [1, 2.5, -3])
    np.testing.assert_allclose(scored.components["length"], [-0.1, -0.3, -0.2])
    np.testing.assert_allclose(scored.total, [0.95, 2.35, -3.1])
    assert scored.total.dtype == np.float32
    assert scored.reasons == ("", "", "")
    assert not scored.failed.any()


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("raise", "obey: RuntimeError: told to"),
        ("given", "obey: ValueError: given back"),
        ("nan", "obey: gave nan"),
        ("inf", "obey: gave inf"),
        ("word", r"obey: gave 'one' \(a str\), not a number"),
        ("none", r"obey: gave None \(a NoneType\), not a number"),
        ("die", "obey: its process ended with -9"),
    ],
)
def test_what_fails_costs_its_sample_only(obeying: Rewards, word: str, reason: str) -> None:
    before = obeying.failures["obey"]
    scored = obeying(said(["1", word, "2", "3"], [7, 7, 7, 8]))
    assert scored.failed.tolist() == [False, True, False, False]
    np.testing.assert_allclose(scored.components["obey"], [1, math.nan, 2, 3])
    assert not np.isnan(scored.components["length"]).any()
    assert np.isnan(scored.total).tolist() == [False, True, False, False]
    assert scored.reasons[0] == ""
    assert re.fullmatch(reason, scored.reasons[1])
    assert obeying.failures == {"obey": before + 1, "length": 0}


WORDS = st.sampled_from(["1", "0.5", "-2", "raise", "given", "nan", "word"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, st.integers(0, 3)), max_size=12))
def test_a_sample_is_worth_the_same_in_any_company(
    obeying: Rewards, samples: list[tuple[str, int]]
) -> None:
    words = [word for word, _ in samples]
    scored = obeying(said(words, [group for _, group in samples]))
    expected = [float(w) if w[-1].isdigit() else math.nan for w in words]
    np.testing.assert_array_equal(scored.components["obey"], np.array(expected, np.float32))
    assert [bool(reason) for reason in scored.reasons] == np.isnan(expected).tolist()


def test_a_wrong_count_is_told_with_both_numbers() -> None:
    with Rewards([RewardSettings(name="judges:too_few", max_failed=1.0)]) as made:
        assert made(said(["a"])).total.tolist() == [0.5]
        scored = made(said(["a", "b"]))  # asked one by one it is right
        assert scored.total.tolist() == [0.5, 0.5]
    whole = RewardSettings(name="judges:too_few", max_failed=1.0, whole_groups=True)
    with Rewards([whole]) as made:
        reasons = made(said(["a", "b", "c"], [0, 0, 1])).reasons
        assert reasons == (*["too_few: gave 1 values (a list) for 2 samples"] * 2, "")


def test_a_reward_may_compare_a_whole_group() -> None:
    ranking = RewardSettings(
        name="judges:rank", options={"scale": 2.0}, whole_groups=True, max_failed=1.0
    )
    with Rewards([ranking]) as made:
        words = ["aaa", "b", "raise", "cc", "d", "ddd"]
        scored = made(said(words, [0, 1, 2, 0, 2, 1]))
    np.testing.assert_array_equal(scored.total, [2, 0, math.nan, 0, math.nan, 2])


def test_a_reward_of_weight_0_is_shown_and_costs_nothing() -> None:
    shown = RewardSettings(name="judges:obey", weight=0.0, max_failed=1.0)
    with Rewards([LENGTH, shown]) as made:
        scored = made(said(["raise", "2"]))
    np.testing.assert_allclose(scored.total, [-0.25, -0.05])
    np.testing.assert_array_equal(scored.components["obey"], [math.nan, 2])
    assert scored.reasons == ("obey: RuntimeError: told to", "")


def test_a_hang_within_c_is_ended_and_the_reward_goes_on() -> None:
    hopeless = RewardSettings(
        name="pattern", options={"pattern": "(x+x+)+y"}, timeout=1, max_failed=1.0
    )
    with Rewards([hopeless]) as made:
        scored = made(said(["xxxxy", "x" * 60, "b"]))
    np.testing.assert_array_equal(scored.total, [1, math.nan, 0])
    assert scored.reasons == ("", "pattern: took longer than 1 s", "")


def test_too_many_failures_end_the_job_with_name_and_last_reason() -> None:
    strict = RewardSettings(name="judges:obey", max_failed=0.002)
    with Rewards([strict]) as made:
        made(said(["raise", "1", "nan"]))
        with pytest.raises(RewardFaultError, match=r"'obey': failed on 3 .*; .*: gave nan") as told:
            made(said(["nan", "1"]))
    assert told.value.exit_code == 1
    assert "\n" not in str(told.value)


def test_failures_are_forgotten_after_the_window() -> None:
    failures = Failures("mine", 0.1)
    for _ in range(3):
        for _ in range(100):
            failures.failed("why")
        for _ in range(WINDOW - 100):
            failures.sound()
    for _ in range(100):
        failures.failed("why")
    with pytest.raises(RewardFaultError, match="'mine': failed on 101 of the newest 1000 samples"):
        failures.failed("why")
    assert failures.total == 401


def test_none_may_fail_and_all_may_fail() -> None:
    with pytest.raises(RewardFaultError):
        Failures("mine", 0.0).failed("why")
    lenient = Failures("mine", 1.0)
    for _ in range(2 * WINDOW):
        lenient.failed("why")


def test_what_cannot_be_made_is_told_before_anything_is_judged() -> None:
    with pytest.raises(UserError, match=r"rewards\.model\.path: /nowhere has no config\.json"):
        Rewards([RewardSettings(name="model", options={"path": "/nowhere"})])


def test_a_module_of_the_users_is_called_apart_unless_it_says_otherwise() -> None:
    for name, apart in (("exact", False), ("pattern", True), ("judges:obey", True)):
        assert is_apart(RewardSettings(name=name)) == apart
    own = RewardSettings(
        name="troupe_actors.rewards.length", options={"max_tokens": 10, "rule": "price"}
    )
    assert is_apart(own)
    with Rewards([own]) as made:
        assert made(said(["12345"])).total.tolist() == [-0.5]


def test_closing_ends_the_processes() -> None:
    made = Rewards([RewardSettings(name="judges:where")])
    pid = int(made(said(["a"])).components["where"][0])
    assert pid != os.getpid()
    made.close()
    made.close()
    assert not alive(pid)


LONELY = """
import sys
from troupe.jobs.spec import RewardSettings
from troupe_actors.rewards import Sample
from troupe_actors.scoring import Rewards
made = Rewards([RewardSettings(name=f"judges:{name}", timeout=1.0) for name in ("where", "spin")])
print(*(judge._process.pid for judge in made._judges), flush=True)
made([Sample("", "")] if sys.argv[1] == "busy" else [])
print("idle", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("doing", ["busy", "idle"])
def test_a_process_ends_with_whoever_asks_it(doing: str) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", LONELY, doing],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert parent.stdin
    assert parent.stdout
    with parent, parent.stdin, parent.stdout:
        pids = [int(word) for word in parent.stdout.readline().split()]
        if doing == "idle":
            assert parent.stdout.readline() == "idle\n"
        else:
            time.sleep(0.3)
        assert all(alive(pid) for pid in pids)
        parent.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 20
        while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
