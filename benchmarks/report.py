"""What every benchmark shares: its options, its table, and its verdict."""

import argparse
import json
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


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
        self.options = argparse.Namespace(json=False, check=False)
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

    def finish(self) -> int:
        """Print the table, and JSON where asked; the exit status: 1 for a missed line under `--check`."""
        table = Table(title=self.name)
        table.add_column("what")
        for heading in ("value", "line", ""):
            table.add_column(heading, justify="right")
        for row in self.rows:
            table.add_row(row.what, f"{_number(row.value)} {row.unit}", _line(row), _verdict(row))
        Console().print(table)
        if self.options.json:
            rows = [{**asdict(row), "holds": row.holds} for row in self.rows]
            print(json.dumps({"benchmark": self.name, "rows": rows}))
        return int(self.options.check and not all(row.holds for row in self.rows))


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
