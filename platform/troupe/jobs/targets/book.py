"""Which target is meant: an address, NAMESPACE@CONTEXT, or a name in a targets file."""

import difflib
import re
from pathlib import Path

from troupe.config import config, parse
from troupe.errors import UserError
from troupe.jobs.load import read_yaml

FILES = (Path("targets.yaml"), Path("~/.config/troupe/targets.yaml"))
"""Looked at in this order."""
_KUBERNETES = re.compile(r"(?P<namespace>[a-z0-9]([a-z0-9-]*[a-z0-9])?)@(?P<context>\S+)")


@config
class TargetSettings:
    """One target: `ray` or `kubernetes`, and what else is to be known of it."""

    ray: str | None = None
    """A Ray dashboard's address, `http://host:8265` or `https://`."""
    kubernetes: str | None = None
    """NAMESPACE@CONTEXT of kubectl's configuration."""
    runs: str | None = None
    """The folder for runs, which all nodes share."""
    token_file: Path | None = None
    """Holds the Ray cluster's token, where the environment does not."""
    chart: str = "helm/troupe"
    """Of Kubernetes: the chart's folder or archive."""
    values: tuple[Path, ...] = ()
    """Of Kubernetes: files of values for the chart, later ones over earlier ones."""


def look_up(text: str) -> TargetSettings:
    """The settings of a target as it is named on the command line.

    Raises:
        UserError: there is no such target, or a file of targets is wrong.
    """
    if re.match(r"https?://", text):
        return TargetSettings(ray=text)
    known: dict[str, TargetSettings] = {}
    for file in FILES:
        path = file.expanduser()
        if path.is_file():
            for name, data in read_yaml(path).items():
                known.setdefault(
                    name, _checked(parse(TargetSettings, data, f"{path}: {name}"), path, name)
                )
    if text in known:
        return known[text]
    if _KUBERNETES.fullmatch(text):
        return TargetSettings(kubernetes=text)
    close = difflib.get_close_matches(text, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there: {', '.join(known) or 'none'}"
    raise UserError(
        f"--to: {text!r} is no address such as http://host:8265, no NAMESPACE@CONTEXT, and not in "
        f"{' or '.join(map(str, FILES))} ({hint})"
    )


def split(text: str) -> tuple[str, str]:
    """Namespace and context of a Kubernetes target.

    Raises:
        UserError: it is not given as NAMESPACE@CONTEXT.
    """
    match = _KUBERNETES.fullmatch(text)
    if match is None:
        raise UserError(f"kubernetes: {text!r} is not NAMESPACE@CONTEXT")
    return match["namespace"], match["context"]


def _checked(settings: TargetSettings, path: Path, name: str) -> TargetSettings:
    if (settings.ray is None) == (settings.kubernetes is None):
        raise UserError(f"{path}: {name}: a target has exactly one of ray and kubernetes")
    return settings
