"""Choose what a cycle's size depends on: recorded lengths, memory, and the time that it may take.

What was set explicitly is kept. The rest follows from four rules:

- Lengths: the 95th percentiles of the recorded prompts and answers, rounded up to 16 tokens, and at
  least the defaults; together within the model's context and the tokens that a quarter of the
  memory holds.
- Tokens of a forward pass: as many as fit into an eighth of the memory, at most 4,096 on a
  processor and 16,384 on a GPU, and at least the longest prompt with the longest answer.
- Answers of an iteration: as many as the minutes of a cycle allow, a multiple of 8 from 16 to 96.
- Iterations: the default, or as many as the minutes allow with 16 answers each, at least 4.

Importing this module does not import torch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil
from pydantic import BaseModel, ConfigDict

from feedback.ledger.rows import RecordedLengths
from learner.settings import LearnerSettings, PPOSettings

MAX_PROMPTS: Final = 4000  # recorded prompts that a cycle takes, even over owners and time
# Parts of the names of matrices that are no linear layers with adapters.
EMBEDDINGS: Final = ("embed", "wte", "wpe", "lm_head")
_CGROUP_MEMORY: Final = Path("/sys/fs/cgroup/memory.max")
_PERCENTILE: Final = 0.95
_ROUND: Final = 16  # tokens
_MIN_ANSWERS: Final = 20  # recorded answers below which their lengths say too little
_PROMPT_TOKENS: Final = 32  # of a typical question, until there are recorded ones
# Shares of the memory, beside vLLM, weights and optimizer state: for a forward pass, and for one
# that consists of the longest prompt and answer.
_PASS_SHARE: Final = 1 / 8
_ROW_SHARE: Final = 1 / 4
_CPU_TOKENS: Final = 4096  # of a forward pass; more are no faster
_GPU_TOKENS: Final = 16_384
_CPU_MINUTES: Final = 30.0
_GPU_MINUTES: Final = 20.0
_MIN_ROLLOUTS: Final = 16
_ROLLOUTS_STEP: Final = 8
_MIN_ITERATIONS: Final = 4
# Bytes that a layer keeps for its gradient, per token and hidden unit: 34 in 16 bits (Korthikanti
# et al. 2022, arXiv:2205.05198, table 2, without attention scores), twice that in float32.
_ACTIVATION_BYTES: Final = 68
_LOGIT_BYTES: Final = 3 * 4  # per token and entry: logits, their log-softmax, its gradient
# In measured cycles PPO took half of the time, and ran at 0.6 of the speed of a large matrix
# product.
_CYCLE_PER_PPO: Final = 2.0
_EFFICIENCY: Final = 0.6
# Operations per second until a cycle has been measured. Constants, not a measurement: how busy a
# machine is at a moment must not change what is learned.
_CORE_FLOPS: Final = 1e11  # of one core, in float32
_GPU_FLOPS: Final = 2e13  # of one GPU, a low estimate


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The properties of a model that decide what memory and time it needs.

    Attributes:
        architecture: Name of the model's class in transformers and vLLM.
        parameters: Number of parameters.
        layers: Number of transformer blocks.
        hidden: Size of the hidden states.
        vocabulary: Number of token embeddings.
        linear_dimensions: Sum of the input and output sizes of all linear layers; times the rank,
            it is the number of parameters of an adapter.
        context: Context length in tokens; None if the configuration does not say.

    """

    architecture: str
    parameters: int
    layers: int
    hidden: int
    vocabulary: int
    linear_dimensions: int
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Device:
    """What the learner computes on.

    Attributes:
        memory: Bytes of main memory, or of the smallest of its GPUs.
        gpus: Number of its GPUs; 0 if it computes on the processor.
        flops: Operations per second of a large matrix product.

    """

    memory: int
    gpus: int
    flops: float

    @property
    def minutes(self) -> float:
        """Minutes that a cycle may take unless set otherwise."""
        return _GPU_MINUTES if self.gpus else _CPU_MINUTES


def cpu_device(memory: int, cores: int) -> Device:
    """Return the device of a learner on a processor."""
    return Device(memory, 0, _CORE_FLOPS * cores)


def gpu_device(memories: Sequence[int]) -> Device:
    """Return the device of a learner on GPUs with these bytes of memory."""
    return Device(min(memories), len(memories), _GPU_FLOPS * len(memories))


def machine_memory() -> int:
    """Return the bytes of main memory, or of the part that this container may use."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(_CGROUP_MEMORY.read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return total


class CycleSizes(BaseModel):
    """The sizes of a learning cycle.

    Attributes:
        max_prompt_tokens: Number of tokens above which a prompt is left out.
        max_tokens: Largest number of tokens in a sampled answer.
        micro_tokens: Largest number of padded tokens in a forward pass.
        rollouts: Number of answers in an iteration.
        iterations: Number of iterations.
        work: Forecast of PPO's operations, in operations per parameter of the model.

    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_prompt_tokens: int
    max_tokens: int
    micro_tokens: int
    rollouts: int
    iterations: int
    work: float

    def apply_to(self, settings: LearnerSettings) -> LearnerSettings:
        """Return the settings with these sizes, except for those that were set explicitly."""
        return settings.with_ppo(**self.model_dump(exclude={"work"}))


@dataclass(frozen=True, slots=True)
class Sizing:
    """The choice of a cycle's sizes.

    Attributes:
        settings: Settings of the learner with the defaults for the model.
        shape: Shape of the model.
        device: What the learner computes on.
        lengths: Recorded lengths of prompts and answers.
        measured_rate: Operations per parameter of PPO in a second of an earlier cycle, all of its
            stages counted; None before the first one.

    """

    settings: LearnerSettings
    shape: ModelShape
    device: Device
    lengths: RecordedLengths = field(default_factory=RecordedLengths)
    measured_rate: float | None = None

    @property
    def minutes(self) -> float:
        """Minutes that a cycle may take."""
        return self.settings.cycle_minutes or self.device.minutes

    @property
    def rate(self) -> float:
        """Operations per parameter of PPO in a second of a cycle, measured or estimated."""
        estimate = self.device.flops * _EFFICIENCY / (_CYCLE_PER_PPO * self.shape.parameters)
        return self.measured_rate or estimate

    def choose(self) -> CycleSizes:
        """Return the sizes of a cycle."""
        given, settings = self.settings.ppo.model_fields_set, self.settings
        prompt, answer = self._limits()
        settings = settings.with_ppo(max_prompt_tokens=prompt, max_tokens=answer)
        micro = max(prompt + answer, min(self._fitting_tokens(_PASS_SHARE), self._most_tokens()))
        micro = settings.ppo.micro_tokens if "micro_tokens" in given else micro
        rollouts = self._rollouts(settings.ppo)
        settings = settings.with_ppo(rollouts=rollouts)
        iterations = self._iterations(settings.ppo)
        ppo = settings.with_ppo(iterations=iterations).ppo
        return CycleSizes(
            max_prompt_tokens=prompt,
            max_tokens=answer,
            micro_tokens=micro,
            rollouts=rollouts,
            iterations=iterations,
            work=ppo.iterations * self._iteration_work(ppo),
        )

    def _limits(self) -> tuple[int, int]:
        """Return the largest number of tokens of a prompt and of an answer."""
        ppo = self.settings.ppo
        prompt, answer = ppo.max_prompt_tokens, ppo.max_tokens
        room = max(self._fitting_tokens(_ROW_SHARE), prompt + answer)
        room = min(room, self.shape.context or room)
        if self._has_traffic():
            prompt = max(prompt, _percentile(self.lengths.prompts))
            answer = max(answer, _percentile(self.lengths.answers))
        limits = self.settings.with_ppo(max_tokens=min(answer, max(1, room // 2)))
        answer = limits.ppo.max_tokens
        limits = limits.with_ppo(max_prompt_tokens=min(prompt, max(1, room - answer)))
        return limits.ppo.max_prompt_tokens, answer

    def _has_traffic(self) -> bool:
        return len(self.lengths.answers) >= _MIN_ANSWERS

    def _fitting_tokens(self, share: float) -> int:
        """Return how many tokens of a forward pass fit into a share of the memory."""
        return int(share * self.device.memory / token_bytes(self.shape))

    def _most_tokens(self) -> int:
        return _GPU_TOKENS if self.device.gpus else _CPU_TOKENS

    def _rollouts(self, ppo: PPOSettings) -> int:
        """Return the number of answers in an iteration that the time allows."""
        if "rollouts" in ppo.model_fields_set:
            return ppo.rollouts
        in_time = self.rate * 60 * self.minutes / ppo.iterations - _text_work(ppo)
        fitting = int(in_time / (_token_work(ppo) * self._row_tokens(ppo)))
        least = max(
            _MIN_ROLLOUTS, ppo.minibatches * max(1, self.device.gpus, self.settings.processes)
        )
        return max(least, min(ppo.rollouts, fitting // _ROLLOUTS_STEP * _ROLLOUTS_STEP))

    def _iterations(self, ppo: PPOSettings) -> int:
        """Return the number of iterations that the time allows."""
        if "iterations" in ppo.model_fields_set:
            return ppo.iterations
        fitting = int(self.rate * 60 * self.minutes / self._iteration_work(ppo))
        return min(ppo.iterations, max(_MIN_ITERATIONS, fitting))

    def _iteration_work(self, ppo: PPOSettings) -> float:
        """Return the operations per parameter of one iteration."""
        return ppo.rollouts * _token_work(ppo) * self._row_tokens(ppo) + _text_work(ppo)

    def _row_tokens(self, ppo: PPOSettings) -> float:
        """Return the tokens of a typical prompt and its answer."""
        if not self._has_traffic():
            return _PROMPT_TOKENS + ppo.max_tokens / 2
        prompts = [n for n in self.lengths.prompts if n <= ppo.max_prompt_tokens]
        answers = [min(n, ppo.max_tokens) for n in self.lengths.answers]
        return sum(prompts) / max(1, len(prompts)) + sum(answers) / len(answers)

    def lines(self, sizes: CycleSizes) -> list[str]:
        """Return the sizes and why they were chosen, as sentences."""
        ppo = sizes.apply_to(self.settings).ppo
        prompts = self._why("max_prompt_tokens", ppo.max_prompt_tokens, self.lengths.prompts)
        answers = self._why("max_tokens", ppo.max_tokens, self.lengths.answers)
        speed = self.rate / _token_work(ppo)
        how = "measured in the last cycle" if self.measured_rate else "estimated"
        lines = [
            f"Lengths: prompts of up to {ppo.max_prompt_tokens:,} tokens ({prompts}), answers of "
            f"up to {ppo.max_tokens:,} ({answers}).",
            f"A cycle: {ppo.iterations} iterations of {ppo.rollouts} answers, within "
            f"{self.minutes:g} minutes at {speed:,.{0 if speed >= 10 else 1}f} tokens a second "
            f"({how}); up to {ppo.micro_tokens:,} tokens in a forward pass, for "
            f"{self.device.memory / 2**30:.1f} GiB of memory.",
        ]
        if sizes.work > self.rate * 60 * self.minutes:
            lines.append(
                f"That takes about {sizes.work / self.rate / 60:.0f} minutes, more than a cycle "
                "may take; set shorter limits, or PLAUDIT_LEARNER_CYCLE_MINUTES."
            )
        return lines

    def _why(self, name: str, limit: int, lengths: Sequence[int]) -> str:
        """Return why a limit was chosen, and the share of the recorded lengths that it admits."""
        default = getattr(self.settings.ppo, name)
        if name in self.settings.ppo.model_fields_set:
            why = "as set"
        elif not self._has_traffic():
            why = f"the default until {_MIN_ANSWERS} answers are recorded"
        else:
            wanted = max(default, _percentile(lengths))
            why = "the 95th percentile" if wanted > default else "the default"
            why = why if limit >= wanted else "what context and memory allow"
        if not lengths:
            return why
        share = sum(length <= limit for length in lengths) / len(lengths)
        return f"{why}; {math.floor(100 * share)}% of {len(lengths):,} recorded ones fit"


def token_bytes(shape: ModelShape) -> int:
    """Return the bytes that a token of PPO's forward pass needs until the backward pass."""
    layers = _ACTIVATION_BYTES * shape.hidden * shape.layers
    return 2 * layers + _LOGIT_BYTES * shape.vocabulary


def activation_bytes(shape: ModelShape, settings: LearnerSettings) -> int:
    """Return the bytes of the largest forward pass of a cycle."""
    ppo = settings.ppo
    tokens = max(ppo.micro_tokens, ppo.max_prompt_tokens + ppo.max_tokens)
    return tokens * token_bytes(shape)


def _percentile(lengths: Sequence[int]) -> int:
    """Return the 95th percentile (nearest rank), rounded up to a multiple of 16."""
    if not lengths:
        return 0
    value = sorted(lengths)[math.ceil(_PERCENTILE * len(lengths)) - 1]
    return math.ceil(value / _ROUND) * _ROUND


def _token_work(ppo: PPOSettings) -> float:
    """Return PPO's operations per parameter for a token of prompt or answer.

    A forward pass takes 2 operations per parameter, a backward pass 4: sampling; a forward pass of
    policy, reference, critic and reward model; training of policy and critic.
    """
    return 2 + 2 * 4 + 6 * 2 * ppo.epochs


def _text_work(ppo: PPOSettings) -> float:
    """Return the operations per parameter of an iteration's pre-training loss."""
    return 6 * ppo.epochs * ppo.minibatches * ppo.text_rows * ppo.text_row
