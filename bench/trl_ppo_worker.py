"""Worker that runs one update of TRL's PPOTrainer per turn, in an environment with torch and TRL.

TRL is not changed: a callback pauses its loop between updates, and the policy's `generate` is
timed. It runs with its fastest settings: no gradient checkpointing (which is its default), the
whole batch in one forward pass, one minibatch, no evaluation, printing or saving, fused AdamW. The
ids of the padding and end tokens are outside the model's vocabulary, so that nothing is padded and
no answer ends before its 32nd token.
"""

import json
import os
import random
import sys
import tempfile
import time
from typing import Any

from bench.turns import Turns

TURNS = Turns()
SPEC: dict[str, Any] = json.loads(sys.argv[1])
if SPEC["dtype"] == "bfloat16" and not SPEC["bf16_weights"]:
    # PPOTrainer's Accelerator ignores `bf16=True` and reads what `accelerate launch` sets.
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16"

import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402
from datasets import Dataset  # noqa: E402
from tokenizers import Tokenizer, models  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer  # noqa: E402


class Watch(TrainerCallback):
    """Stopwatch that pauses the loop between updates and times them."""

    def __init__(self) -> None:
        self.started = self.cpu = 0.0
        self.generating = 0.0
        self.tokens = 0
        self.optimizer_steps = 0

    def begin(self) -> None:
        TURNS.wait()
        self.generating, self.tokens, self.optimizer_steps = 0.0, 0, 0
        self.started, self.cpu = time.perf_counter(), time.process_time()

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        TURNS.report(**facts())
        self.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        synchronize()
        TURNS.report(
            seconds=time.perf_counter() - self.started,
            cpu_seconds=time.process_time() - self.cpu,
            generating=self.generating,
            tokens=self.tokens,
            optimizer_steps=self.optimizer_steps,
        )
        self.begin()


def synchronize() -> None:
    if SPEC["device"] == "cuda":
        torch.cuda.synchronize()


def facts() -> dict[str, Any]:
    return {
        "trl": trl.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "policy_parameters": sum(p.numel() for p in POLICY.parameters()),
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "dtype": str(next(POLICY.parameters()).dtype),
        "mixed_precision": trainer.accelerator.mixed_precision,
        "own_critic": True,
        "device": str(trainer.accelerator.device),
        "optimizer": trainer.args.optim,
    }


def watched_generate(watch: Watch) -> Any:
    generate = POLICY.generate

    def watched(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        output = generate(*args, **kwargs)
        synchronize()
        watch.generating += time.perf_counter() - start
        rows, width = output.sequences.shape
        watch.tokens += rows * (width - kwargs["input_ids"].shape[1])
        return output

    return watched


def config(**more: Any) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=SPEC["vocabulary"],
        hidden_size=SPEC["hidden"],
        intermediate_size=SPEC["feed_forward"],
        num_hidden_layers=SPEC["layers"],
        num_attention_heads=SPEC["heads"],
        num_key_value_heads=SPEC["heads"],
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
        **more,
    )


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{i}": i for i in range(SPEC["vocabulary"])}
    words |= {"<pad>": len(words), "<end>": len(words) + 1}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        pad_token="<pad>",
        eos_token="<end>",
    )


def settings(folder: str) -> PPOConfig:
    return PPOConfig(
        output_dir=folder,
        per_device_train_batch_size=SPEC["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        num_ppo_epochs=SPEC["epochs"],
        total_episodes=SPEC["batch"] * 100_000,
        local_rollout_forward_batch_size=SPEC["batch"],
        response_length=SPEC["response"],
        temperature=1.0,
        learning_rate=1e-5,
        num_sample_generations=0,
        gradient_checkpointing=False,
        bf16=SPEC["dtype"] == "bfloat16",
        use_cpu=SPEC["device"] == "cpu",
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


torch.set_num_threads(SPEC["threads"])
torch.manual_seed(0)
weights = torch.bfloat16 if SPEC["bf16_weights"] else torch.float32
POLICY = LlamaForCausalLM(config()).to(weights)
REFERENCE = LlamaForCausalLM(config()).to(weights)
REFERENCE.load_state_dict(POLICY.state_dict())
REWARD, VALUE = (LlamaForSequenceClassification(config(num_labels=1)).to(weights) for _ in "12")
draw = random.Random(0)
prompts = [[draw.randrange(SPEC["vocabulary"]) for _ in range(SPEC["prompt"])] for _ in range(1024)]
watch = Watch()
POLICY.generate = watched_generate(watch)


def count_step(*_: Any) -> None:
    watch.optimizer_steps += 1


register_optimizer_step_post_hook(count_step)
with tempfile.TemporaryDirectory() as folder:
    trainer = PPOTrainer(
        args=settings(folder),
        processing_class=tokenizer(),
        model=POLICY,
        ref_model=REFERENCE,
        reward_model=REWARD,
        value_model=VALUE,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[watch],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
