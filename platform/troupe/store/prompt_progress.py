"""How far a run has come with its prompts, as a checkpoint keeps it."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace

from troupe.errors import TroupeError


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """Which tickets are closed: below the cursor, all but the open ones."""

    fingerprint: str = ""
    """Of the prompts and their order; empty before any were loaded."""
    cursor: int = 0
    """No ticket from here on was ever given out."""
    open: tuple[int, ...] = ()
    """Of those below: not answered yet, or answered by a block that is not trained on."""
    done: int = 0
    """Tickets answered by blocks that are trained on."""
    trained: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """By shard of the log: tickets of blocks that are trained on and still in it."""
    deliveries: Mapping[str, str] = field(default_factory=dict)
    """By ticket: how many deliveries came to nothing, and why the last did."""
    dead: Mapping[str, str] = field(default_factory=dict)
    """By ticket: how many deliveries, when (Unix time in milliseconds) and why."""
    dropped: Mapping[str, int] = field(default_factory=dict)
    """By reason: tickets that were dropped."""

    def after(self, tickets: Iterable[int]) -> "PromptProgress":
        """The same with more of them trained on."""
        told = set(tickets)
        cursor = max([self.cursor, *(ticket + 1 for ticket in told)])
        before = {*self.open, *range(self.cursor, cursor)}
        return replace(
            self,
            cursor=cursor,
            open=tuple(sorted(before - told)),
            done=self.done + len(before & told),
        )

    def dump(self) -> dict[str, object]:
        """As JSON can hold it."""
        return asdict(self)

    @classmethod
    def load(cls, document: Mapping[str, object]) -> "PromptProgress":
        """What `dump` made.

        Raises:
            TroupeError: it did not make this.
        """
        try:
            loaded = cls(**document)  # type: ignore[arg-type]
            trained = {shard: tuple(tickets) for shard, tickets in loaded.trained.items()}
            return replace(loaded, open=tuple(loaded.open), trained=trained)
        except (TypeError, AttributeError) as error:
            raise TroupeError(f"prompts: not what a checkpoint keeps of them: {error}") from None
