"""The probe: reliabilities from votes of every kind, and the states that it reads."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from transformers import PreTrainedModel

from learner.data.owner_bound import OwnerBound
from learner.data.preferences import PreferenceExample
from learner.errors import Interrupted
from learner.reward.probe import ProbeResult, probe
from learner.reward.reliability import Reliabilities
from tests.support.tiny import END, answer_features

LIKED, DISLIKED = 99, 98


def probe_examples(model: PreTrainedModel, examples: list[PreferenceExample]) -> ProbeResult:
    return probe(answer_features(model), examples)


def reliabilities_of(model: PreTrainedModel, examples: list[PreferenceExample]) -> Reliabilities:
    return probe_examples(model, examples).reliabilities


def answer(rng: random.Random, *, liked: bool) -> tuple[int, ...]:
    """Return neutral tokens, one token that people like or dislike, and the end token."""
    words = [rng.randrange(110, 150) for _ in range(rng.randrange(1, 6))]
    words.insert(rng.randrange(len(words) + 1), LIKED if liked else DISLIKED)
    return (*words, END)


def vote_of(
    rng: random.Random, kind: str, rater: str, key: int, *, lies: bool, noise: float = 0.1
) -> PreferenceExample:
    prompt = (2, 50 + key % 40, 3)
    inverted = lies ^ (rng.random() < noise)
    if kind == "thumb":
        liked = rng.random() < 0.5
        own, ranks, approvals = [answer(rng, liked=liked)], (), (float(liked ^ inverted),)
    else:
        likes = [True, False] if kind == "pair" else [True, False, False, True]
        rng.shuffle(likes)
        own, approvals = [answer(rng, liked=liked) for liked in likes], ()
        ranks = tuple(int(liked ^ (not inverted)) for liked in likes)
    sequences = tuple((*prompt, *one) for one in own)
    return PreferenceExample(str(key), sequences, tuple(map(len, own)), ranks, approvals, rater)


def votes_of_ten(
    kind: str, lies: Callable[[int, random.Random], bool], count: int = 200
) -> list[PreferenceExample]:
    """Return votes of ten raters in turns."""
    rng = random.Random(1)
    return [vote_of(rng, kind, f"{i % 10}", i, lies=lies(i % 10, rng)) for i in range(count)]


@pytest.mark.parametrize("kind", ["pair", "ranking", "thumb"])
def test_four_hostile_raters_in_ten_are_found(model: PreTrainedModel, kind: str) -> None:
    reliabilities = reliabilities_of(model, votes_of_ten(kind, lambda rater, _: rater < 4))
    assert all(reliabilities.of(f"{rater}") < 0.45 for rater in range(4))
    assert all(reliabilities.of(f"{rater}") > 0.75 for rater in range(4, 10))


def test_a_random_rater_has_little_weight(model: PreTrainedModel) -> None:
    reliabilities = reliabilities_of(
        model, votes_of_ten("pair", lambda rater, rng: rater == 3 and rng.random() < 0.5)
    )
    assert reliabilities.weight("3") < 0.5
    assert min(reliabilities.weight(f"{rater}") for rater in range(10) if rater != 3) > 0.6


def test_no_rater_is_unreliable_if_nothing_can_be_predicted(model: PreTrainedModel) -> None:
    result = probe_examples(model, votes_of_ten("pair", lambda _, rng: rng.random() < 0.5))
    assert result.reliabilities.count_unreliable() == 0
    assert result.gain_lower_bound <= 0


def test_invented_users_of_one_key_are_one_unreliable_rater(model: PreTrainedModel) -> None:
    """Ten keys vote ten times; one key votes 300 times under as many names, and lies."""
    rng = random.Random(2)
    honest = [vote_of(rng, "pair", f"key{i % 10}/x", i, lies=False) for i in range(100)]
    lies = [vote_of(rng, "pair", f"sybil/user{i}", i, lies=True) for i in range(300)]
    assert reliabilities_of(model, [*honest, *lies]).of("key1/x") < 0.5, "without the bound"
    result = probe_examples(model, OwnerBound().weigh([*honest, *lies]))
    assert result.reliabilities.of("sybil/") < 0.5
    assert min(result.reliabilities.of(f"key{i}/") for i in range(10)) > 0.75
    assert result.gain_lower_bound > 0.1


@pytest.mark.parametrize("seed", range(3))
def test_a_high_share_of_approvals_is_no_gain(model: PreTrainedModel, seed: int) -> None:
    """Rated answers have other words than compared ones, which could be mistaken for the reason."""
    rng = random.Random(seed)
    votes = []
    for place, vote in enumerate(votes_of_ten("pair", lambda _, __: rng.random() < 0.5)):
        if place % 2:
            words = (2, 60, 3, *(rng.randrange(200, 240) for _ in range(4)), END)
            up = float(rng.random() < 0.9)
            vote = replace(vote, sequences=(words,), lengths=(5,), ranks=(), approvals=(up,))
        votes.append(vote)
    assert probe_examples(model, votes).gain_lower_bound <= 0


@pytest.mark.parametrize("kind", ["pair", "ranking", "thumb"])
@pytest.mark.parametrize("raters", [1, 10])
def test_what_raters_agree_on_is_predicted(model: PreTrainedModel, kind: str, raters: int) -> None:
    votes = votes_of_ten(kind, lambda _, __: False, 60)
    result = probe_examples(model, [replace(e, rater=f"{i % raters}") for i, e in enumerate(votes)])
    assert result.gain_lower_bound > 0.1


@pytest.mark.parametrize("others", ["both bad", "thumbs down"])
def test_a_rater_who_approves_more_than_others_contradicts_nobody(
    model: PreTrainedModel, others: str
) -> None:
    """Nothing shows that the approved answers are those that the others disliked."""
    votes = votes_of_ten("pair", lambda _, rng: rng.random() < 0.5)
    for place, vote in enumerate(votes):
        if vote.rater == "0":
            up = vote.sequences[:1], vote.lengths[:1]
            votes[place] = replace(vote, sequences=up[0], lengths=up[1], ranks=(), approvals=(1.0,))
        elif others == "thumbs down":
            down = vote.sequences[1:], vote.lengths[1:]
            votes[place] = replace(
                vote, sequences=down[0], lengths=down[1], ranks=(), approvals=(0.0,)
            )
        elif place % 3 == 0:
            votes[place] = replace(vote, ranks=(0, 0), approvals=(0.0, 0.0))
    assert reliabilities_of(model, votes).of("0") > 0.7


def test_without_other_raters_nobody_is_contradicted(model: PreTrainedModel) -> None:
    alone = [replace(e, rater="one") for e in votes_of_ten("pair", lambda _, rng: True, 40)]
    assert reliabilities_of(model, alone).of("one") == pytest.approx(Reliabilities().of("one"))
    assert reliabilities_of(model, []).count_unreliable() == 0


def test_the_same_votes_give_the_same_reliabilities(model: PreTrainedModel) -> None:
    votes = votes_of_ten("pair", lambda rater, _: rater < 3, 60)
    first, second = reliabilities_of(model, votes), reliabilities_of(model, votes)
    assert [first.of(f"{rater}") for rater in range(10)] == [
        second.of(f"{rater}") for rater in range(10)
    ]


def test_the_search_can_be_interrupted(model: PreTrainedModel) -> None:
    def stop() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        probe(answer_features(model), votes_of_ten("pair", lambda _, __: False, 20), stop)
