"""What a run of text comes to: a folder for transformers, and somebody to talk to."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folders import FAST, save
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from troupe import checkpoint, policies
from troupe.checkpoint import Checkpoint
from troupe.config import parse
from troupe.episodes import PROMPT, TOKEN
from troupe.errors import UserError
from troupe.jobs.spec import Job, NetworkSettings
from troupe.language.export import export
from troupe.policies import Spaces, Steps
from troupe.policies.language import LanguagePolicy
from troupe.runs import RunFolder
from troupe_actors import chat
from troupe_learners.flat import FlatModule

READ = torch.tensor([5, 17, 80], dtype=torch.int32)
SAID = torch.tensor([9, 30, 257], dtype=torch.int32)


def job(**language: object) -> Job:
    network = parse(NetworkSettings, {"kind": "language", "language": language})
    return Job(name="small", algorithm={"name": "grpo"}, network=network)


def trained(tmp_path: Path, **options: object) -> tuple[RunFolder, LanguagePolicy]:
    """A run whose newest checkpoint is some way from the model it began with."""
    folder = save(tmp_path, "llama-tied", FAST["llama-tied"])
    of = job(model=str(folder.path), **options)
    policy = policies.create(Spaces({}, None), of.network)  # type: ignore[arg-type]
    assert isinstance(policy, LanguagePolicy)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in policy.group("all"):
            parameter.add_(0.1 * torch.randn_like(parameter))
    run = RunFolder.create(tmp_path / "runs", of)
    weights = FlatModule(policy, [policy.group("all")]).weights()
    state = Checkpoint(run.identity, "text", "grpo", 100, {"agent": 7}, {"agent": weights})
    checkpoint.save(run.path, state)
    return run, policy


def expected(policy: LanguagePolicy) -> torch.Tensor:
    """float [3]: the log-probability of each token that was said."""
    steps = Steps(
        observation={},
        action=SAID,
        length=torch.tensor([3]),
        context={TOKEN: READ},
        about={PROMPT: torch.tensor([[0, 3]], dtype=torch.int32)},
    )
    with torch.no_grad():
        return policy.evaluate(steps, {"log_prob"})["log_prob"]


@pytest.mark.parametrize(
    "options",
    [{}, {"value": "head", "reference": True}, {"value": "model"}, {"lora": {"rank": 2}}],
    ids=["plain", "head", "critic", "lora"],
)
def test_transformers_opens_what_was_trained(tmp_path: Path, options: dict[str, object]) -> None:
    run, policy = trained(tmp_path, **options)
    path = export(run)
    assert path == run.path / "model"
    model = AutoModelForCausalLM.from_pretrained(path)
    tokens = torch.cat([READ, SAID]).long()
    log = model(tokens[None]).logits[0, 2:-1].log_softmax(-1)
    given = log.gather(1, SAID.long()[:, None]).squeeze(1)
    torch.testing.assert_close(given, expected(policy), atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.chat_template
    assert tokenizer("ab")["input_ids"] == [97, 98]


def test_where_it_goes(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    there = tmp_path / "x" / "mine"
    assert export(run, to=there) == there
    assert export(run, "step-000000000100", there) == there  # again, over itself
    assert [path.name for path in there.parent.iterdir()] == ["mine"]
    with pytest.raises(UserError, match="--checkpoint"):
        export(run, "step-000000000101")
    with pytest.raises(UserError, match=r"--to: .* is no model"):
        export(run, to=tmp_path)


def test_a_run_without_a_language_model(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, Job(name="small", algorithm={"name": "ppo"}))
    with pytest.raises(UserError, match="has no language model"):
        export(run)


def lines(*texts: str) -> Callable[[], str]:
    """A person who says these, then leaves."""
    left = iter(texts)

    def ask() -> str:
        for text in left:
            return text
        raise EOFError

    return ask


def heard(run: RunFolder, *texts: str, plain: bool, max_tokens: int = 12) -> str:
    console = Console(file=io.StringIO(), width=80)
    speaker = chat.open_speaker(run, None, temperature=0.0, max_tokens=max_tokens)
    chat.talk(speaker, console, lines(*texts), plain=plain, seed=1)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("options", [{}, {"lora": {"rank": 2}}], ids=["plain", "lora"])
def test_the_model_says_what_transformers_says(tmp_path: Path, options: dict[str, object]) -> None:
    run, _ = trained(tmp_path, **options)
    path = export(run)
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(path),
        AutoTokenizer.from_pretrained(path),
    )
    read = tokenizer("ab", return_tensors="pt")["input_ids"]
    made = model.generate(read, max_new_tokens=12, do_sample=False)[0, 2:]
    answer = tokenizer.decode(made, skip_special_tokens=True)
    assert heard(run, "ab", plain=True).split("\n") == [*answer.split("\n"), "", "", ""]


def test_a_conversation_is_remembered_and_forgotten_when_it_grows(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    speaker = chat.open_speaker(run, None, temperature=0.0, max_tokens=12)
    seen: list[int] = []
    answer = speaker.answer

    class Spy:
        folder, sampling, longest, room = (
            speaker.folder, speaker.sampling, speaker.longest, speaker.room,
        )  # fmt: skip

        def answer(self, prompt: np.ndarray, seed: int) -> object:  # type: ignore[type-arg]
            seen.append(len(prompt))
            return answer(prompt, seed)

    console = Console(file=io.StringIO())
    long = "x" * 60
    chat.talk(Spy(), console, lines("a", "", "b", long, "y" * 200), plain=False, seed=1)  # type: ignore[arg-type]
    assert len(seen) == 3
    assert seen[0] == 4  # <|user|> a <|end|> <|assistant|>
    assert seen[1] > seen[0] + 4
    assert seen[2] <= speaker.room
    assert "Too long: there is room for 116 tokens" in console.file.getvalue()  # type: ignore[attr-defined]


def test_ctrl_c_ends_an_answer_and_then_the_chat(tmp_path: Path) -> None:
    run, _ = trained(tmp_path)
    speaker = chat.open_speaker(run, None, temperature=1.0, max_tokens=60)
    step = speaker.engine.step
    calls = 0

    def interrupted() -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return step()

    speaker.engine.step = interrupted  # type: ignore[method-assign, assignment]
    console = Console(file=io.StringIO())
    chat.talk(speaker, console, lines("a"), plain=True)
    assert "…" in console.file.getvalue()  # type: ignore[attr-defined]
    assert speaker.engine.pending == 0
