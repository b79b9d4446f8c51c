"""Settings: one line for every mistake, with its path, the value and the remedy."""

import pytest
import yaml

from troupe.config import dump, parse
from troupe.errors import UserError
from troupe.jobs.spec import Job

JOB = {
    "name": "a",
    "game": {"name": "doudizhu"},
    "algorithm": {"name": "deep_monte_carlo"},
}


def mistakes(data: object) -> list[str]:
    with pytest.raises(UserError) as caught:
        parse(Job, data)
    return str(caught.value).splitlines()


def test_a_small_job_is_filled_with_defaults() -> None:
    job = parse(Job, JOB)
    assert job.actors.count == 2
    assert job.store.url is None


def test_a_dumped_job_is_plain_and_reads_back_the_same() -> None:
    job = parse(Job, {**JOB, "stop": {"minutes": 5}, "evaluation": {"against": ["rule"]}})
    text = yaml.safe_dump(dump(job))
    assert parse(Job, yaml.safe_load(text)) == job


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"actrs": 1}, "actrs: unknown key; did you mean 'actors'?"),
        ({"actors": {"tabels": 3}}, "actors.tabels: unknown key; did you mean 'tables'?"),
        ({"actors": {"count": 0}}, "actors.count: 0 is not right: input should be greater than 0"),
        ({"actors": {"exploration": -1}}, "actors.exploration: -1 is not right"),
        ({"learner": {"precision": "fp8"}}, "learner.precision: 'fp8' is not right"),
        ({"store": 3}, "store: 3 is not a mapping"),
        ({"store": {"memory_mb": 2}}, "store.memory_mb: 2 is not right"),
        ({"name": "A b"}, "name: 'A b' is not right"),
        ({"stop": {"minutes": float("nan")}}, "stop.minutes: nan is not right"),
    ],
)
def test_a_mistake_is_told_with_its_path(change: dict[str, object], line: str) -> None:
    assert mistakes({**JOB, **change})[0].startswith(line)


def test_every_mistake_is_told_at_once() -> None:
    lines = mistakes({"game": {"name": "a"}, "algorithm": {}, "seed": -1, "nonsense": 1})
    assert [line.split(":")[0] for line in lines] == ["name", "seed", "nonsense"]


def test_nothing_but_a_mapping_is_a_job() -> None:
    assert mistakes([1, 2])[0].startswith("job:")
