"""TRL: the speed of GRPOTrainer, a step being so many completions generated, scored and trained on.

trl.py MODEL PROMPTS SECONDS

The settings are those that it is fastest with here: float32 (bf16 takes longer at this size), plain
`generate`, no checkpointing of activations, one pass over all completions of a step, nothing logged.
"""

import json
import sys
import tempfile
import time

import torch
import transformers
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer

GROUPS, COMPLETIONS, TOKENS = 16, 8, 8
WARM_UP = 5.0
THREADS = 2


def share(prompts, completions, answer, **others):
    """The share of characters that stand where the answer has them."""
    return [
        sum(a == b for a, b in zip(said, wanted, strict=False)) / max(len(said), len(wanted))
        for said, wanted in zip(completions, answer, strict=True)
    ]


class Clock(transformers.TrainerCallback):
    """Counts steps between the end of the warm-up and the end of the run."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.began = time.perf_counter()
        self.first: tuple[float, float, int] | None = None
        self.last = (0.0, 0.0, 0)

    def on_step_end(self, args, state, control, **others):
        """See `transformers`."""
        self.last = (time.perf_counter(), time.process_time(), state.global_step)
        if self.first is None:
            if self.last[0] - self.began > WARM_UP:
                self.first = self.last
        elif self.last[0] - self.first[0] > self.seconds:
            control.should_training_stop = True

    def on_train_begin(self, args, state, control, **others):
        """See `transformers`."""
        self.began = time.perf_counter()


def main() -> None:
    """See the module."""
    model, prompts, seconds = sys.argv[1:]
    torch.set_num_threads(THREADS)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as scratch:
        settings = GRPOConfig(
            output_dir=scratch,
            use_cpu=True,
            bf16=False,
            per_device_train_batch_size=GROUPS * COMPLETIONS,
            gradient_accumulation_steps=1,
            num_generations=COMPLETIONS,
            num_iterations=1,
            max_completion_length=TOKENS,
            temperature=1.0,
            loss_type="dapo",
            epsilon_high=0.28,
            beta=0.0,
            learning_rate=1e-12,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            gradient_checkpointing=False,
            dataloader_pin_memory=False,
            max_steps=10**6,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=1,
        )
        clock = Clock(float(seconds))
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=share,
            args=settings,
            train_dataset=load_dataset(
                "json", data_files=prompts, split="train", cache_dir=scratch
            ),
            callbacks=[clock],
        )
        trainer.train()
    assert clock.first is not None
    wall, cpu, steps = (b - a for a, b in zip(clock.first, clock.last, strict=True))
    length = trainer.state.log_history[-1]["completions/mean_length"]
    print(json.dumps({"steps": steps / wall, "cpu": cpu / wall, "wall": wall, "length": length}))


if __name__ == "__main__":
    main()
