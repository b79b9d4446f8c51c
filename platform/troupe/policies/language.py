"""The learner's side of a language policy: any model that transformers opens as a causal one.

A step is a token that was sampled. Prompts are read, and nothing is learned from their tokens; how
text is laid out is in `packing`.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from troupe.episodes import PROMPT, TOKEN, Columns
from troupe.errors import UserError
from troupe.jobs.spec import NetworkSettings
from troupe.language.models import load_model, open_folder
from troupe.language.settings import LanguageSettings
from troupe.policies import Acting, Spaces, Steps
from troupe.policies.adapters import Adapted, adapted, published
from troupe.policies.backbone import Backbone
from troupe.policies.packing import Text
from troupe.policies.vocabulary import token_log_probs

_MODEL = "network.language.model"
_OF_TOKENS = frozenset({"log_prob", "entropy"})
_KNOWN = _OF_TOKENS | {"value", "reference"}


def create(spaces: Spaces, network: NetworkSettings) -> "LanguagePolicy":
    """See `policies.create`.

    Raises:
        UserError: there is no such model, it is not whole, or adapters fit none of its layers.
    """
    settings = network.language
    if settings is None or not settings.model:
        raise UserError(f"{_MODEL}: missing; the folder of the model that is to learn")
    return LanguagePolicy(load_model(open_folder(settings.model, _MODEL), key=_MODEL), settings)


def create_acting(
    spaces: Spaces, network: NetworkSettings, device: torch.device, precision: torch.dtype
) -> Acting:
    """See `policies.create_acting`; there is none."""
    raise UserError("network.kind: a language policy acts through an engine, and in text alone")


class LanguagePolicy(nn.Module):
    """pi(token|prompt, tokens before it), and V of what was read where it is asked for.

    Args:
        model: a `PreTrainedModel` over a vocabulary; it becomes a part of this.
        settings: how it learns.

    Raises:
        UserError: as `Backbone` and `adapted`.
    """

    returns = None
    """Rewards are not normalised."""

    def __init__(self, model: nn.Module, settings: LanguageSettings) -> None:
        super().__init__()
        self._chunk = settings.chunk
        apart = settings.reference and settings.lora is None
        self.reference = copy.deepcopy(model).requires_grad_(False) if apart else None
        """What the model was before it was trained, frozen; with adapters, the model without them."""
        self.critic = copy.deepcopy(model) if settings.value == "model" else None
        self.model = model if settings.lora is None else adapted(model, settings.lora)
        self._policy = Backbone(model, settings)
        self._reference = self._policy
        if self.reference is not None:
            self._reference = Backbone(self.reference, settings)
        self._critic = self._policy
        if self.critic is not None:
            self._critic = Backbone(self.critic, settings)
            self._critic.leave_head()
        self.value = None if settings.value == "none" else nn.Linear(self._critic.width, 1)
        """From 0, so that a critic that was not trained says nothing."""
        if self.value is not None:
            nn.init.zeros_(self.value.weight)
            nn.init.zeros_(self.value.bias)

    def group(self, name: str) -> list[nn.Parameter]:
        """`all` that is trained, `critic` (the value's own layers), or `policy` (all others)."""
        critic = [p for m in (self.critic, self.value) if m is not None for p in m.parameters()]
        own = set(critic)
        match name:
            case "all":
                return [p for p in self.parameters() if p.requires_grad]
            case "critic":
                return [p for p in critic if p.requires_grad]
            case "policy":
                return [p for p in self.parameters() if p.requires_grad and p not in own]
        raise AssertionError(name)

    def layers(self) -> list[nn.Module]:
        """What computes one after the other, of the model, a reference and a critic."""
        return list(_layers(self))

    def evaluate(self, steps: Steps, want: Collection[str]) -> dict[str, Tensor]:
        """`log_prob`, `entropy`, `value` and, without gradients, `reference`: float32 [S] each."""
        wanted = set(want)
        assert wanted <= _KNOWN, wanted
        text = _text(steps)
        given: dict[str, Tensor] = {}
        hidden = None
        if not _OF_TOKENS.isdisjoint(wanted):
            hidden = self._policy.hidden(text)
            given |= self._of_tokens(hidden, text, entropy="entropy" in wanted)
        if "value" in wanted:
            given["value"] = self._value(text, hidden)
        if "reference" in wanted:
            with torch.no_grad(), self._as_before():
                hidden = self._reference.hidden(text)
                head = self._reference.head
                given["reference"], _ = token_log_probs(
                    hidden, head, text.action, chunk=self._chunk
                )
        return {name: given[name] for name in wanted}

    def published(self, tensors: Columns) -> Columns:
        """What travels to engines, by the names that transformers or peft have: no critic."""
        return published(tensors)

    def kl(self, p: Tensor, q: Tensor) -> Tensor:
        """None: distributions over a vocabulary are not kept."""
        raise UserError(
            "algorithm.objective: a divergence from the whole distribution of each token; of text "
            "there are log-probabilities alone: take clip"
        )

    def observe(
        self, observation: Mapping[str, Tensor], add_up: Callable[[Tensor], Tensor]
    ) -> None:
        """Nothing is normalised."""

    def observe_returns(self, returns: Tensor, add_up: Callable[[Tensor], Tensor]) -> None:
        """Nothing is normalised."""

    def reward_scale(self) -> Tensor:
        """1."""
        return torch.ones(())

    def _of_tokens(self, hidden: Tensor, text: Text, *, entropy: bool) -> dict[str, Tensor]:
        log_prob, spread = token_log_probs(
            hidden, self._policy.head, text.action, entropy=entropy, chunk=self._chunk
        )
        return (
            {"log_prob": log_prob} if spread is None else {"log_prob": log_prob, "entropy": spread}
        )

    def _value(self, text: Text, hidden: Tensor | None) -> Tensor:
        if self.value is None:
            raise UserError(
                "network.language.value: none, and the algorithm needs values; take head or model"
            )
        if hidden is None or self.critic is not None:
            hidden = self._critic.hidden(text)
        value: Tensor = self.value(hidden)
        # Of one: a view would be at odds with hooks on what is returned.
        return value.float().sum(1)

    def _as_before(self) -> AbstractContextManager[None]:
        """Within this, `_reference` is what the policy was before it was trained."""
        if self._reference is not self._policy:
            return nullcontext()
        if not hasattr(self.model, "disable_adapter"):
            raise UserError("network.language.reference: false, and the algorithm needs it; true")
        return cast(Adapted, self.model).disable_adapter()


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The members of every outermost list of modules."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from child
        else:
            yield from _layers(child)


def _text(steps: Steps) -> Text:
    assert steps.action is not None
    assert steps.length is not None
    return Text(steps.context[TOKEN], steps.about[PROMPT], steps.action, steps.length)
