"""What to say where a kind of policy does not fit a job."""

from gymnasium import spaces as gym
from numpy import generic
from numpy.typing import NDArray

from troupe.errors import UserError
from troupe.jobs.spec import NetworkSettings


def unfit(kind: str, space: gym.Space[NDArray[generic]], needs: str) -> UserError:
    """The error for an action space, with the kinds that would do."""
    fitting = _kinds(space)
    remedy = f"{' or '.join(fitting)} would do" if fitting else "no kind acts in that"
    return UserError(f"network.kind: {kind!r} needs {needs} to act in, not {space}; {remedy}")


def refuse_options(kind: str, network: NetworkSettings) -> None:
    """Refuse what only an `actor_critic` has, rather than leave it out without a word.

    Raises:
        UserError: `network.recurrent`, `network.shared` or `network.normalise_reward` is set.
    """
    if network.recurrent:
        raise UserError(
            f"network.recurrent: {network.recurrent}, but {kind!r} remembers nothing; set it to 0, or "
            "network.kind to actor_critic"
        )
    for option in ("shared", "normalise_reward"):
        if getattr(network, option):
            raise UserError(
                f"network.{option}: true, which {kind!r} has no use for; set it to false, or "
                "network.kind to actor_critic"
            )


def _kinds(space: gym.Space[NDArray[generic]]) -> list[str]:
    match space:
        case gym.Discrete():
            return ["actor_critic", "discrete_value"]
        case gym.MultiDiscrete():
            return ["actor_critic"]
        case gym.MultiBinary():
            return ["actor_critic", "action_value (of games)"]
        case gym.Box() if space.dtype.kind == "f":
            bounded = space.is_bounded()
            return ["actor_critic", "deterministic"] if bounded else ["actor_critic"]
    return []
