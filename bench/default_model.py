"""Measure the default model's answers: subject, facts, grammar, variety, and what it declines.

    uv run --group smollm2 python -m bench.default_model [MODEL ...] [--show 10]

Each MODEL is a model folder; without one, the default model that is shipped. Prompts are held out
in two ways: wordings that the corpus does not have, about things that demonstrations ask about; and
things that no demonstration asks about (`Entity.held_out`), in the corpus's own wordings. Answers
are sampled at the temperature that the model is served with.

    about       answers that name the thing, or state a fact of it
    facts       sentences that state a fact in one of the corpus's forms, and state it right
    asked       answers to a question about one fact that state this fact
    declined    answers to questions about unknown things that say so
    declines    answers to questions about known things that say that it is unknown (none is best)
    distinct    different answers among four to one prompt
    loss        nats per token of SmolLM2-135M-Instruct on the answers, and on those of the corpus
    text NLL    nats per token of the model on held-out text of the corpus

Without the dependency group smollm2, the loss is left out.
"""

import argparse
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bench.questions import Asked, new_things, new_wordings, unknown_questions, usual_definitions
from bench.servers import machine
from deploy.errors import DeployError
from deploy.sizing.models import default_model, import_model
from learner.corpus import demonstrations
from learner.corpus.entities import Entity
from learner.corpus.text import plain_part, with_detail
from learner.data.tokenizer import encode_chat, encode_text, end_token_ids, pad_token_id
from learner.models.loading import load_model, load_tokenizer, sampling_temperature
from learner.pretraining.documents import held_out_text
from learner.pretraining.next_token import text_nll
from learner.sampling.sampler import TransformersSampler

_DECLINED = re.compile(
    r"\b(do not know|don't know|cannot answer|have not learned|never read about|new to me)\b",
    re.IGNORECASE,
)


@dataclass
class Score:
    """The answers to questions about known things, judged."""

    about: list[bool] = field(default_factory=list)
    facts: list[bool] = field(default_factory=list)
    asked: list[bool] = field(default_factory=list)
    declines: list[bool] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def share(flags: Iterable[bool]) -> float:
    found = list(flags)
    return mean(found) if found else float("nan")


@cache
def _forms(entity: Entity) -> tuple[tuple[re.Pattern[str], frozenset[str]], ...]:
    """Return patterns of the sentences that state a fact of the entity, and the right values."""
    found: dict[str, set[str]] = {}
    for attribute, value in zip(entity.category.attributes, entity.values, strict=True):
        right = {plain_part(value), with_detail(value, detailed=True)}
        for template in (*attribute.leads, attribute.follow):
            before, _, after = entity.fill(template).partition("{v}")
            pattern = f"{re.escape(before)}(.+){re.escape(after)}"
            found.setdefault(pattern, set()).update(right)
    return tuple((re.compile(pattern), frozenset(right)) for pattern, right in found.items())


def stated_facts(entity: Entity, answer: str) -> Iterator[bool]:
    """Yield for each sentence that states a fact in the corpus's forms whether it is right."""
    for sentence in re.split(r"(?<=[.!?])\s+", answer.strip()):
        if sentence.endswith("?"):
            continue
        values = [
            (match[1], right)
            for pattern, right in _forms(entity)
            if (match := pattern.fullmatch(sentence.rstrip(".!")))
        ]
        if values:
            yield any(value in right for value, right in values)


def names(entity: Entity, answer: str) -> bool:
    """Return whether the answer has the entity's name, in the singular or plural."""
    return any(
        re.search(rf"\b{re.escape(name)}\b", answer, re.IGNORECASE)
        for name in {entity.name, entity.many}
    )


class Model:
    """A model folder, and what it answers at the temperature that it is served with."""

    def __init__(self, folder: Path) -> None:
        self.model: PreTrainedModel = load_model(folder)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(folder)
        self._sampler = TransformersSampler(
            self.model,
            end_token_ids(self.tokenizer),
            pad=pad_token_id(self.tokenizer),
            batch=64,
        )

    def answer(self, asked: Sequence[str], n: int = 1, seed: int = 0) -> list[str]:
        """Return n answers to each prompt, those of one prompt next to each other."""
        rows = [
            encode_chat(self.tokenizer, [{"role": "user", "content": prompt}], answer=True)
            for prompt in asked
        ]
        temperature = sampling_temperature(self.model)
        samples = self._sampler.sample(rows, n, 128, temperature, seed)
        return [
            str(self.tokenizer.decode(s.token_ids, skip_special_tokens=True)).strip()
            for s in samples
        ]


def judge_answers(asked: Sequence[Asked], answers: Sequence[str]) -> Score:
    """Judge the answers to questions about known things."""
    score = Score()
    for each, answer in zip(asked, answers, strict=True):
        facts = list(stated_facts(each.entity, answer))
        about = names(each.entity, answer) or any(facts)
        value = each.entity.values[each.entity.category.attributes.index(each.attribute)]
        stated = plain_part(value) in answer
        declines = _DECLINED.search(answer) is not None
        score.about.append(about)
        score.facts += facts
        score.asked.append(stated)
        score.declines.append(declines)
        if not (about and stated and all(facts)):
            score.failures.append(f"{each.prompt}\n      {answer}")
    return score


@torch.no_grad()
def fluency(judge: Model, answers: Sequence[str]) -> float:
    """Return the mean loss of a language model on the answers, in nats per token."""
    total = count = 0.0
    for answer in answers:
        ids = torch.tensor([encode_text(judge.tokenizer, answer)])
        if ids.shape[1] < 2:
            continue
        logits = judge.model(input_ids=ids).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item()
        count += ids.shape[1] - 1
    return total / count


def load_judge(folder: Path) -> Model | None:
    """Return SmolLM2, or None if its package is not installed."""
    try:
        import_model("smollm2", folder)
    except DeployError as error:
        print(f"no loss: {error}")
        return None
    return Model(folder)


@dataclass
class Table:
    """Prints the figures of one model line by line, and keeps the prompts that failed."""

    model: Model
    failures: list[str] = field(default_factory=list)

    def known_things(self, rng: random.Random) -> None:
        """Print the judged answers to questions about known things, a line for each part."""
        print(f"{'':20}  about  facts  asked  declines  questions")
        parts = {
            "usual definitions": usual_definitions(rng, 200),
            "new wordings": new_wordings(rng, 200),
            "new things": new_things(rng, 4),
        }
        for name, asked in parts.items():
            score = judge_answers(asked, self.model.answer([each.prompt for each in asked]))
            figures = [share(f) for f in (score.about, score.facts, score.asked, score.declines)]
            print(f"{name:20}  " + "  ".join(f"{f:5.3f}" for f in figures) + f"  {len(asked):9d}")
            self.failures += [f"{name}: {failure}" for failure in score.failures]

    def declined(self) -> None:
        """Print the share of answers to questions about unknown things that say so."""
        asked = unknown_questions()
        self._print_share("declined", asked, [_DECLINED] * len(asked))

    def sums(self) -> None:
        """Print the share of right sums."""
        sums = [(a, b) for a in range(21) for b in range(21 - a)][::3]
        prompts = [f"What is {a} plus {b}?" for a, b in sums]
        self._print_share("sums", prompts, [re.compile(rf"\b{a + b}\b") for a, b in sums])

    def _print_share(
        self, name: str, prompts: Sequence[str], wanted: Sequence[re.Pattern[str]]
    ) -> None:
        answers = self.model.answer(prompts)
        right = [p.search(answer) is not None for p, answer in zip(wanted, answers, strict=True)]
        print(f"{name} {share(right):.3f} of {len(prompts)}")
        self.failures += [
            f"{name}: {prompt}\n      {answer}"
            for prompt, answer, ok in zip(prompts, answers, right, strict=True)
            if not ok
        ]

    def language(self, judge: Model | None) -> None:
        """Print how varied and how fluent answers are, and the loss on text."""
        drawn = list(islice(demonstrations(seed=77), 300))
        four = self.model.answer([each.prompt for each in drawn[:100]], n=4)
        distinct = mean(len(set(four[i : i + 4])) / 4 for i in range(0, len(four), 4))
        nll = text_nll(self.model.model, held_out_text(self.model.tokenizer))
        print(f"distinct {distinct:.3f}; text NLL {nll:.3f}")
        if judge is not None:
            own = fluency(judge, self.model.answer([each.prompt for each in drawn]))
            reference = fluency(judge, [each.response for each in drawn])
            print(
                f"loss {own:.3f}, of the corpus's answers {reference:.3f}: {own - reference:+.3f}"
            )


def measure(folder: Path, judge: Model | None, show: int) -> None:
    """Print the figures of one model, and the prompts that failed."""
    table = Table(Model(folder))
    parameters = sum(p.numel() for p in table.model.model.parameters())
    print(f"\n{folder}: {parameters:,} parameters")
    table.known_things(random.Random(7))
    table.declined()
    table.sums()
    table.language(judge)
    for failure in random.Random(1).sample(table.failures, min(show, len(table.failures))):
        print(f"  {failure}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, default=[default_model()])
    parser.add_argument("--show", type=int, default=1000, help="failures to print")
    options = parser.parse_args()
    print(machine())
    with TemporaryDirectory() as folder:
        judge = load_judge(Path(folder) / "smollm2")
        for model in options.models:
            measure(model, judge, options.show)


if __name__ == "__main__":
    main()
