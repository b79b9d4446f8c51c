"""`gsm8k`: grade-school problems (Cobbe et al., 2021, arXiv:2110.14168) as chats for a trained model.

The folder gets `prompts.jsonl` from the training split and `held_out.jsonl` from the test split, whose
answers are numbers alone.
"""

import json
from pathlib import Path

from troupe.config import config
from troupe.errors import UserError
from troupe.prompts import Prompt, PromptSettings
from troupe.prompts.source import read

MARK = "####"
"""In the data, what stands before the number."""
_DATA = "prepare.options.data"


@config
class Options:
    """Where the data is, and how a problem is put."""

    data: str
    """The folder as `hf download openai/gsm8k --repo-type dataset` leaves it, or its `main`."""
    instruction: str = "Think step by step, then give the answer alone, as a number, after ####."
    """Put below each problem."""


def prepare(folder: Path, options: Options, seed: int) -> None:
    """Fill `folder`; there is nothing random about it."""
    for split, name in (("train", "prompts.jsonl"), ("test", "held_out.jsonl")):
        lines = [json.dumps(_line(prompt, options)) for prompt in _split(options.data, split)]
        (folder / name).write_text("\n".join([*lines, ""]), encoding="utf-8")


def _split(data: str, split: str) -> list[Prompt]:
    """The problems of one split."""
    base = Path(data).expanduser()
    files = sorted(path for at in (base, base / "main") for path in at.glob(f"{split}*.parquet"))
    if not files:
        raise UserError(
            f"{_DATA}: {data!r} has no {split}*.parquet; fetch it with `hf download "
            "openai/gsm8k --repo-type dataset --local-dir FOLDER`"
        )
    return [
        prompt
        for path in files
        for prompt in read(PromptSettings(path=str(path), prompt="question", keep=()), _DATA)
    ]


def _line(prompt: Prompt, options: Options) -> dict[str, object]:
    _, mark, number = str(prompt.answer).rpartition(MARK)
    if not mark:
        raise UserError(f"{_DATA}: row {prompt.id}: the answer has no {MARK}; is this GSM8K?")
    content = f"{prompt.prompt}\n\n{options.instruction}"
    return {"prompt": [{"role": "user", "content": content}], "answer": number.strip()}
