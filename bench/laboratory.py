"""The default model, simulated raters with a hidden preference, and the learner's training code.

The event log, the ledger, the gate and serving are left out.
"""

import math
import random
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel

from deploy.simulation.raters import PREFERENCES, Preference, judge, prefers
from deploy.sizing.models import default_model
from learner.corpus import prompts
from learner.cycle.inputs import encode_demonstration_prompts
from learner.data.packing import pack_documents
from learner.data.preferences import PreferenceExample, prompt_key, prompt_split
from learner.data.tokenizer import encode_chat, end_token_ids, pad_token_id
from learner.gate.evaluation import answer_kl
from learner.gate.judge import JudgeReport, fit_judge
from learner.models.adapters import add_adapter
from learner.models.loading import load_model, load_tokenizer, sampling_temperature
from learner.models.parameters import copy_shared
from learner.ppo.critic import new_critic
from learner.ppo.off_policy import OffPolicyAnswer
from learner.ppo.reward import VotePosteriors, fit_score
from learner.ppo.rollouts import rows_from_samples
from learner.ppo.steps import PPOInputs
from learner.ppo.trainer import Iteration, run_ppo
from learner.pretraining.documents import documents, held_out_text
from learner.pretraining.next_token import text_nll
from learner.reward.evaluation import RewardReport
from learner.reward.features import AnswerFeatures
from learner.reward.model import RewardModel
from learner.reward.probe import ProbeResult, probe
from learner.reward.training import train_reward
from learner.sampling.sampler import Sample, TransformersSampler
from learner.settings import (
    LoraSettings,
    PPOSettings,
    RewardSettings,
)

RATERS = 10
HELD_OUT_SHARE = 0.15
SMALL_PPO = PPOSettings(iterations=10, learning_rate=4e-4)


def build_example(
    prompt: str,
    samples: Sequence[Sample],
    rater: int,
    *,
    ranks: tuple[int, ...] = (),
    approvals: tuple[float, ...] = (),
) -> PreferenceExample:
    return PreferenceExample(
        prompt_key([{"role": "user", "content": prompt}]),
        tuple((*s.prompt, *s.token_ids) for s in samples),
        tuple(len(s.token_ids) for s in samples),
        ranks,
        approvals,
        rater=f"rater {rater}",
    )


@dataclass(frozen=True)
class AnsweredPrompts:
    """Prompts, a policy's answers to each, and the seed of the raters' votes."""

    prompts: list[str]
    answers: list[list[Sample]]
    seed: int


@dataclass(frozen=True)
class LearnedVotes:
    """What votes taught: the reward model, the probe, PPO's score with the judge, and reports."""

    model: RewardModel
    report: RewardReport
    probed: ProbeResult
    posteriors: VotePosteriors
    judged: JudgeReport

    @property
    def predictable(self) -> bool:
        """Whether the votes predict each other, so that the policy may be trained."""
        return self.probed.gain_lower_bound > 0 and self.report.gain_upper_bound > 0


class Laboratory:
    """A fine-tuned model, its answers, and simulated raters who vote on them."""

    def __init__(self, preference: str, seed: int) -> None:
        """Load the default model; the seed is that of the votes and of the training."""
        self.seed = seed
        self.preference: Preference = PREFERENCES[preference]
        self.reference = load_model(default_model())
        self.tokenizer = load_tokenizer(default_model())
        self.pad = pad_token_id(self.tokenizer)
        self.temperature = sampling_temperature(self.reference)
        self.features = AnswerFeatures(self.reference, self.tokenizer, self.pad, "float32", 4096)
        self.eval_prompts = [self.encode(p) for p in prompts("eval")]
        self.held_out_text = held_out_text(self.tokenizer, row=128, tokens=12_000)
        self.base_nll = text_nll(self.reference, self.held_out_text)
        first = self.sampler(self.reference).sample(
            self.eval_prompts, 1, 112, self.temperature, seed
        )
        self.typical_score = statistics.median(
            self.preference.score(self.text_of(s)) for s in first
        )

    def encode(self, prompt: str) -> list[int]:
        return encode_chat(self.tokenizer, [{"role": "user", "content": prompt}], answer=True)

    def sampler(self, model: PreTrainedModel) -> TransformersSampler:
        return TransformersSampler(model, end_token_ids(self.tokenizer), pad=self.pad, batch=96)

    def text_of(self, sample: Sample) -> str:
        return str(self.tokenizer.decode(sample.token_ids, skip_special_tokens=True)).strip()

    def ask(self, policy: PreTrainedModel, count: int, n: int, cycle: int = 0) -> AnsweredPrompts:
        """Sample n answers to each of `count` prompts, which differ from cycle to cycle."""
        order = prompts("vote")
        random.Random(self.seed).shuffle(order)
        chosen = order[cycle * count : (cycle + 1) * count]
        if len(chosen) < count:
            raise ValueError(f"there are only {len(order)} prompts, too few for cycle {cycle}")
        rows = [self.encode(prompt) for prompt in chosen]
        seed = 1000 * self.seed + cycle
        samples = self.sampler(policy).sample(rows, n, 112, self.temperature, seed)
        answers = [samples[i : i + n] for i in range(0, len(samples), n)]
        return AnsweredPrompts(chosen, answers, seed)

    def votes(
        self, answered: AnsweredPrompts, noise: float = 0.7, hostile: float = 0.0
    ) -> list[PreferenceExample]:
        """Return noisy comparisons of two answers to each prompt.

        Ten raters take turns; the share `hostile` of them votes against their own preference.
        """
        rng, found = random.Random(answered.seed), []
        for number, (prompt, pair) in enumerate(
            zip(answered.prompts, answered.answers, strict=True)
        ):
            left, right = map(self.text_of, pair)
            verdict = judge(self.preference, left, right, noise, rng)
            ranks = {"left": (0, 1), "right": (1, 0), "tie": (0, 0)}[verdict]
            rater = number % RATERS
            if rater < hostile * RATERS:
                ranks = ranks[::-1]
            found.append(build_example(prompt, pair, rater, ranks=ranks))
        return found

    def thumbs(self, answered: AnsweredPrompts, noise: float = 0.7) -> list[PreferenceExample]:
        """Return noisy ratings of one answer to each prompt: up if better than typical at first."""
        scores = [self.preference.score(self.text_of(one)) for (one,) in answered.answers]
        rng, found = random.Random(answered.seed), []
        for number, (prompt, answers) in enumerate(
            zip(answered.prompts, answered.answers, strict=True)
        ):
            better = (scores[number] - self.typical_score) / noise
            up = rng.random() < 1 / (1 + math.exp(-max(-30.0, min(30.0, better))))
            found.append(build_example(prompt, answers, number % RATERS, approvals=(float(up),)))
        return found

    def rankings(self, answered: AnsweredPrompts, noise: float = 0.7) -> list[PreferenceExample]:
        """Return noisy rankings of all answers to each prompt (Plackett-Luce model)."""
        rng, found = random.Random(answered.seed), []
        for number, (prompt, answers) in enumerate(
            zip(answered.prompts, answered.answers, strict=True)
        ):
            # Ordering scores with Gumbel noise samples from the Plackett-Luce model.
            noisy = [
                self.preference.score(self.text_of(s)) / noise - math.log(rng.expovariate(1))
                for s in answers
            ]
            order = sorted(range(len(noisy)), key=lambda i: -noisy[i])
            ranks = tuple(order.index(i) for i in range(len(noisy)))
            found.append(build_example(prompt, answers, number % RATERS, ranks=ranks))
        return found

    def off_policy_answers(self, answered: AnsweredPrompts) -> list[OffPolicyAnswer]:
        """Return the answers as off-policy answers, except those to held-out prompts."""
        keys = [prompt_key([{"role": "user", "content": prompt}]) for prompt in answered.prompts]
        return [
            OffPolicyAnswer(sample, 0)
            for key, answers in zip(keys, answered.answers, strict=True)
            if prompt_split(key, held_out_share=HELD_OUT_SHARE) != "held_out"
            for sample in answers
        ]

    def win_rate(self, model: PreTrainedModel) -> float:
        """Return the win rate over the SFT policy under the hidden preference."""
        ours, theirs = (
            self.sampler(m).sample(
                self.eval_prompts, 1, 112, self.temperature, self.seed + 77 + number
            )
            for number, m in enumerate((model, self.reference))
        )
        wins = (
            prefers(self.preference, self.text_of(a), self.text_of(b))
            for a, b in zip(ours, theirs, strict=True)
        )
        return sum(wins) / len(ours)

    def kl(self, model: PreTrainedModel) -> float:
        """Estimate the KL from the SFT policy in nats per answer, on prompts without votes."""
        answers = self.sampler(model).sample(
            self.eval_prompts, 1, 112, self.temperature, self.seed + 77
        )
        return answer_kl(model, self.reference, answers, SMALL_PPO, self.pad)

    def to_train(self, lora: LoraSettings | None) -> PreTrainedModel:
        model = copy_shared(self.reference)
        return add_adapter(model.requires_grad_(False), lora, self.seed) if lora else model

    def learn(
        self,
        votes: Sequence[PreferenceExample],
        settings: RewardSettings,
        lora: LoraSettings | None = None,
        *,
        uniform_raters: bool = False,
    ) -> LearnedVotes:
        """Train a reward model, PPO's score and the judge.

        With `uniform_raters`, all votes count as one rater's.
        """
        model = RewardModel(self.to_train(lora), pad=self.pad, seed=self.seed)
        parts: dict[str, list[PreferenceExample]] = {"held_out": [], "reward": []}
        for example in votes:
            voted = replace(example, rater="all") if uniform_raters else example
            parts[prompt_split(example.key, held_out_share=HELD_OUT_SHARE)].append(voted)
        probed = probe(self.features, parts["reward"])
        report = train_reward(
            model,
            parts["reward"],
            parts["held_out"],
            settings,
            seed=self.seed,
            reliabilities=probed.reliabilities,
        )
        prompts = encode_demonstration_prompts(self.tokenizer, self.seed, 600)[
            : settings.normalise_on
        ]
        answers = self.sampler(self.reference).sample(prompts, 1, 112, self.temperature, self.seed)
        typical = rows_from_samples(answers)
        model.normalise(typical)
        known = probed.reliabilities
        score = fit_score(
            self.features,
            model,
            report,
            parts["reward"],
            parts["held_out"],
            known,
            typical,
            seed=self.seed,
        )
        examples = [example for part in parts.values() for example in part]
        judge, judged = fit_judge(
            self.features.of_examples(examples), examples, known, seed=self.seed
        )
        posteriors = VotePosteriors(self.features, score, judge)
        return LearnedVotes(model, report, probed, posteriors, judged)

    def ppo(
        self,
        policy: PreTrainedModel,
        learned: LearnedVotes,
        settings: PPOSettings,
        folder: Path,
        *,
        live: Sequence[OffPolicyAnswer],
        cycle: int,
    ) -> tuple[PreTrainedModel, Iteration]:
        """Train the policy with PPO; return the candidate and the figures of the last iteration."""
        text = pack_documents(
            documents(None, self.seed + 2, repeat=True), self.tokenizer, row=128, tokens=100_000
        )
        inputs = PPOInputs(
            policy=policy,
            critic=new_critic(policy, learned.model, settings),
            reference=self.reference,
            reward=learned.model,
            sampler=self.sampler,
            prompts=encode_demonstration_prompts(self.tokenizer, self.seed, 600),
            text=text,
            off_policy=live,
            posteriors=learned.posteriors,
        )
        iterations: list[Iteration] = []
        state = folder / "ppo"
        shutil.rmtree(state, ignore_errors=True)
        seed = 1000 * self.seed + cycle
        settings = settings.model_copy(update={"temperature": self.temperature})
        candidate = run_ppo(
            inputs, settings, seed=seed, state=state, on_iteration=iterations.append
        )
        return candidate, iterations[-1]
