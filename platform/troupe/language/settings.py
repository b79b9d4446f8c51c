"""Which language model learns, and how; what makes its completions."""

from typing import Annotated, Literal

from pydantic import Field

from troupe.config import config

Positive = Annotated[int, Field(gt=0)]


@config
class LoraSettings:
    """Adapters of low rank (Hu et al., 2021, arXiv:2106.09685): they alone are trained and travel."""

    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """What they add is multiplied by alpha / rank."""
    targets: tuple[str, ...] = ("all-linear",)
    """Ends of the names of the layers that get one; `all-linear` is all but the last."""

    @property
    def scale(self) -> float:
        """What the adapters' products are multiplied by."""
        return self.alpha / self.rank


@config
class LanguageSettings:
    """The model of a language policy, as its learner has it."""

    model: str = ""
    """Its folder, in the Hugging Face layout."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """What logits are divided by: that of the rollouts, or ratios do not begin at 1."""
    lora: LoraSettings | None = None
    """None trains all weights."""
    reference: bool = False
    """Whether a copy that is not trained is kept to compare with; with adapters it costs nothing."""
    value: Literal["none", "head", "model"] = "none"
    """A value of states: by a layer behind the model's last one, or by a whole model of its own."""
    checkpointing: bool = False
    """Activations are computed again in the backward pass: less memory, a third more work."""
    packing: Literal["auto", "shared", "rows"] = "auto"
    """shared: a group is one sequence, its prompt computed once; rows: each completion is a padded row
    of its own; auto: shared, where the model lets attention be replaced."""
    chunk: Positive | None = None
    """Tokens whose logits are there at once; none is 16 MiB of logits. Changes no result."""


@config
class EngineSettings:
    """What makes completions, and how many at once."""

    name: str = "tiny"
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    slots: int = Field(default=64, ge=1)
    """Sequences at once."""
    max_length: int = Field(default=512, ge=2)
    """Most tokens of a sequence, prompt included."""
    reread: bool = False
    """Whether running sequences are read again by new weights, which costs time."""
    lora_scale: float | None = None
    """Where the weights that arrive are those of a LoRA adapter: what its products are multiplied by
    (alpha / rank)."""
    memory: float = Field(default=0.85, gt=0.0, le=1.0)
    """Share of a GPU's memory that an engine with a memory of its own (vllm) may take."""
