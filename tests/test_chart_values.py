"""What may be typed as a value: everything the page says, and nothing else."""

import importlib.util
import json
from collections.abc import Iterator, Mapping

import charts
import pytest
import yaml
from charts import JOB, helm

SCHEMA = json.loads((charts.CHART / "values.schema.json").read_text())
VALUES = (charts.CHART / "values.yaml").read_text()
OF_KUBERNETES = ("affinity", "valueFrom")
"""Parts whose insides are Kubernetes's own."""

_spec = importlib.util.spec_from_file_location("table", charts.CHART / "table.py")
table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(table)


def _schemas(
    schema: Mapping[str, object], at: str = ""
) -> Iterator[tuple[str, Mapping[str, object]]]:
    if schema.get("type") == "object":
        yield at, schema
    for word in ("properties", "$defs"):
        for key, inner in schema.get(word, {}).items():
            yield from _schemas(inner, f"{at}.{key}")
    if isinstance(schema.get("items"), dict):
        yield from _schemas(schema["items"], f"{at}[]")


def _resolve(schema: Mapping[str, object]) -> Mapping[str, object]:
    reference = schema.get("$ref", "")
    return SCHEMA["$defs"][reference.rpartition("/")[2]] if reference else schema


def _places(
    values: Mapping[str, object], schema: Mapping[str, object], at: str = ""
) -> Iterator[str]:
    """Every place in the values where a key can be mistyped."""
    if "properties" in schema:
        yield at
        for key, value in values.items():
            if isinstance(value, dict):
                yield from _places(
                    value, _resolve(schema["properties"][key]), f"{at}.{key}".lstrip(".")
                )


def test_the_schema_is_closed_wherever_it_has_keys() -> None:
    closed = 0
    for at, schema in _schemas(SCHEMA):
        if "properties" in schema:
            assert schema["additionalProperties"] is False, at
            closed += 1
    assert closed > 30


@pytest.mark.parametrize("at", [*_places(yaml.safe_load(VALUES), SCHEMA)])
def test_an_unknown_value_is_refused_with_its_path(at: str) -> None:
    wrong: dict[str, object] = {"tpyo": 1}
    for key in reversed(at.split(".") if at else []):
        wrong = {key: wrong}
    with pytest.raises(helm.HelmError) as refused:
        charts.chart().render(wrong, name="troupe", namespace="rl")
    assert "tpyo" in str(refused.value)
    assert "/".join(at.split(".")) in str(refused.value)


def test_defaults_have_every_value_that_the_schema_knows() -> None:
    def missing(schema: Mapping[str, object], values: object, at: str) -> Iterator[str]:
        for key, inner in _resolve(schema).get("properties", {}).items():
            path = f"{at}.{key}".lstrip(".")
            if key not in values:
                yield path
            elif isinstance(values[key], dict) and key not in OF_KUBERNETES:
                yield from missing(inner, values[key], path)

    assert [*missing(SCHEMA, yaml.safe_load(VALUES), "")] == []


def test_the_table_of_values_is_current() -> None:
    """Write it anew with: python helm/troupe/table.py"""
    readme = (charts.CHART / "README.md").read_text()
    assert table.filled(readme, VALUES) == readme
    assert readme.count("\n| `") > 150


def test_a_value_without_a_comment_is_found() -> None:
    with pytest.raises(ValueError, match=r"ray\.new: has no comment"):
        table.table("# All.\n\n# Ray.\nray:\n  # A.\n  a: 1\n  new: 2\n")


def test_the_table_shows_comments_defaults_and_nesting() -> None:
    made = table.table(
        "# All.\n\n# Either a|b,\n# or c.\nkey: x\n# Part.\npart:\n  # Inside.\n  one: [1]\n"
    )
    assert made.splitlines()[3:6] == [
        '| `key` | `"x"` | Either a&#124;b, or c. |',
        "| `part` |  | Part. |",
        "| `part.one` | `[1]` | Inside. |",
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"mode": "jobs"}, "mode"),
        ({"actors": {"replicas": -1}}, "actors/replicas"),
        ({"actors": {"sharedMemory": "2 GB"}}, "actors/sharedMemory"),
        ({"actors": {"resources": {"limits": {"cpu": None}}}}, "actors/resources/limits"),
        ({"images": {"tag": "latest"}}, "images/tag"),
        ({"images": {"store": {"tag": "latest"}}}, "images/store/tag"),
        ({"images": {"actor": {"digest": "abc"}}}, "images/actor/digest"),
        ({"store": {"externalUrl": "redis://user:secret@host:6379"}}, "store/externalUrl"),
        ({"store": {"roles": ["cache"]}}, "store/roles/0"),
        ({"security": {"runAsUser": 0}}, "security/runAsUser"),
        ({"job": {"name": "Bad_Name"}}, "job/name"),
        ({"mode": "job"}, "--set-file job.spec="),
        ({"job": JOB["job"]}, "set mode=job"),
        ({**JOB, "kueue": {"queue": "q"}, "ray": {"autoscaling": {"enabled": True}}}, "kueue.elastic=true"),
        ({"tls": {"existingServerSecret": "tls"}}, "give both or neither"),
        ({"store": {"externalUrl": "rediss://host:6379"}}, "store.existingSecret"),
        ({"ray": {"faultTolerance": {"enabled": True, "externalAddress": "rediss://host:6379"}}},
         "ray.faultTolerance.existingSecret"),
        ({"store": {"externalUrl": "rediss://host:6379", "existingSecret": "s"},
          "ray": {"faultTolerance": {"enabled": True, "externalAddress": "rediss://host:6379", "existingSecret": "g"}}},
         "give Ray another Redis"),
        ({"ray": {"autoscaling": {"enabled": True}}, "actors": {"replicas": 20}},
         "actors.replicas: 20 is not between minReplicas 1 and maxReplicas 10"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_with_the_remedy(
    values: Mapping[str, object], words: str
) -> None:
    with pytest.raises(helm.HelmError) as refused:
        charts.chart().render(dict(values), name="troupe", namespace="rl")
    assert words in str(refused.value)
