"""Does the learner learn a hidden preference? Several seeds, with the two controls that must fail.

For each seed: a small model from random weights, fine-tuned, gives two answers to each of some
prompts; simulated people with a hidden preference compare them, with noise; a reward model learns
from that, and PPO climbs it. The table gives the win rate over the fine-tuned model under the
hidden preference, on prompts that nobody voted on, and what text costs beside the pre-trained
model. Left out: the log, the ledger, the gate and serving.

    uv run python -m bench.learning_seeds --seeds 3
"""

import argparse
import math
import random
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel

from deploy.raters import PREFERENCES, Preference, judge, prefers
from learner.adapters import adapted
from learner.corpus import prompts
from learner.gate import answer_kl
from learner.live import LiveAnswer
from learner.materials import demonstrated_prompts
from learner.model import load_model, load_tokenizer, twin
from learner.next_token import text_nll
from learner.packing import pack_documents
from learner.ppo import Iteration, run_ppo
from learner.ppo_steps import Players
from learner.preferences import Example, prompt_key, split_of
from learner.pretrain import documents, held_out_text, pretrain
from learner.probe import probed_reliabilities
from learner.reliability import Reliabilities
from learner.reward import RewardModel, new_critic
from learner.reward_report import RewardReport
from learner.reward_training import train_reward
from learner.rollouts import rows_of
from learner.sampler import Sample, TransformersSampler
from learner.settings import (
    LoraSettings,
    PPOSettings,
    PretrainSettings,
    RewardSettings,
    SftSettings,
)
from learner.sft import sft
from learner.tokenizer import encode_chat, end_token_ids, pad_token_id

SMALL = PretrainSettings(
    hidden=128, layers=3, heads=2, feed_forward=352, vocabulary=1024, tokens=500_000
)
SMALL_SFT = SftSettings(tokens=400_000, text_share=0.0)
RATERS = 10
SMALL_PPO = PPOSettings(iterations=20, learning_rate=4e-4)
CONTROLS = {
    "KL and ptx": {},
    "no ptx": {"text_coef": 0.0},
    "no KL, no ptx": {"text_coef": 0.0, "kl_coef": 0.0},
}


def example_of(
    prompt: str,
    samples: Sequence[Sample],
    rater: int,
    *,
    ranks: tuple[int, ...] = (),
    approvals: tuple[float, ...] = (),
) -> Example:
    return Example(
        prompt_key([{"role": "user", "content": prompt}]),
        tuple((*s.prompt, *s.token_ids) for s in samples),
        tuple(len(s.token_ids) for s in samples),
        ranks,
        approvals,
        rater=f"rater {rater}",
    )


class Laboratory:
    """A fine-tuned model, what it says, and simulated people who compare it."""

    def __init__(self, folder: Path, preference: str, seed: int) -> None:
        """Use the models in `folder`, `pretrained` and `sft`."""
        self.seed = seed
        self.preference: Preference = PREFERENCES[preference]
        self.reference = load_model(folder / "sft")
        self.tokenizer = load_tokenizer(folder / "sft")
        self.pad = pad_token_id(self.tokenizer)
        self.eval_prompts = [self._encode(p) for p in prompts("eval")]
        self.held_out_text = held_out_text(self.tokenizer, row=128, tokens=12_000)
        self.base_nll = text_nll(load_model(folder / "pretrained"), self.held_out_text)

    def _encode(self, prompt: str) -> list[int]:
        return encode_chat(self.tokenizer, [{"role": "user", "content": prompt}], answer=True)

    def sampler(self, model: PreTrainedModel) -> TransformersSampler:
        return TransformersSampler(model, end_token_ids(self.tokenizer), pad=self.pad, batch=96)

    def text_of(self, sample: Sample) -> str:
        return str(self.tokenizer.decode(sample.token_ids, skip_special_tokens=True)).strip()

    def votes(self, count: int, noise: float = 0.7, hostile: float = 0.0) -> list[Example]:
        """Give `count` noisy comparisons of two answers each.

        Ten raters take turns, of whom the share `hostile` says the opposite of what they think.
        """
        rng = random.Random(self.seed)
        asked, samples = self._asked(rng, count, 2)
        found = []
        for number, prompt in enumerate(asked):
            pair = samples[2 * number : 2 * number + 2]
            left, right = map(self.text_of, pair)
            verdict = judge(self.preference, left, right, noise, rng)
            ranks = {"left": (0, 1), "right": (1, 0), "tie": (0, 0)}[verdict]
            rater = number % RATERS
            if rater < hostile * RATERS:
                ranks = ranks[::-1]
            found.append(example_of(prompt, pair, rater, ranks=ranks))
        return found

    def _asked(self, rng: random.Random, count: int, n: int) -> tuple[list[str], list[Sample]]:
        asked = rng.sample(prompts("vote"), k=count)
        sampler = self.sampler(self.reference)
        return asked, sampler.sample([self._encode(p) for p in asked], n, 112, 1.0, self.seed)

    def thumbs(self, count: int, noise: float = 0.7) -> list[Example]:
        """Give `count` noisy thumbs, each on one answer: up where it is better than most."""
        rng = random.Random(self.seed)
        asked, samples = self._asked(rng, count, 1)
        middle = statistics.median(self.preference.score(self.text_of(s)) for s in samples)
        found = []
        for number, (prompt, sample) in enumerate(zip(asked, samples, strict=True)):
            better = (self.preference.score(self.text_of(sample)) - middle) / noise
            up = rng.random() < 1 / (1 + math.exp(-max(-30.0, min(30.0, better))))
            found.append(example_of(prompt, [sample], number % RATERS, approvals=(float(up),)))
        return found

    def rankings(self, count: int, noise: float = 0.7) -> list[Example]:
        """Give `count` noisy rankings of four answers each (Plackett and Luce's model)."""
        rng = random.Random(self.seed)
        asked, samples = self._asked(rng, count, 4)
        found = []
        for number, prompt in enumerate(asked):
            four = samples[4 * number : 4 * number + 4]
            # The order of scores under Gumbel noise is Plackett and Luce's.
            felt = [
                self.preference.score(self.text_of(s)) / noise - math.log(rng.expovariate(1))
                for s in four
            ]
            order = sorted(range(4), key=lambda i: -felt[i])
            ranks = tuple(order.index(i) for i in range(4))
            found.append(example_of(prompt, four, number % RATERS, ranks=ranks))
        return found

    def live(self, count: int) -> list[LiveAnswer]:
        """Give the answers that `votes` are about, as data to learn from."""
        asked, samples = self._asked(random.Random(self.seed), count, 2)
        keys = [prompt_key([{"role": "user", "content": p}]) for p in asked for _ in range(2)]
        shares = {"held_out_share": 0.15, "judge_share": 0.3}
        return [
            LiveAnswer(sample, 0)
            for key, sample in zip(keys, samples, strict=True)
            if split_of(key, **shares) != "held_out"
        ]

    def win_rate(self, model: PreTrainedModel) -> float:
        """Give the win rate over the fine-tuned model under the hidden preference."""
        ours, theirs = (
            self.sampler(m).sample(self.eval_prompts, 1, 112, 1.0, self.seed + 77 + number)
            for number, m in enumerate((model, self.reference))
        )
        wins = (
            prefers(self.preference, self.text_of(a), self.text_of(b))
            for a, b in zip(ours, theirs, strict=True)
        )
        return sum(wins) / len(ours)

    def kl(self, model: PreTrainedModel) -> float:
        """Estimate the nats in an answer to the fine-tuned model, on prompts nobody voted on."""
        answers = self.sampler(model).sample(self.eval_prompts, 1, 112, 1.0, self.seed + 77)
        return answer_kl(model, self.reference, answers, SMALL_PPO, self.pad)

    def _to_train(self, lora: LoraSettings | None) -> PreTrainedModel:
        model = twin(self.reference)
        return adapted(model.requires_grad_(False), lora, self.seed) if lora else model

    def reward_model(
        self,
        votes: Sequence[Example],
        settings: RewardSettings,
        lora: LoraSettings | None = None,
        *,
        believed: bool = False,
    ) -> tuple[RewardModel, RewardReport]:
        """Train a reward model; `believed` trusts every rater."""
        model = RewardModel(self._to_train(lora), pad=self.pad, seed=self.seed)
        parts: dict[str, list[Example]] = {"held_out": [], "judge": [], "reward": []}
        for example in votes:
            shares = {"held_out_share": 0.15, "judge_share": settings.judge_share}
            parts[split_of(example.key, **shares)].append(example)
        report = train_reward(
            model,
            parts["reward"],
            parts["held_out"],
            settings,
            seed=self.seed,
            reliabilities=Reliabilities()
            if believed
            else probed_reliabilities(
                self.reference,
                [*parts["reward"], *parts["judge"]],
                pad=self.pad,
                dtype="float32",
                micro_tokens=settings.micro_tokens,
            ),
        )
        known = demonstrated_prompts(self.tokenizer, self.seed, 600)[: settings.normalise_on]
        answers = self.sampler(self.reference).sample(known, 1, 112, 1.0, self.seed)
        model.normalise(rows_of(answers))
        return model, report

    def ppo(
        self,
        reward: RewardModel,
        settings: PPOSettings,
        folder: Path,
        on_iteration: Callable[[Iteration], None] | None = None,
        *,
        lora: LoraSettings | None = None,
        live: Sequence[LiveAnswer] = (),
    ) -> tuple[PreTrainedModel, list[Iteration]]:
        policy = self._to_train(lora)
        text = pack_documents(
            documents(None, self.seed + 2, repeat=True), self.tokenizer, row=128, tokens=100_000
        )
        iterations: list[Iteration] = []

        def note(iteration: Iteration) -> None:
            iterations.append(iteration)
            if on_iteration is not None:
                on_iteration(iteration)

        players = Players(
            policy=policy,
            critic=new_critic(policy, reward, settings),
            reference=self.reference,
            reward=reward,
            sampler=self.sampler,
            prompts=demonstrated_prompts(self.tokenizer, self.seed, 600),
            text=text,
            live=live,
        )
        state = folder / "ppo"
        shutil.rmtree(state, ignore_errors=True)
        run_ppo(players, settings, seed=self.seed, state=state, on_iteration=note)
        return policy, iterations


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    seed: int
    setting: str
    accuracy: float
    first_score: float
    last_score: float
    kl: float
    win_rate: float
    nll_increase: float
    seconds: float


def make_models(folder: Path, seed: int) -> None:
    """Pre-train and fine-tune a small model."""
    pretrain(
        folder / "pretrained",
        settings=SMALL.model_copy(update={"seed": seed}),
        progress=lambda _: None,
    )
    sft(
        folder / "pretrained",
        folder / "sft",
        settings=SMALL_SFT.model_copy(update={"seed": seed}),
        progress=lambda _: None,
    )


def run_setting(
    lab: Laboratory, reward: RewardModel, report: RewardReport, name: str, ppo: PPOSettings
) -> Row:
    """Run PPO in one of the settings of `CONTROLS`, and measure what came out."""
    started = time.monotonic()
    with TemporaryDirectory() as scratch:
        policy, iterations = lab.ppo(reward, ppo.model_copy(update=CONTROLS[name]), Path(scratch))
    return Row(
        seed=lab.seed,
        setting=name,
        accuracy=report.accuracy,
        first_score=iterations[0].score,
        last_score=iterations[-1].score,
        kl=iterations[-1].kl,
        win_rate=lab.win_rate(policy),
        nll_increase=text_nll(policy, lab.held_out_text) - lab.base_nll,
        seconds=time.monotonic() - started,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--votes", type=int, default=400)
    parser.add_argument("--preference", default="polite", choices=sorted(PREFERENCES))
    parser.add_argument("--models", type=Path, help="folder with pretrained/ and sft/ to use")
    arguments = parser.parse_args()
    product = torch.rand(1024, 1024)
    started = time.monotonic()
    for _ in range(10):
        product @ product
    print(f"10 products of 1024x1024: {time.monotonic() - started:.2f} s")
    print("seed  setting         RM acc  score first last   KL  win rate  text NLL  seconds")
    for seed in range(arguments.seeds):
        with TemporaryDirectory() as scratch:
            folder = arguments.models or Path(scratch)
            make_models(folder, seed)
            lab = Laboratory(folder, arguments.preference, seed)
            reward, report = lab.reward_model(lab.votes(arguments.votes), RewardSettings())
            for name in CONTROLS:
                row = run_setting(lab, reward, report, name, SMALL_PPO)
                print(
                    f"{row.seed:4}  {row.setting:14} {row.accuracy:7.2f} {row.first_score:11.2f} "
                    f"{row.last_score:5.2f} {row.kl:5.1f} {row.win_rate:8.2f} "
                    f"{row.nll_increase:+9.2f} {row.seconds:8.0f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
