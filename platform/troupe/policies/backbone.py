"""What a language model says behind every sampled token, however its text is laid out."""

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from troupe.errors import UserError
from troupe.language.settings import LanguageSettings
from troupe.policies import attention
from troupe.policies.packing import Packed, Text, pack, pad
from troupe.policies.vocabulary import Head, token_log_probs

_KEY = "network.language"
_CLOSE = 1e-3
"""Two ways to compute a log-probability in float32 differ by less."""


class _Body(Protocol):
    """A model without its last layer."""

    def __call__(
        self,
        *,
        input_ids: Tensor,
        use_cache: bool,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        packed: Packed | None = None,
    ) -> object: ...


class _Model(Protocol):
    """What is used of a `PreTrainedModel`."""

    base_model: _Body
    config: object

    def __call__(self, input_ids: Tensor) -> object: ...
    def get_input_embeddings(self) -> nn.Module: ...
    def get_output_embeddings(self) -> nn.Module | None: ...
    def set_attn_implementation(self, name: str) -> None: ...
    def gradient_checkpointing_enable(self, options: dict[str, object]) -> None: ...


class Backbone:
    """A `PreTrainedModel`, whose parameters stay where they are.

    Dropout is off: a ratio of probabilities is to begin at 1.

    Raises:
        UserError: its logits are not what one linear layer makes of its last hidden states, or groups
            are to share a sequence and its attention does not allow it.
    """

    def __init__(self, module: nn.Module, settings: LanguageSettings) -> None:
        self._model = cast(_Model, module)
        output = self._model.get_output_embeddings()
        if not isinstance(output, nn.Linear) or type(output) is not nn.Linear:
            raise UserError(
                f"{_KEY}: the model's last layer is no plain linear one but {type(output).__name__}; "
                "leave it out of lora.targets, or take another model"
            )
        self._output = output
        self._scale = _scale(self._model.config) / settings.temperature
        self.width = output.in_features
        _still(module)
        self._shared = False
        self._shared = self._choose(settings.packing)
        if settings.checkpointing:
            self._model.gradient_checkpointing_enable({"use_reentrant": False})
            module.train()  # transformers keeps all activations of a model that is not in training

    @property
    def head(self) -> Head:
        """Its last layer, with the temperature."""
        return Head(self._output.weight, self._output.bias, self._scale)

    @property
    def shared(self) -> bool:
        """Whether a group is one sequence."""
        return self._shared

    def leave_head(self) -> None:
        """Nobody will ask for the head: it is not to be trained, unless it is the embedding too."""
        read = {id(parameter) for parameter in self._model.get_input_embeddings().parameters()}
        for parameter in self._output.parameters():
            parameter.requires_grad_(id(parameter) in read)

    def hidden(self, text: Text) -> Tensor:
        """float [S, width]: what the head turns into the distribution of each sampled token."""
        if not self._shared:
            rows = pad(text)
            out = self._model.base_model(
                input_ids=rows.token, attention_mask=rows.mask, use_cache=False
            )
            return _states(out).flatten(0, 1)[rows.predicts]
        device = text.action.device
        packed = pack(text, varlen=attention.varlen(device, self._dtype(device)))
        out = self._model.base_model(
            input_ids=packed.token[None],
            position_ids=packed.position[None],
            packed=packed,
            use_cache=False,
        )
        return _states(out).squeeze(0)[packed.predicts]

    def _dtype(self, device: torch.device) -> torch.dtype:
        if torch.is_autocast_enabled(device.type):
            return torch.get_autocast_dtype(device.type)
        return self._output.weight.dtype

    @torch.no_grad()
    def _choose(self, packing: str) -> bool:
        """Whether groups are to share a sequence; a few tokens show whether the model computes the same."""
        text = _probe(self._output)
        plain = self._plainly(text)
        if not self._agrees(text, plain):
            raise UserError(
                f"{_KEY}.model: the logits are not what its last layer makes of its hidden states, "
                "as after a cap on them; such a model cannot be trained here"
            )
        if packing == "rows":
            return False
        attention.register()
        before = str(getattr(self._model.config, "_attn_implementation", "sdpa"))
        self._shared = True
        try:
            self._model.set_attn_implementation(attention.NAME)
            fits = self._agrees(text, plain)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
            fits = False  # however a model says that it computes attention its own way
        if fits:
            return True
        if packing == "shared":
            raise UserError(
                f"{_KEY}.packing: shared, and the model's attention cannot be replaced; take rows"
            )
        self._model.set_attn_implementation(before)
        return False

    def _agrees(self, text: Text, plain: Tensor) -> bool:
        own, _ = token_log_probs(self.hidden(text), self.head, text.action)
        far = _CLOSE if self._output.weight.dtype == torch.float32 else 0.2
        return bool((own - plain).abs().max() < far)

    def _plainly(self, text: Text) -> Tensor:
        """float32 [S]: log-probabilities of the model itself, one completion at a time."""
        found, start = [], 0
        for (begin, end), length in zip(text.prompt.tolist(), text.length.tolist(), strict=True):
            action = text.action[start : start + length]
            whole = torch.cat([text.token[begin:end], action])
            out = self._model(whole[None])
            logits = getattr(out, "logits", None)
            assert isinstance(logits, Tensor)
            temperature = _scale(self._model.config) / self._scale
            log = (logits[0, end - begin - 1 : -1].float() / temperature).log_softmax(1)
            found.append(log.gather(1, action[:, None]).squeeze(1))
            start += length
        return torch.cat(found)


def _states(out: object) -> Tensor:
    states = getattr(out, "last_hidden_state", None)
    assert isinstance(states, Tensor), type(out)
    return states


def _probe(output: nn.Linear) -> Text:
    """Two prompts with two completions each, of all kinds of lengths."""
    device, words = output.weight.device, output.out_features
    prompt, length = [[0, 3], [3, 5], [0, 3], [3, 5]], [3, 1, 2, 4]
    random = torch.Generator().manual_seed(1)
    token, action = (torch.randint(words, (n,), generator=random).to(device) for n in (5, 10))
    return Text(token, torch.tensor(prompt, device=device), action, torch.tensor(length))


def _scale(config: object) -> float:
    """What a model's own forward pass multiplies its logits by."""
    return float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )


def _still(module: nn.Module) -> None:
    """Dropout off, also in training."""
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(getattr(part, "attention_dropout", None), float):
            part.attention_dropout = 0.0  # type: ignore[assignment]
