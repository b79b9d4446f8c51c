"""Opening a model's folder in the Hugging Face layout: config, tokenizer, stop tokens, weights.

Nothing is downloaded, and no code of the folder is run. transformers is imported on first use: it
takes seconds, and only jobs with a language model need it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from troupe.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
"""A chat: each message has a `role` and a `content`."""

EXTRA = "text"
"""The extra that brings transformers."""

_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")
_CONTEXT = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
)
"""How configs name the most tokens that their model reads."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A model as it lies in its folder, without its weights."""

    path: Path
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    stop: tuple[int, ...]
    """Every token that ends a completion: a chat model has several."""
    vocabulary: int
    """Tokens that the model tells apart: at least those of its tokenizer."""
    context: int | None
    """Most tokens it reads, prompt and completion together; None where its config sets no limit."""

    def encode(self, prompt: str | Messages) -> NDArray[np.int32]:
        """The tokens of a prompt, after which the model is to speak.

        A chat goes through the folder's template; a text gets what the tokenizer puts before texts.

        Raises:
            UserError: it is a chat, and the folder has no template for chats.
        """
        if isinstance(prompt, str):
            return np.asarray(self.tokenizer(prompt, verbose=False)["input_ids"], np.int32)
        if not self.tokenizer.chat_template:
            raise UserError(
                f"{self.path}: has no chat template, and a prompt is a chat; give prompts as text, "
                "or a model that was trained to chat"
            )
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in prompt], tokenize=False, add_generation_prompt=True
        )
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return np.asarray(ids, np.int32)

    def decode(self, tokens: NDArray[np.int32]) -> str:
        """Tokens as text, special ones such as the stop token left out."""
        text = self.tokenizer.decode(tokens.tolist(), skip_special_tokens=True)
        assert isinstance(text, str)
        return text


def open_folder(path: str | Path, key: str = "model") -> ModelFolder:
    """Look at a model without loading its weights; `key` is where a job names it.

    Raises:
        UserError: transformers is missing, there is no such folder, or it is not a whole model that
            reads and writes text: no tokenizer, or one with tokens that the model does not know.
    """
    folder = Path(path)
    _require_transformers(key)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"{key}: {str(path)!r} is no folder with a config.json; nothing is downloaded: fetch the "
            "model first, such as with `hf download NAME --local-dir FOLDER`"
        )
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UserError(
            f"{key}: {str(path)!r} has no tokenizer ({_TOKENIZERS[0]}); copy it from where the "
            "model came from"
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{key}: {str(path)!r} has no weights as safetensors; other formats are not read: save "
            "it with save_pretrained of a recent transformers"
        )
    config = _config(folder, key)
    tokenizer = _tokenizer(folder, key)
    text = config.get_text_config(decoder=True)
    found = ModelFolder(
        path=folder,
        config=config,
        tokenizer=tokenizer,
        stop=_stop_ids(folder, tokenizer),
        vocabulary=int(text.vocab_size),
        context=next((int(n) for n in (getattr(text, name, None) for name in _CONTEXT) if n), None),
    )
    _check_vocabulary(found, key)
    return found


def load_model(
    folder: ModelFolder, dtype: torch.dtype = torch.float32, key: str = "model"
) -> PreTrainedModel:
    """The model with its weights, on the CPU, dropout off.

    Raises:
        UserError: the weights are not those that the config describes, or not all there.
    """
    from transformers import AutoModelForCausalLM

    hush()
    try:
        loaded: tuple[PreTrainedModel, Mapping[str, Collection[str]]]
        loaded = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            folder.path,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{key}: {str(folder.path)!r}: {_first_line(error)}") from None
    model, report = loaded
    if report["missing_keys"]:
        raise UserError(
            f"{key}: {str(folder.path)!r} lacks the weights {sorted(report['missing_keys'])[0]!r}; "
            "copy the folder again, whole"
        )
    model.train(False)
    return model


def empty_model(folder: ModelFolder) -> PreTrainedModel:
    """The model without memory for its weights: it tells their names and shapes."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            folder.config
        )
        return model


def own_tensors(model: torch.nn.Module) -> dict[str, Tensor]:
    """A model's parameters and kept buffers by name; what is tied comes once, by its first name."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in seen:
            seen.add(id(tensor))
            own[name] = tensor.detach()
    return own


def hush() -> None:
    """No progress bars of transformers: they would get between lines of logs and tables."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _require_transformers(key: str) -> None:
    try:
        import transformers  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"{key}: a language model needs the package {error.name}; pip install 'troupe[{EXTRA}]'"
        ) from None


def _config(folder: Path, key: str) -> PreTrainedConfig:
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as KNOWN

    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{key}: {str(folder)!r}: {_first_line(error)}") from None
    if config.model_type not in KNOWN:
        raise UserError(
            f"{key}: {str(folder)!r} is a {config.model_type!r}, which transformers has no language "
            "model for; a model that writes text is needed (AutoModelForCausalLM)"
        )
    return config


def _tokenizer(folder: Path, key: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{key}: the tokenizer of {str(folder)!r}: {_first_line(error)}") from None


def _stop_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What the folder's generation settings, its config and its tokenizer say, each token once."""
    said: list[int] = []
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        value = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        said.extend([] if value is None else [value] if isinstance(value, int) else value)
    if tokenizer.eos_token_id is not None:
        said.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(said))


def _check_vocabulary(folder: ModelFolder, key: str) -> None:
    largest = max(folder.tokenizer.get_vocab().values(), default=-1)
    if largest >= folder.vocabulary:
        raise UserError(
            f"{key}: {str(folder.path)!r}: its tokenizer has tokens up to {largest}, the model knows "
            f"{folder.vocabulary}; they are of different models: take the tokenizer that came with it"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
