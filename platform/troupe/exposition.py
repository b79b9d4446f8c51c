"""A frame as Prometheus reads it."""

import re
from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from troupe import catalogue
from troupe.catalogue import DERIVED, UNITS, Found, Row, Unit
from troupe.frame import Frame

UNLISTED = "not in the table of docs/metrics.md"


class Frames(Protocol):
    """Where the newest frame is."""

    @property
    def frame(self) -> Frame | None:
        """None before the first one."""
        ...


class FrameCollector(Collector):
    """All numbers of the newest frame: the live view's own, in Prometheus's units."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames

    def collect(self) -> Iterator[Metric]:
        """A family for each name, with a sample for each policy, opponent or component."""
        frame = self._frames.frame
        families: dict[str, Metric] = {}
        if frame is not None:
            for name, value in numbers(frame).items():
                found = catalogue.find(name) or _unlisted(name, frame.counters)
                _add(families, found, {"run": frame.run, **found.labels}, value)
        return iter(families.values())


def numbers(frame: Frame) -> Mapping[str, float]:
    """All of a frame by name, as `metrics.jsonl` has it."""
    return {"time": frame.time, "step": frame.step, "attempt": frame.attempt, **frame.scalars()}


def _add(
    families: dict[str, Metric], found: Found, labels: Mapping[str, str], value: float
) -> None:
    row, name = found.row, re.sub(r"\W", "_", found.exported, flags=re.ASCII)
    unit = UNITS.get(row.unit, Unit(""))
    if name not in families:
        told = row.meaning if unit.suffix or not row.unit else f"{row.meaning}; in {row.unit}"
        families[name] = Metric(name.removesuffix("_total"), told, row.kind, unit.suffix)
    samples = families[name].samples
    # A scrape with one sample twice is refused whole: of names that differ only in signs, the first.
    if all(sample.labels != labels for sample in samples):
        samples.append(Sample(name, dict(labels), value * unit.factor))


def _unlisted(name: str, counters: frozenset[str]) -> Found:
    """What has no row: named as it is."""
    role, _, rest = name.rpartition("/") if name.count("/") == 1 else name.partition("/")
    row = Row(role or DERIVED, rest, "counter" if name in counters else "gauge", "", UNLISTED)
    return Found(row, row.exported(row.role), {})
