"""The table of values in README.md, made from the comments in values.yaml.

`python helm/troupe/table.py` writes it; the tests see that it is current.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

HERE = Path(__file__).parent
BEGIN, END = "<!-- values -->\n", "<!-- end of values -->\n"


def rows(text: str) -> Iterator[tuple[str, str, str]]:
    """Dotted key, default and comment of every value; a mapping with comments inside has no default.

    Raises:
        ValueError: a value has no comment.
    """
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from _below(root, "", text.splitlines())


def _below(node: yaml.MappingNode, at: str, lines: list[str]) -> Iterator[tuple[str, str, str]]:
    for key, value in node.value:
        path = f"{at}.{key.value}" if at else str(key.value)
        said = _comment(lines, key.start_mark.line)
        if not said:
            raise ValueError(f"{path}: has no comment")
        inner = (
            isinstance(value, yaml.MappingNode)
            and not value.flow_style
            and _commented(value, lines)
        )
        yield path, "" if inner else _default(value), said
        if inner:
            yield from _below(value, path, lines)


def _commented(node: yaml.MappingNode, lines: list[str]) -> bool:
    """Whether the first key of a mapping has a comment of its own: then all are to have one."""
    return bool(node.value) and bool(_comment(lines, node.value[0][0].start_mark.line))


def _comment(lines: list[str], line: int) -> str:
    """The comment right above a line."""
    words: list[str] = []
    while line > 0 and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        words.insert(0, lines[line].strip().removeprefix("#").strip())
    return " ".join(words)


def _default(node: yaml.Node) -> str:
    return f"`{json.dumps(yaml.safe_load(yaml.serialize(node)))}`"


def table(text: str) -> str:
    """The values as a table in Markdown; values.yaml's first comment is about the whole file."""
    body = text.partition("\n\n")[2]
    made = "".join(
        f"| `{key}` | {default} | {said.replace('|', '&#124;')} |\n"
        for key, default, said in rows(body)
    )
    return f"{BEGIN}| value | default | meaning |\n|---|---|---|\n{made}{END}"


def filled(readme: str, text: str) -> str:
    """The README with the table in its place."""
    before, _, rest = readme.partition(BEGIN)
    return before + table(text) + rest.partition(END)[2]


def main() -> int:
    """Write the table into README.md."""
    readme = HERE / "README.md"
    readme.write_text(filled(readme.read_text(), (HERE / "values.yaml").read_text()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
