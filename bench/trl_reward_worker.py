"""Worker that runs an epoch of TRL's RewardTrainer per turn, in an environment with torch and TRL.

TRL is not changed: a callback pauses its loop between steps. It runs with its fastest settings: no
gradient checkpointing (which is its default), no logging, evaluation or saving, fused AdamW. Its
data is tokenised already, and nothing is padded.
"""

import json
import sys
import tempfile
import time
from itertools import combinations
from typing import Any

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl import RewardConfig, RewardTrainer

from bench.turns import Turns


class Watch(TrainerCallback):
    """Stopwatch that pauses the loop every `steps` steps and times them."""

    def __init__(self, turns: Turns, steps: int, facts: dict[str, Any]) -> None:
        self._turns = turns
        self._steps = steps
        self._facts = facts
        self._started = self._cpu = 0.0
        self.optimizer_steps = 0

    def begin(self) -> None:
        self._turns.wait()
        self.optimizer_steps = 0
        self._started, self._cpu = time.perf_counter(), time.process_time()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._turns.report(**self._facts)
        self.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if self.optimizer_steps < self._steps:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._turns.report(
            seconds=time.perf_counter() - self._started,
            cpu_seconds=time.process_time() - self._cpu,
            optimizer_steps=self.optimizer_steps,
        )
        self.begin()

    def count_step(self, *_: Any) -> None:
        self.optimizer_steps += 1


def pairs(spec: dict[str, Any]) -> Dataset:
    """Return all pairs of each prompt's ranked answers, the better one as chosen."""
    generator = torch.Generator().manual_seed(0)
    shape = (spec["prompts"], spec["answers"])

    def draw(*size: int) -> torch.Tensor:
        return torch.randint(spec["vocabulary"], size, generator=generator)

    prompts = draw(spec["prompts"], 1, spec["prompt"]).expand(*shape, spec["prompt"])
    sequences = torch.cat([prompts, draw(*shape, spec["response"])], dim=-1).tolist()
    rows = [pair for ranked in sequences for pair in combinations(ranked, 2)]
    return Dataset.from_dict(
        {"chosen_ids": [a for a, _ in rows], "rejected_ids": [b for _, b in rows]}
    )


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose padding and end tokens are outside the model's vocabulary."""
    words = {f"w{i}": i for i in range(vocabulary)}
    words |= {"<pad>": len(words), "<end>": len(words) + 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        pad_token="<pad>",
        eos_token="<end>",
    )


def new_model(spec: dict[str, Any]) -> LlamaForSequenceClassification:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=spec["vocabulary"],
        hidden_size=spec["hidden"],
        intermediate_size=spec["feed_forward"],
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        num_key_value_heads=spec["heads"],
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        num_labels=1,
    )
    return LlamaForSequenceClassification(config)


def settings(spec: dict[str, Any], folder: str) -> RewardConfig:
    return RewardConfig(
        output_dir=folder,
        per_device_train_batch_size=spec["batch"],
        max_steps=1_000_000,
        learning_rate=1e-5,
        gradient_checkpointing=False,
        bf16=spec["dtype"] == "bfloat16",
        use_cpu=spec["device"] == "cpu",
        dataloader_pin_memory=spec["device"] == "cuda",
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def main() -> None:
    turns = Turns()
    spec: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    model, rows = new_model(spec), pairs(spec)
    facts = {
        "trl": trl.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "pairs": len(rows),
        "dtype": spec["dtype"],
        "device": spec["device"],
    }
    watch = Watch(turns, -(-len(rows) // spec["batch"]), facts)
    register_optimizer_step_post_hook(watch.count_step)
    with tempfile.TemporaryDirectory() as folder:
        RewardTrainer(
            model=model,
            args=settings(spec, folder),
            train_dataset=rows,
            processing_class=tokenizer(spec["vocabulary"]),
            callbacks=[watch],
        ).train()


if __name__ == "__main__":
    main()
