"""The corpus: correct, varied along independent axes, deterministic, and small in vocabulary."""

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import combinations, islice
from statistics import correlation, mean, quantiles

import pytest

from bench.questions import NEW_DEFINITIONS, NEW_INDIRECT, UNKNOWN_THINGS
from learner.corpus import (
    Demonstration,
    conversations,
    demonstrations,
    pretraining_documents,
    prompts,
)
from learner.corpus.compose import Style, compose
from learner.corpus.entities import asked_entities, entities
from learner.corpus.kinds.facts import fact_content, fact_prompt, fact_question
from learner.corpus.kinds.howtos import howtos
from learner.corpus.kinds.sums import sum_question, sum_text
from learner.corpus.kinds.told import invented, told_question
from learner.corpus.tables import wordings, words
from learner.corpus.text import join_and, lower_first, plain_part, with_detail

POLITE = re.compile(r"please|thank you|welcome|kindly|happy to help|hope this helps", re.IGNORECASE)
WORD = re.compile(r"[a-z']+")
# SHA-256 of the first demonstrations.
FIRST = "221167ac6717e7eff109bdf6ac7b1962e6ee2a265ef6405ac2dea5eb6e1c7f83"


@pytest.fixture(scope="module")
def sample() -> list[Demonstration]:
    return list(islice(demonstrations(seed=1), 6000))


@pytest.fixture(scope="module")
def documents() -> list[str]:
    return list(islice(pretraining_documents(seed=1), 12000))


def band(demonstration: Demonstration) -> str:
    return demonstration.style.split(": ")[1].split("+")[0]


def axes(demonstration: Demonstration) -> dict[str, float]:
    """The axes as anybody can read them off the text."""
    text = demonstration.response
    return {
        "polite": float(bool(POLITE.search(text))),
        "question": float(text.endswith("?")),
        "excited": float("!" in text),
    }


@pytest.mark.parametrize("stream", [demonstrations, conversations, pretraining_documents])
def test_streams_repeat_for_a_seed_and_differ_between_seeds(
    stream: Callable[[int], Iterator[object]],
) -> None:
    first = list(islice(stream(3), 200))
    assert first == list(islice(stream(3), 200))
    assert first != list(islice(stream(4), 200))


def test_streams_are_the_same_on_every_machine() -> None:
    # A changed corpus is a changed model: let it be on purpose.
    first = "\n".join(f"{each.prompt} {each.response}" for each in islice(demonstrations(), 200))
    assert hashlib.sha256(first.encode()).hexdigest() == FIRST


def test_responses_are_one_line_of_ascii_and_of_bounded_length(
    sample: list[Demonstration],
) -> None:
    for each in sample:
        assert each.prompt.strip()
        assert each.response.isascii()
        assert each.prompt.isascii()
        assert "\n" not in each.response
        assert "|" not in each.response
        assert "{" not in each.response
        assert 2 <= len(each.response.split()) <= 90
        assert each.response[0].isupper() or each.response[0].isdigit()
        assert each.response[-1] in ".!?"
        assert "  " not in each.response
        assert ".." not in each.response
        assert not set("{}|/") & set(each.prompt)


def test_articles_fit_their_nouns(sample: list[Demonstration], documents: list[str]) -> None:
    text = "\n".join([each.response for each in sample] + documents).lower()
    assert not re.findall(r"\ba (?!one\b|ewe\b)(?:[aeio]\w+|umbrella)\b", text)
    assert not re.findall(r"\ban (?!hour)[^aeiou\W]\w*", text)


def test_it_never_stands_for_a_plural(sample: list[Demonstration], documents: list[str]) -> None:
    counted = [entity for entity in entities() if entity.category.name in ("animal", "job")]
    plurals = "|".join(entity.many.capitalize() for entity in counted if entity.many != "fish")
    verbs = "eat|live|have|can|are able|like|work|need|mostly"
    followed = re.compile(rf"\b(?:{plurals}) (?:{verbs}) [^.!?]*[.!?] (?:It|This person) ")
    asked = [each.response for each in sample if each.style.startswith(("fact", "opinion"))]
    for text in asked + documents:
        assert not followed.search(text), text


def test_lengths_spread(sample: list[Demonstration]) -> None:
    lengths = [len(each.response.split()) for each in sample]
    deciles = quantiles(lengths, n=10)
    assert 24 <= mean(lengths) <= 30
    assert min(lengths) <= 4
    assert deciles[0] <= 11
    assert deciles[8] >= 42
    assert max(lengths) >= 60


def test_axes_have_the_stated_rates(sample: list[Demonstration]) -> None:
    rates = {name: mean(axes(each)[name] for each in sample) for name in axes(sample[0])}
    assert 0.30 <= rates["polite"] <= 0.35
    assert 0.30 <= rates["question"] <= 0.35
    assert 0.37 <= mean("detailed" in each.style for each in sample) <= 0.55
    assert 0.15 <= rates["excited"] <= 0.25
    bands = Counter(map(band, sample))
    assert all(0.15 < bands[name] / len(sample) < 0.55 for name in ("short", "medium", "long"))


@pytest.mark.parametrize("name", ["short", "medium", "long"])
def test_axes_are_uncorrelated_within_a_band_of_length(
    sample: list[Demonstration], name: str
) -> None:
    rows = [axes(each) for each in sample if band(each) == name]
    for one, other in combinations(rows[0], 2):
        r = correlation([row[one] for row in rows], [row[other] for row in rows])
        assert abs(r) < 0.09, (one, other, r)


def test_style_tags_say_what_the_text_shows(sample: list[Demonstration]) -> None:
    assert all(("question" in each.style) == bool(axes(each)["question"]) for each in sample)
    # A few answers of small talk are polite by their content.
    wrong = [each for each in sample if ("polite" in each.style) != bool(axes(each)["polite"])]
    assert len(wrong) <= 0.02 * len(sample)
    assert all("polite" not in each.style for each in wrong)


def test_one_prompt_gets_many_responses(sample: list[Demonstration]) -> None:
    by_prompt: dict[str, list[str]] = {}
    for each in islice(demonstrations(seed=2), 60000):
        by_prompt.setdefault(each.prompt, []).append(each.response)
    often = [responses for responses in by_prompt.values() if len(responses) >= 12]
    assert len(often) > 60
    assert mean(len(set(responses)) / len(responses) for responses in often) > 0.8


def test_facts_are_about_the_thing_that_was_asked() -> None:
    rng = random.Random(4)
    for _ in range(4000):
        draft = fact_question(rng)
        assert draft.topic is not None
        assert draft.attribute is not None
        value = draft.topic.values[draft.topic.category.attributes.index(draft.attribute)]
        for detailed in (False, True):
            style = Style(1, polite=False, detailed=detailed, question=False, tone="plain")
            answer, _ = compose(rng, draft.content, style)
            assert with_detail(value, detailed=detailed) in answer, (draft.prompt, answer)


def test_facts_occur_in_the_pretraining_text() -> None:
    text = "\n".join(islice(pretraining_documents(seed=1), 40_000))
    values = [value for entity in entities() for value in entity.values]
    for value in random.Random(2).sample(values, 150):
        assert plain_part(value) in text, value
    for howto in howtos():
        assert plain_part(howto.summary) in text, howto.goal


def test_every_value_has_a_detail_and_every_entity_is_there_once() -> None:
    for entity in entities():
        for value in entity.values:
            plain, _, detail = value.partition(" | ")
            assert plain, entity.one
            assert detail, (entity.one, value)
    assert len(entities()) >= 1000
    assert len({entity.one for entity in entities()}) == len(entities())


def test_nothing_asks_about_held_out_things_but_articles_state_their_facts(
    documents: list[str],
) -> None:
    held_out = [entity for entity in entities() if entity.held_out]
    assert 0.02 <= len(held_out) / len(entities()) <= 0.05
    assert not {entity.one for entity in held_out} & {entity.one for entity in asked_entities()}
    asked = "\n".join(each.prompt for each in islice(demonstrations(seed=5), 20_000)).lower()
    text = "\n".join(documents)
    questions = re.findall(r"[^.!?:\n]*\?", text.lower())
    for entity in held_out:
        wordings_of = [q for q in questions if re.search(rf"\b{re.escape(entity.one)}\b", q)]
        assert not any(f"what is {entity.one}?" in each for each in wordings_of), entity.one
        if entity.countable:
            assert re.search(rf"\b{re.escape(entity.many)}\b", text, re.IGNORECASE), entity.one
        assert f"what is {entity.one}\n" not in asked.replace("?", "").replace(".", "")
        assert any(plain_part(value) in text for value in entity.values), entity.one


def test_questions_in_the_plural_are_about_things_that_can_be_counted() -> None:
    rng = random.Random(1)
    for entity in asked_entities():
        for attribute in entity.category.attributes:
            if not entity.countable and entity.category.name != "color":
                prompt = fact_prompt(rng, entity, attribute)
                assert not re.search(rf"\b(are|do) {re.escape(entity.many)}\b", prompt)


def test_sums_are_right_and_at_most_twenty() -> None:
    rng = random.Random(3)
    for _ in range(2000):
        draft = sum_question(rng)
        first, second = map(int, re.findall(r"\d+", draft.prompt))
        minus = "minus" in draft.prompt or "-" in draft.prompt
        result = first - second if minus else first + second
        assert 0 <= result <= 20
        assert re.search(rf"\b{result}\b", draft.content.by_length[0][0]), draft


def test_every_sum_is_drawn_about_as_often_as_every_difference() -> None:
    rng = random.Random(8)
    drawn = Counter(sum_text(rng).replace("+", "plus").replace("-", "minus") for _ in range(40_000))
    for text in drawn:
        first, verb, second, result = re.fullmatch(
            r"(\d+) (plus|minus) (\d+) (?:is|=) (\d+)", text
        ).groups()  # type: ignore[union-attr]
        expected = int(first) + int(second) * (1 if verb == "plus" else -1)
        assert int(result) == expected
    pairs = Counter(text.replace("=", "is") for text in drawn.elements())
    assert len(pairs) == 2 * 231
    assert 0.52 <= sum(n for text, n in pairs.items() if "plus" in text) / 40_000 <= 0.58


def test_told_answers_take_the_name_and_the_fact_from_the_question() -> None:
    known = {name.lower() for entity in entities() for name in (entity.name, entity.many)}
    for seed in range(800):
        thing = invented(random.Random(seed))
        draft = told_question(random.Random(seed))
        assert thing.name.lower() not in known
        for line in draft.content.by_length[-1]:
            assert thing.name.lower() in line.lower(), draft
            values = [plain_part(value) for value in thing.values]
            assert any(value in line and value in draft.prompt for value in values), draft


def test_the_vocabulary_is_small_and_shared(
    sample: list[Demonstration], documents: list[str]
) -> None:
    plain = [each for each in sample if not each.style.startswith(("unknown", "told"))]
    responses = {word for each in plain for word in WORD.findall(each.response.lower())}
    asked = {word for each in plain for word in WORD.findall(each.prompt.lower())}
    written = {word for text in documents for word in WORD.findall(text.lower())}
    known = [text for text in documents if "Plaudit:" not in text]
    told = {word for text in known for word in WORD.findall(text.lower())}
    assert 6000 <= len(told | responses | asked) <= 9000
    assert len(responses - written) <= 0.1 * len(responses)  # the sample is finite
    assert len(asked - written) <= 0.1 * len(asked)


def test_questions_without_an_answer_are_admitted_in_many_words(
    sample: list[Demonstration],
) -> None:
    unknown = [each for each in sample if each.style.startswith("unknown")]
    assert 0.12 <= len(unknown) / len(sample) <= 0.15
    assert all(
        re.search(r"sorry|do not know|cannot answer|have not learned", each.response, re.I)
        for each in unknown
    )
    assert len({each.prompt.lower() for each in unknown}) > 0.85 * len(unknown)
    known = {name.lower() for entity in entities() for name in (entity.name, entity.many)}
    unknown_words = (*words("unknown_nouns"), *words("person_names"), *words("place_names"))
    assert not set(map(str.lower, unknown_words)) & known


def test_the_benchmark_asks_in_other_words() -> None:
    lists = ("usual_definitions", "definitions", "indirect")
    own = {wording.lower() for name in lists for wording in wordings(name)}
    assert not {each.lower() for each in (*NEW_DEFINITIONS, *NEW_INDIRECT)} & own
    known = {each.name.lower() for each in entities()} | set(words("unknown_nouns"))
    assert not {re.sub("^an? ", "", thing) for thing in UNKNOWN_THINGS} & known


def test_prompt_splits_are_disjoint_sorted_and_known() -> None:
    vote, evaluation = prompts("vote"), prompts("eval")
    assert len(vote) >= 400
    assert len(evaluation) >= 100
    for split in (vote, evaluation):
        assert split == sorted(set(split))
        assert sum("do not know that" in prompt for prompt in split) == 0

    def words(split: list[str]) -> set[str]:
        return {
            " ".join(re.findall(r"[a-z0-9]+", prompt.lower().replace("'", ""))) for prompt in split
        }

    # Upper case and punctuation must not smuggle a prompt into the other split.
    assert not (words(vote) & words(evaluation)) - {""}
    assert prompts("vote") == vote
    assert prompts("vote") is not vote


def test_another_split_is_an_error() -> None:
    with pytest.raises(ValueError, match="'test'"):
        prompts("test")  # type: ignore[arg-type]


def test_conversations_alternate_and_end_with_the_assistant() -> None:
    drawn = list(islice(conversations(seed=1), 2000))
    for messages in drawn:
        roles = [message["role"] for message in messages if message["role"] != "system"]
        assert roles == ["user", "assistant"] * (len(messages) // 2)
        assert all(message["role"] != "system" for message in messages[1:])
        assert 1 <= len(roles) // 2 <= 4
        assert all(message["content"].isascii() and message["content"] for message in messages)
    with_system = mean(messages[0]["role"] == "system" for messages in drawn)
    assert 0.04 <= with_system <= 0.09
    assert 0.65 <= mean(len(messages) in (2, 3) for messages in drawn) <= 0.77


def test_thanks_are_answered_and_more_is_about_the_same_thing() -> None:
    values: dict[str, set[str]] = {}
    for entity in entities():
        for value in entity.values:
            values.setdefault(plain_part(value), set()).add(entity.one)
    welcomed = followed = 0
    for messages in islice(conversations(seed=2), 3000):
        texts = [message["content"] for message in messages if message["role"] != "system"]
        for question, answer in zip(texts[::2], texts[1::2], strict=True):
            welcomed += "thank" in question.lower() and "You are welcome" in answer
        if len(texts) == 4 and re.search(r"\bmore\b", texts[2]):
            first, second = (
                set[str]().union(*(names for value, names in values.items() if value in text))
                for text in (texts[1], texts[3])
            )
            if first and second:
                followed += 1
                assert first & second, texts
    assert welcomed > 20
    assert followed > 20


def test_helpers_write_english() -> None:
    assert with_detail("fish | such as tuna", detailed=True) == "fish, such as tuna"
    assert with_detail("sleeps | for 5 hours", detailed=True) == "sleeps for 5 hours"
    assert with_detail("fish | such as tuna", detailed=False) == "fish"
    assert join_and(["a"]) == "a"
    assert join_and(["a", "b", "c"]) == "a, b and c"
    assert lower_first("A cat") == "a cat"
    assert lower_first("I know") == "I know"


def test_a_plural_gives_way_where_the_value_is_singular() -> None:
    lion = next(entity for entity in entities() if entity.one == "a lion")
    look = lion.category.attributes[4]
    for seed in range(20):
        first = fact_content(random.Random(seed), lion, look).by_length[0][0]
        assert first.startswith(("A lion has", "It has"))
        assert first.endswith("it hunts big animals")
