"""A small Llama with a byte-level tokenizer, made here, in the Hugging Face layout.

It is for jobs that start from nothing, on a laptop: `AutoModelForCausalLM` and `AutoTokenizer` open
its folder as they open any other.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import pydantic
import torch

from troupe import seeding
from troupe.config import config
from troupe.errors import UserError
from troupe.language.models import hush

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BYTES = 256
PAD, END = "<|pad|>", "<|end|>"
SPECIAL = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
"""The tokens after those of the bytes; `<|end|>` is the stop token."""

_CHAT = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@config
class SmallSettings:
    """The shape of a Llama. The defaults make 0.43 million parameters."""

    hidden: int = pydantic.Field(default=128, ge=2)
    layers: int = pydantic.Field(default=2, ge=1)
    heads: int = pydantic.Field(default=4, ge=1)
    key_value_heads: int | None = pydantic.Field(default=None, ge=1)
    """Heads of keys and values, shared by those of queries; None: as many as `heads`."""
    intermediate: int | None = pydantic.Field(default=None, ge=1)
    """Width inside a layer; None: 8/3 of `hidden`, rounded up to 32."""
    vocabulary: int = BYTES + len(SPECIAL)
    """Rows of the embedding; those past the tokenizer's tokens are never read."""
    context: int = pydantic.Field(default=512, ge=2)
    """Most tokens it reads."""
    tied: bool = True
    """Whether the last layer is the embedding."""

    def __post_init__(self) -> None:
        kv = self.key_value_heads or self.heads
        if self.hidden % self.heads or self.hidden // self.heads % 2 or self.heads % kv:
            raise ValueError(
                f"hidden {self.hidden}, heads {self.heads}, key_value_heads {kv} do not go together: "
                "a head's width is hidden / heads, an even number, and heads share key_value_heads"
            )
        if self.vocabulary < BYTES + len(SPECIAL):
            raise ValueError(f"vocabulary {self.vocabulary} is below {BYTES + len(SPECIAL)}")


def build(folder: Path, settings: SmallSettings, seed: int) -> None:
    """Write such a model with random weights, always the same ones for a seed, and its tokenizer.

    Raises:
        UserError: transformers is not installed.
    """
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ModuleNotFoundError as error:
        raise UserError(
            f"model: a language model needs the package {error.name}; pip install 'troupe[text]'"
        ) from None
    shape = LlamaConfig(
        vocab_size=settings.vocabulary,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate or -(-settings.hidden * 8 // 96) * 32,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads or settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=settings.tied,
        bos_token_id=None,
        pad_token_id=BYTES + SPECIAL.index(PAD),
        eos_token_id=BYTES + SPECIAL.index(END),
        dtype="float32",
    )
    hush()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.key(seed, "small"))
        model = LlamaForCausalLM(shape)
    model.save_pretrained(folder)
    _tokenizer(settings.context).save_pretrained(folder)


def _tokenizer(context: int) -> "PreTrainedTokenizerFast":
    """One token for each byte of UTF-8, in the order of the bytes, then `SPECIAL`."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = {letter: byte for byte, letter in enumerate(_letters())}
    core = Tokenizer(models.BPE(vocab=letters, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=END,
        model_max_length=context,
        chat_template=_CHAT,
        clean_up_tokenization_spaces=False,
    )


def _letters() -> list[str]:
    """The letter by which byte-level tokenizers write each byte (Radford et al., 2019)."""
    shown = {
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), BYTES),
    }
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte if byte in shown else next(others)) for byte in range(BYTES)]
