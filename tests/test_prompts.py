"""Prompts from files: every format gives the same, and every mistake one line that says where."""

import importlib
import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troupe.config import parse
from troupe.errors import UserError
from troupe.prompts import Prompt, PromptSettings, formats
from troupe.prompts.order import Order, of_slot, share_of
from troupe.prompts.source import fingerprint, from_json, opening, read, to_json
from troupe.prompts.supply import Supply
from troupe.store.leases import Lease, Wait
from troupe.store.prompt_progress import PromptProgress

ROWS: list[dict[str, object]] = [
    {"prompt": f"sort {n}", "answer": {"digits": [n, 1]}, "level": n} for n in range(4)
]
EXPECTED = [Prompt(n, f"sort {n}", {"digits": [n, 1]}, {"level": n}) for n in range(4)]


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def jsonl(folder: Path) -> Path:
    return lines(folder / "train.jsonl", *ROWS)


def parquet(folder: Path) -> Path:
    arrow, writer = (importlib.import_module(f"pyarrow{part}") for part in ("", ".parquet"))
    writer.write_table(arrow.Table.from_pylist(ROWS), folder / "train-00000-of-00001.parquet")
    return folder / "train-00000-of-00001.parquet"


def folder_of_files(folder: Path) -> Path:
    (folder / "data").mkdir()
    lines(folder / "data" / "train-0.jsonl", *ROWS[:3])
    lines(folder / "data" / "train-1.jsonl", *ROWS[3:])
    return folder


def saved(folder: Path) -> Path:
    importlib.import_module("datasets").Dataset.from_list(ROWS).save_to_disk(str(folder / "set"))
    return folder / "set"


def saved_splits(folder: Path) -> Path:
    datasets = importlib.import_module("datasets")
    train, test = datasets.Dataset.from_list(ROWS), datasets.Dataset.from_list(ROWS[:1])
    datasets.DatasetDict(train=train, test=test).save_to_disk(str(folder / "sets"))
    return folder / "sets"


@pytest.mark.parametrize(
    ("make", "split"),
    [(jsonl, None), (parquet, None), (folder_of_files, None), (folder_of_files, "train"),
     (saved, None), (saved_splits, "train")],
)  # fmt: skip
def test_every_format_gives_the_same_prompts(
    tmp_path: Path, make: Callable[[Path], Path], split: str | None
) -> None:
    path = make(tmp_path)
    assert read(PromptSettings(path=str(path), split=split)) == EXPECTED
    assert read(PromptSettings(path=str(path), split=split, limit=2)) == EXPECTED[:2]


def test_columns_have_the_names_that_the_job_gives_them(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "1+1?"}]
    row = {"question": chat, "label": 2, "level": 1, "source": "x"}
    path = lines(tmp_path / "a.jsonl", row)
    settings = PromptSettings(path=str(path), prompt="question", answer="label", keep=("level",))
    assert read(settings) == [Prompt(0, tuple(chat), 2, {"level": 1})]
    settings = PromptSettings(path=str(path), prompt="question", answer=None, keep=())
    assert read(settings) == [Prompt(0, tuple(chat))]


def test_blank_lines_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('\n{"prompt": "a", "answer": null}\n\n')
    assert read(PromptSettings(path=str(tmp_path / "a.jsonl"))) == [Prompt(0, "a")]


GOOD = b'{"prompt": "a", "answer": 1}\n'


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", r"a.jsonl: there are no prompts in it$"),
        (b"\n\n", r"a.jsonl: there are no prompts in it$"),
        (GOOD + b'{"prompt": "b", "ans', r"a.jsonl:2: not a whole JSON object .*cut off here$"),
        (GOOD + b"{prompt: 1}\n", r"a.jsonl:2: not a whole JSON object .*one a line is needed$"),
        (GOOD + b'{"prompt": "b", "answer": NaN}\n', r"a.jsonl:2: .*NaN is not a JSON value"),
        (GOOD + b'{"prompt": "\xff", "answer": 1}\n', r"a.jsonl:2: not UTF-8"),
        (GOOD + b"[1]\n", r"a.jsonl:2: b'\[1\]\\n' is JSON but no object"),
        (b'{"prompt": "a", "solution": 1}\n',
         r"a.jsonl:1: no column 'answer'; it has prompt, solution; set text.prompts.answer$"),
        (GOOD + b'{"question": "a"}\n', r"a.jsonl:2: no column 'prompt'.*set text.prompts.prompt$"),
        (GOOD + b"{}\n", r"a.jsonl:2: no column 'prompt'; it has no columns at all"),
        (b'{"prompt": "", "answer": 1}\n', r"a.jsonl:1: prompt: '' is not a prompt: a text"),
        (b'{"prompt": 7, "answer": 1}\n', r"a.jsonl:1: prompt: 7 is not a prompt: a text"),
        (b'{"prompt": [], "answer": 1}\n', r"a.jsonl:1: prompt: \[\] is not a prompt"),
        (b'{"prompt": ["hi"], "answer": 1}\n', r"a.jsonl:1: prompt: 'hi' is not a message"),
        (b'{"prompt": [{"role": "user"}], "answer": 1}\n', r"is not a message: `role` and"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line_that_says_where(
    tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=says) as caught:
        read(PromptSettings(path=str(tmp_path / "a.jsonl")))
    assert "\n" not in str(caught.value)


def test_a_path_that_is_wrong_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x")
    (tmp_path / "a.parquet").write_text("no parquet at all")
    (tmp_path / "empty").mkdir()
    jsonl(tmp_path)
    for name, split, says in (
        ("none.jsonl", None, "no such file"),
        ("a.csv", None, "set text.prompts.format"),
        ("a.parquet", None, "not a sound Parquet file"),
        ("empty", None, "no file of prompts"),
        ("train.jsonl", "train", "^text.prompts.split"),
        ("", "test", r"no file called test\*.*train.jsonl"),
    ):
        with pytest.raises(UserError, match=says) as caught:
            read(PromptSettings(path=str(tmp_path / name), split=split))
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(
        UserError, match=r"^text\.prompts\.split: None: .* has train, test; choose one"
    ):
        read(PromptSettings(path=str(saved_splits(tmp_path))))
    with pytest.raises(UserError, match="not a folder of `datasets`"):
        read(PromptSettings(path=str(tmp_path / "empty"), format="datasets"))


@pytest.mark.parametrize(("make", "needs"), [(parquet, "pyarrow"), (saved, "datasets")])
def test_a_missing_extra_is_told_with_how_to_install_it(
    tmp_path: Path, make: Callable[[Path], Path], needs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = make(tmp_path), importlib.import_module

    def without(name: str) -> ModuleType:
        if name.startswith(needs):
            raise ModuleNotFoundError(name=needs)
        return real(name)

    monkeypatch.setattr(formats.importlib, "import_module", without)
    with pytest.raises(UserError, match=rf"needs {needs}; pip install 'troupe\[text\]'"):
        read(PromptSettings(path=str(path)))


def test_what_json_cannot_hold_is_left_out_unless_it_is_asked_for(tmp_path: Path) -> None:
    arrow, writer = (importlib.import_module(f"pyarrow{part}") for part in ("", ".parquet"))
    row = {"prompt": "a", "answer": b"raw", "image": b"png", "level": 1}
    path = tmp_path / "a.parquet"
    writer.write_table(arrow.Table.from_pylist([row]), path)
    assert read(PromptSettings(path=str(path), answer=None)) == [Prompt(0, "a", row={"level": 1})]
    for settings, column in (
        (PromptSettings(path=str(path)), "answer"),
        (PromptSettings(path=str(path), answer=None, keep=("image",)), "image"),
    ):
        with pytest.raises(UserError, match=rf"a.parquet row 1: {column}: .* is not a JSON value"):
            read(settings)


@pytest.mark.parametrize(
    "wrong", [{"path": ""}, {"path": "a", "epochs": 0}, {"path": "a", "limit": 0},
              {"path": "a", "timeout": 0}, {"path": "a", "deliveries": 0}, {"path": "a", "x": 1}]
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UserError, match=r"^prompts\."):
        parse(PromptSettings, wrong, "prompts")


text = st.text(min_size=1)
message = st.fixed_dictionaries({"role": text, "content": st.text()})
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)  # fmt: skip


@given(
    st.builds(
        Prompt,
        id=st.just(3),
        prompt=text | st.lists(message, min_size=1).map(tuple),
        answer=values,
        row=st.dictionaries(st.text(), values),
    )
)
def test_a_prompt_comes_back_as_it_was_kept(prompt: Prompt) -> None:
    assert from_json(3, to_json(prompt)) == prompt


def test_the_fingerprint_tells_prompts_and_orders_apart() -> None:
    mark = fingerprint(EXPECTED, 1, shuffle=True)
    assert mark == fingerprint([*EXPECTED], 1, shuffle=True)
    others = (
        fingerprint(EXPECTED[:3], 1, shuffle=True),
        fingerprint(EXPECTED[::-1], 1, shuffle=True),
        fingerprint(EXPECTED, 2, shuffle=True),
        fingerprint(EXPECTED, 1, shuffle=False),
    )
    assert len({mark, *others}) == 5
    assert fingerprint(EXPECTED, 1, shuffle=False) == fingerprint(EXPECTED, 2, shuffle=False)


def test_a_prompt_opens_in_one_line() -> None:
    chat = ({"role": "user", "content": "first"}, {"role": "user", "content": "two\n  lines"})
    assert opening(Prompt(0, chat), 20) == "two lines"
    assert opening(Prompt(0, "0123456789"), 5) == "0123…"


def test_orders_are_golden() -> None:
    """A change of these would change every run."""
    order = Order(5, 1, shuffle=True)
    assert [order.place(ticket).prompt for ticket in range(10)] == [3, 0, 2, 1, 4, 0, 3, 1, 4, 2]
    assert order.place(12).epoch == 2
    assert [Order(5, 1, shuffle=False).place(t) for t in (4, 5)] == [(0, 4), (1, 0)]


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 20))
def test_turns_give_every_ticket_to_one_slot(turn: int, slots: int, groups: int) -> None:
    def given_(slot: int) -> Iterator[int]:
        share = share_of(slot, slots, groups)
        return islice(of_slot(slot, slots, groups, turn * share), share)

    together = [ticket for slot in range(slots) for ticket in given_(slot)]
    assert sorted(together) == list(range(turn * groups, (turn + 1) * groups))


@given(st.integers(0, 50), st.integers(1, 9), st.integers(1, 20))
def test_an_actor_goes_on_where_it_stopped(start: int, slots: int, groups: int) -> None:
    own = min(slots, groups) - 1
    whole = [*islice(of_slot(own, slots, groups, 0), start + 5)]
    assert whole[start:] == [*islice(of_slot(own, slots, groups, start), 5)]
    assert whole == sorted({*whole})


def test_progress_goes_on_by_what_was_consumed() -> None:
    before = PromptProgress(cursor=4, open=(1, 3), done=2)
    after = before.after([3, 6, 0])
    assert (after.cursor, after.open, after.done) == (7, (1, 4, 5), 4)
    assert PromptProgress.load(json.loads(json.dumps(after.dump()))) == after


class Giver:
    """Gives what the test says, and forgets what it says."""

    def __init__(self) -> None:
        self.answers: list[list[Lease] | Wait] = []
        self.gone: list[Lease] = []
        self.beats = 0

    def lease(self, count: int, version: int) -> list[Lease] | Wait:
        return self.answers.pop(0)

    def heartbeat(self, leases: object) -> list[Lease]:
        self.beats += 1
        return self.gone


def test_a_supply_asks_beats_and_tells_what_was_lost() -> None:
    leases = [Lease(n, "token", 0, EXPECTED[n]) for n in range(3)]
    giver, now = Giver(), 0.0
    supply = Supply(giver, 60.0, clock=lambda: now)
    giver.answers = [leases[:2], Wait("no more yet", over=False), leases[2:]]
    assert supply.more(0, 1) == []
    assert supply.more(3, 1) == leases[:2]
    assert supply.more(1, 1) == []
    assert supply.waiting_for == "no more yet"
    assert supply.more(1, 1) == []  # too soon to ask again
    now = 1.0
    assert supply.more(1, 1) == leases[2:]
    assert supply.waiting_for == ""
    assert supply.lost() == []
    assert giver.beats == 0
    supply.finish(leases[:1])
    now, giver.gone = 16.0, leases[1:2]
    assert supply.lost() == leases[1:2]
    assert [*supply.held] == [2]
    giver.answers = [Wait("every prompt is answered", over=True)]
    assert supply.more(1, 1) == []
    assert supply.over
