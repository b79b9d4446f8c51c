"""Opens a target by what it is called on the command line."""

from troupe.jobs.targets import Target
from troupe.jobs.targets.book import look_up
from troupe.jobs.targets.kubernetes import KubernetesTarget
from troupe.jobs.targets.ray_jobs import RayTarget, open_web, token_of


def open_target(text: str, runs: str | None = None) -> Target:
    """The target of that name or address.

    Args:
        runs: the folder for runs there, over what a targets file says.

    Raises:
        UserError: there is no such target, or its token cannot be read.
    """
    settings = look_up(text)
    if settings.ray is not None:
        web = open_web(settings.ray, token_of(settings.token_file))
        return RayTarget(text, web, runs or settings.runs)
    return KubernetesTarget(text, settings)
