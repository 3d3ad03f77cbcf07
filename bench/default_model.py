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

from bench.servers import machine
from deploy.errors import DeployError
from deploy.sizing.models import default_model, import_model
from learner.corpus import demonstrations
from learner.corpus.answers import fact_prompt
from learner.corpus.categories import Attribute
from learner.corpus.entities import Entity, asked_entities, entities
from learner.corpus.text import plain_part, with_detail
from learner.data.tokenizer import encode_chat, encode_text, end_token_ids, pad_token_id
from learner.models.loading import load_model, load_tokenizer, sampling_temperature
from learner.pretraining.documents import held_out_text
from learner.pretraining.next_token import text_nll
from learner.sampling.sampler import TransformersSampler

# Wordings that the corpus does not have.
NEW_DEFINITIONS = (
    "In a few words, what is {one}?",
    "My son asked me what {one} is. What do I say?",
    "I have never heard of {one}. What is it?",
    "Could you tell me a bit about {many}?",
    "Help me understand what {one} is.",
    "What would you say about {many}?",
    "How would you explain {one} to a child?",
    "Say something about {many}, please.",
    "I am curious about {many}.",
    "Any idea what {one} is?",
)
NEW_INDIRECT = (
    "My daughter wants to know {}.",
    "Any idea {}?",
    "I forgot {}.",
    "Could you please say {}?",
    "Help me understand {}.",
    "I was asked {} today.",
)
# Things that neither the facts nor the unknown words of the corpus have.
UNKNOWN_THINGS = (
    *("a flumbozzle", "a narwhal tusk carving", "a trebuchet", "a sphygmomanometer", "a zamboni"),
    *("a gazebo permit", "a zither concerto", "a bassoon reed", "kombucha brewing", "a hovercraft"),
    *("a theremin", "a sextant", "an astrolabe", "a didgeridoo", "a blimp", "origami folding"),
    *("stoicism", "entropy", "a tesseract", "a mitochondrion", "plasma physics", "blockchain"),
    *("feudalism", "macroeconomics", "a fjord horse", "tectonic drift", "game theory", "a loom"),
    *("a quokka", "an axolotl", "a tapir", "a cassowary", "a pangolin", "a lemur", "an okapi"),
)
UNKNOWN_WORDINGS = (
    "What is {}?",
    "Tell me about {}.",
    "Can you explain {}?",
    "what is {}",
    "What do you know about {}?",
)
UNKNOWN_QUESTIONS = (
    "Who won the match yesterday?",
    "What is the weather in Nairobi right now?",
    "How much is a flight to Denver?",
    "Who is Marie Tussaud?",
    "Who was Genghis Khan?",
    "What did Aristophanes write?",
    "What is the population of Winnipeg?",
    "Where is Timbuktu?",
    "What is 482 times 77?",
    "What is the square root of 169?",
    "Write a Java class that reads a file.",
    "What is my phone number?",
    "Which party should I vote for?",
    "Translate good night into Finnish.",
    "When does the next train leave?",
)
_DECLINED = re.compile(
    r"\b(do not know|don't know|cannot answer|have not learned|never read about|new to me)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Asked:
    """A question about an attribute of an entity."""

    prompt: str
    entity: Entity
    attribute: Attribute


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


def new_wordings(rng: random.Random, count: int) -> list[Asked]:
    """Draw questions about things that demonstrations ask about, in wordings that are new."""
    found = []
    for entity in rng.sample(asked_entities(), count):
        what, *others = entity.category.attributes
        attribute = what if rng.random() < 0.5 else rng.choice(others)
        if attribute is what:
            prompt = entity.fill(rng.choice(NEW_DEFINITIONS))
        else:
            prompt = rng.choice(NEW_INDIRECT).format(entity.fill(attribute.offer))
        found.append(Asked(prompt, entity, attribute))
    return found


def new_things(rng: random.Random, each: int) -> list[Asked]:
    """Draw questions about things that no demonstration asks about, in the corpus's wordings."""
    return [
        Asked(fact_prompt(rng, entity, attribute), entity, attribute)
        for entity in entities()
        if entity.held_out
        for attribute in rng.sample(entity.category.attributes, each)
    ]


def usual_definitions(rng: random.Random, count: int) -> list[Asked]:
    """Draw 'What is X?' about things that demonstrations ask about."""
    chosen = rng.sample([each for each in asked_entities() if each.category.name != "job"], count)
    return [
        Asked(entity.fill("What is {one}?"), entity, entity.category.attributes[0])
        for entity in chosen
    ]


def unknown_questions() -> list[str]:
    asked = [
        UNKNOWN_WORDINGS[at % len(UNKNOWN_WORDINGS)].format(thing)
        for at, thing in enumerate(UNKNOWN_THINGS)
    ]
    return [*asked, *UNKNOWN_QUESTIONS]


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


def measure(folder: Path, judge: Model | None, show: int) -> None:
    """Print the figures of one model, and the prompts that failed."""
    model = Model(folder)
    rng = random.Random(7)
    parts = {
        "usual definitions": usual_definitions(rng, 200),
        "new wordings": new_wordings(rng, 200),
        "new things": new_things(rng, 4),
    }
    print(f"\n{folder}: {sum(p.numel() for p in model.model.parameters()):,} parameters")
    print(f"{'':20}  about  facts  asked  declines  questions")
    failures: list[str] = []
    for name, asked in parts.items():
        score = judge_answers(asked, model.answer([each.prompt for each in asked]))
        figures = [share(f) for f in (score.about, score.facts, score.asked, score.declines)]
        print(f"{name:20}  " + "  ".join(f"{f:5.3f}" for f in figures) + f"  {len(asked):9d}")
        failures += [f"{name}: {failure}" for failure in score.failures]
    unknown = unknown_questions()
    replies = model.answer(unknown)
    declined = [_DECLINED.search(reply) is not None for reply in replies]
    failures += [
        f"unknown: {question}\n      {reply}"
        for question, reply, right in zip(unknown, replies, declined, strict=True)
        if not right
    ]
    sums = [(a, b) for a in range(21) for b in range(21 - a)][::3]
    sum_prompts = [f"What is {a} plus {b}?" for a, b in sums]
    sum_answers = model.answer(sum_prompts)
    right = [
        re.search(rf"\b{a + b}\b", answer) is not None
        for (a, b), answer in zip(sums, sum_answers, strict=True)
    ]
    failures += [
        f"sum: {prompt}\n      {answer}"
        for prompt, answer, ok in zip(sum_prompts, sum_answers, right, strict=True)
        if not ok
    ]
    drawn = list(islice(demonstrations(seed=77), 300))
    four = model.answer([each.prompt for each in drawn[:100]], n=4)
    distinct = mean(len(set(four[i : i + 4])) / 4 for i in range(0, len(four), 4))
    print(
        f"declined {share(declined):.3f} of {len(unknown)}; sums {share(right):.3f} of {len(sums)}"
    )
    nll = text_nll(model.model, held_out_text(model.tokenizer))
    print(f"distinct {distinct:.3f}; text NLL {nll:.3f}")
    if judge is not None:
        own = fluency(judge, model.answer([each.prompt for each in drawn]))
        reference = fluency(judge, [each.response for each in drawn])
        print(f"loss {own:.3f}, of the corpus's answers {reference:.3f}: {own - reference:+.3f}")
    for failure in random.Random(1).sample(failures, min(show, len(failures))):
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
