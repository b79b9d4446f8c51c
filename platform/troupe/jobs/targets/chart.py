"""What Helm makes of the chart: the one source of what a run needs on Kubernetes."""

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from troupe.errors import UserError
from troupe.jobs.load import read_yaml
from troupe.jobs.resolve import merged
from troupe.jobs.targets import Order
from troupe.jobs.targets.book import TargetSettings

Document = dict[str, Any]
"""A Kubernetes object."""


def render(settings: TargetSettings, order: Order, namespace: str) -> list[Document]:
    """The objects of one run; its RayJob is the last of them.

    Raises:
        UserError: there is no chart, no Helm, or a value is wrong.
    """
    if order.extras:
        raise UserError(
            "--with: on Kubernetes a job's own modules belong into the image or onto a volume; see "
            "docs/cluster.md"
        )
    given: dict[str, object] = {}
    for path in settings.values:
        given = merged(given, read_yaml(path.expanduser()))
    own = {"mode": "job", "job": {"name": order.name, "spec": order.text}}
    found = list(
        _made(Path(settings.chart).expanduser(), order.name, namespace, merged(given, own))
    )
    return sorted(found, key=lambda one: bool(one["kind"] == "RayJob"))


def _made(
    chart: Path, name: str, namespace: str, values: Mapping[str, object]
) -> Iterator[Document]:
    helm = _helm()
    if not (chart / "Chart.yaml").is_file() and not chart.is_file():
        raise UserError(f"chart: {chart} is no Helm chart; name it as `chart` in targets.yaml")
    try:
        made = helm.Chart.load(chart).render(dict(values), name=name, namespace=namespace)
    except helm.HelmError as error:
        raise UserError(f"{chart}: {' '.join(str(error).split())}") from None
    for path, text in sorted(made.items()):
        if path.endswith(".txt"):
            continue
        for one in yaml.safe_load_all(text):
            # Hooks are Helm's own affair: tests and the like.
            if one and "helm.sh/hook" not in one["metadata"].get("annotations", {}):
                yield one


def _helm() -> Any:
    try:
        return importlib.import_module("helm_python")
    except ImportError:
        raise UserError("--to: Kubernetes needs Helm: pip install 'troupe[kubernetes]'") from None
