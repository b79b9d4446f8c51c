"""`model`: what a reward model says, from a folder in the layout of Hugging Face.

It is loaded in a process of its own, so that its memory and its faults are not the actor's.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from pydantic import Field

from troupe.config import config
from troupe.errors import UserError
from troupe.jobs.spec import Device, Positive
from troupe_actors.rewards import Reward, Sample

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

APART = True
NEEDS = "transformers"


@config
class Options:
    """Which model, and what it is shown."""

    path: str
    """A folder that `AutoModelForSequenceClassification` loads, with its tokenizer."""
    output: Annotated[int, Field(ge=0)] | None = None
    """Which of the model's outputs counts; may be left out where it has one."""
    chat: bool = False
    """Prompt and completion are a user's and an assistant's turn in the model's chat template."""
    prompt_column: str = ""
    """The row's column with the prompt's text or chat messages; empty is what the policy read."""
    max_length: Positive | None = None
    """Tokens of the longest text; none is what the model says."""
    batch: Positive = 16
    """Texts that are judged together."""
    device: Device = "auto"
    """`auto` is the first GPU, else the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 where the device multiplies it natively, else fp32."""
    threads: Positive = 1
    """On a CPU."""


def create(options: Options) -> Reward:
    """The reward under these options.

    Raises:
        UserError: the folder holds no such model or no tokenizer, or they do not fit the options.
    """
    return RewardModel(options).judge


class RewardModel:
    """A sequence classifier and its tokenizer."""

    def __init__(self, options: Options) -> None:
        import torch

        torch.set_num_threads(options.threads)
        self._options = options
        self._tokenizer, self._model = _load(options)
        self._output = _output(options, self._model.config.num_labels or 0)
        self._max_length = options.max_length or _longest(self._model)
        # Without a padding token of its own a model cannot tell where a shorter text ends.
        padded = None not in (self._tokenizer.pad_token_id, self._model.config.pad_token_id)
        self._batch = options.batch if padded else 1

    def judge(self, samples: Sequence[Sample]) -> list[float]:
        """[n]: the model's output for each sample.

        Raises:
            ValueError: a text is longer than the model reads.
        """
        texts = [self._text(sample) for sample in samples]
        values: list[float] = []
        for start in range(0, len(texts), self._batch):
            values += self._forward(texts[start : start + self._batch])
        return values

    def _forward(self, texts: Sequence[str]) -> list[float]:
        import torch

        tokens = self._tokenizer(
            list(texts),
            return_tensors="pt",
            padding=len(texts) > 1,
            add_special_tokens=not self._options.chat,  # the template has them
        )
        length = tokens["input_ids"].shape[1]
        if self._max_length and length > self._max_length:
            raise ValueError(f"{length} tokens are more than the {self._max_length} that it reads")
        with torch.inference_mode():
            logits = self._model(**tokens.to(self._model.device)).logits
        return [float(value) for value in logits[:, self._output].float().cpu()]

    def _text(self, sample: Sample) -> str:
        column = self._options.prompt_column
        prompt = (sample.row or {})[column] if column else sample.prompt
        if not self._options.chat:
            return f"{prompt}{sample.completion}"
        turns = prompt if isinstance(prompt, list) else [{"role": "user", "content": str(prompt)}]
        whole = [*turns, {"role": "assistant", "content": sample.completion}]
        return cast(str, self._tokenizer.apply_chat_template(whole, tokenize=False))


def _load(options: Options) -> "tuple[PreTrainedTokenizerBase, PreTrainedModel]":
    folder = Path(options.path)
    if not (folder / "config.json").is_file():
        raise UserError(f"rewards.model.path: {folder} has no config.json; name a model's folder")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from troupe.policies.devices import resolve_device, resolve_precision

    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, padding_side="right"
        )
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=precision
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"rewards.model.path: {folder} cannot be loaded: {reason}") from None
    if options.chat and not tokenizer.chat_template:
        raise UserError(f"rewards.model.chat: the tokenizer in {folder} has no chat template")
    return tokenizer, model.to(device).eval()


def _output(options: Options, outputs: int) -> int:
    if options.output is None and outputs == 1:
        return 0
    if options.output is None or options.output >= outputs:
        raise UserError(
            f"rewards.model.output: {options.output}; the model in {options.path} has {outputs}, "
            f"choose one from 0 to {outputs - 1}"
        )
    return options.output


def _longest(model: "PreTrainedModel") -> int:
    """The tokens that a model was made for; 0 where it does not say."""
    return int(getattr(model.config, "max_position_embeddings", 0) or 0)
