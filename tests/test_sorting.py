"""Tasks that come with it: what they put in a run's folder."""

import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from troupe.config import parse
from troupe.errors import UserError
from troupe.language.models import ModelFolder, open_folder
from troupe_actors import engines
from troupe_actors.engines import Completion, EngineSettings, Request, Sampling
from troupe_learners.tasks import gsm8k, sorting

FEW = {"prompts": 700, "held_out": 300, "digits": 3}


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(folder: ModelFolder, prompts: list[str], temperature: float) -> list[Completion]:
    settings = EngineSettings(slots=512, max_length=32)
    engine = engines.create(folder, settings)
    how = Sampling(8, temperature, stop=folder.stop)
    engine.submit([Request(i, folder.encode(p), i, how) for i, p in enumerate(prompts)])
    done: list[Completion] = []
    while engine.pending:
        done += engine.step()
    return sorted(done, key=lambda one: one.id)


def test_it_starts_at_chance_and_knows_the_form(tmp_path: Path) -> None:
    # The shape of a whole warm-up, in an eighth of its steps.
    options = parse(sorting.Options, {"warm_up": {"steps": 250}})
    sorting.prepare(tmp_path, options, 1)
    folder = open_folder(tmp_path / "model")
    held_out = rows(tmp_path / "held_out.jsonl")[:1000]
    for temperature in (0.0, 1.0):
        done = said(folder, [str(row["prompt"]) for row in held_out], temperature)
        text = [folder.decode(one.tokens) for one in done]
        right = np.mean([t == row["answer"] for t, row in zip(text, held_out, strict=True)])
        assert right <= 0.02, temperature
        formed = [one.finish == "stop" and len(one.tokens) == 5 for one in done]
        assert np.mean(formed) > 0.9, temperature


def test_prompts_are_apart_and_follow_from_the_seed(tmp_path: Path) -> None:
    options = parse(sorting.Options, {**FEW, "warm_up": {"steps": 2}})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        sorting.prepare(tmp_path / name, options, seed)
    training, held_out = (rows(tmp_path / "a" / f) for f in ("prompts.jsonl", "held_out.jsonl"))
    assert (len(training), len(held_out)) == (700, 300)
    assert len({str(row["prompt"]) for row in training + held_out}) == 1000
    assert all(row["answer"] == "".join(sorted(str(row["prompt"])[:-1])) for row in training)
    files = [f.relative_to(tmp_path / "a") for f in (tmp_path / "a").rglob("*") if f.is_file()]
    assert Path("model/model.safetensors") in files
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    assert rows(tmp_path / "c" / "prompts.jsonl") != training


def test_more_prompts_than_there_are() -> None:
    with pytest.raises(UserError, match="held_out are 1,001, of 3 digits there are 1,000"):
        parse(sorting.Options, {**FEW, "held_out": 301})


def test_gsm8k_as_chats(tmp_path: Path) -> None:
    (tmp_path / "main").mkdir()
    for split, answer in (("train", "1 + 1 = 2\n#### 2"), ("test", "#### 1,000 ")):
        table = pyarrow.table({"question": ["How many?"], "answer": [answer]})
        pyarrow.parquet.write_table(table, tmp_path / "main" / f"{split}-00000-of-00001.parquet")
    made = tmp_path / "made"
    made.mkdir()
    gsm8k.prepare(made, gsm8k.Options(data=str(tmp_path), instruction="Go."), 1)
    assert rows(made / "prompts.jsonl") == [
        {"prompt": [{"role": "user", "content": "How many?\n\nGo."}], "answer": "2"}
    ]
    assert rows(made / "held_out.jsonl")[0]["answer"] == "1,000"
    with pytest.raises(UserError, match=r"prepare.options.data: .* has no train\*.parquet"):
        gsm8k.prepare(made, gsm8k.Options(data=str(made)), 1)
