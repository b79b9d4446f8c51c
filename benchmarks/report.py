"""What every benchmark shares: its options, its table, and its verdict."""

import argparse
import datetime
import json
import platform
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).with_name("results")


@dataclass(frozen=True)
class Row:
    """One figure, and the line it has to hold."""

    what: str
    value: float
    unit: str
    at_least: float | None
    at_most: float | None

    @property
    def holds(self) -> bool:
        """Whether the figure is on the right side of its line; true where it has none."""
        above = self.at_least is None or self.value >= self.at_least
        return above and (self.at_most is None or self.value <= self.at_most)


class Report:
    """Collects the figures of one benchmark run."""

    def __init__(self, name: str, about: str | None) -> None:
        self.name = name
        self.parser = argparse.ArgumentParser(prog=f"benchmarks/{name}.py", description=about)
        self.parser.add_argument("--json", action="store_true", help="JSON on the last line")
        self.parser.add_argument("--check", action="store_true", help="exit 1 on a missed line")
        self.parser.add_argument(
            "--save", action="store_true", help=f"keep it in results/{name}.json"
        )
        self.options = argparse.Namespace(json=False, check=False, save=False)
        self.rows: list[Row] = []

    def arguments(self, arguments: list[str] | None = None) -> argparse.Namespace:
        """Parse the command line; add options of your own to `parser` first."""
        self.options = self.parser.parse_args(arguments)
        return self.options

    def row(
        self,
        what: str,
        value: float,
        unit: str,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> None:
        """Add a figure, with the line it has to hold where there is one."""
        self.rows.append(Row(what, float(value), unit, at_least, at_most))

    def finish(self, details: Mapping[str, object] | None = None) -> int:
        """Print the table, and JSON where asked; the exit status: 1 for a missed line under `--check`.

        `details` are kept with a saved result.
        """
        table = Table(title=self.name)
        table.add_column("what")
        for heading in ("value", "line", ""):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(row.what, f"{_number(row.value)} {row.unit}", _line(row), _verdict(row))
        Console().print(table)
        rows = [{**asdict(row), "holds": row.holds} for row in self.rows]
        if self.options.save:
            document = {
                "benchmark": self.name,
                "command": shlex.join(
                    ["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]
                ),
                "date": datetime.date.today().isoformat(),
                "device": _device(),
                "rows": rows,
                **(details or {}),
            }
            RESULTS.mkdir(exist_ok=True)
            text = json.dumps(document, indent=2) + "\n"
            (RESULTS / f"{self.name}.json").write_text(text, encoding="utf-8")
        if self.options.json:
            print(json.dumps({"benchmark": self.name, "rows": rows}))
        return int(self.options.check and not all(row.holds for row in self.rows))


def _device() -> str:
    """The processor, and how many cores of it there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.processor()


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _line(row: Row) -> str:
    if row.at_least is not None:
        return f">= {_number(row.at_least)}"
    return "" if row.at_most is None else f"<= {_number(row.at_most)}"


def _verdict(row: Row) -> str:
    if row.at_least is None and row.at_most is None:
        return ""
    return "[green]holds[/green]" if row.holds else "[red]missed[/red]"
