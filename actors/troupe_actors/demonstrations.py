"""Answers in the data in place of completions, for supervised fine-tuning."""

import numpy as np

from troupe.errors import UserError
from troupe.language.models import ModelFolder
from troupe.prompts import Prompt
from troupe_actors.engines import Completion


def demonstrate(prompt: Prompt, folder: ModelFolder, version: int, max_tokens: int) -> Completion:
    """The prompt's answer as if the model had said it, with the stop token; log-probabilities are 0.

    What is longer than `max_tokens` is cut there and has no stop token. As several completions of
    one group would all be the same, one is enough.

    Raises:
        UserError: the prompt has no answer that is a text or a number.
    """
    answer = prompt.answer
    if isinstance(answer, bool) or not isinstance(answer, str | int | float):
        raise UserError(
            f"text.prompts.answer: row {prompt.id}: {answer!r} is not a text to be learned; name the "
            "column that has one"
        )
    ids = folder.tokenizer(str(answer), add_special_tokens=False)["input_ids"]
    tokens = np.array([*ids, *folder.stop[:1]], np.int32)
    cut = len(tokens) > max_tokens or not folder.stop
    tokens = tokens[:max_tokens]
    return Completion(
        id=prompt.id,
        tokens=tokens,
        log_prob=np.zeros(len(tokens), np.float32),
        version=np.full(len(tokens), version, np.uint32),
        finish="length" if cut else "stop",
    )
