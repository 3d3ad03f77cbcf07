"""The users of one key count for few votes together; those of others are not affected."""

import pytest

from learner.data.owner_bound import (
    MAX_OWNER_VOTES,
    OwnerBound,
    effective_votes,
    relative_weights,
)
from learner.data.preferences import PreferenceExample
from learner.settings import LearnerSettings, RewardSettings


def votes(owner: str, count: int, users: int = 1) -> list[PreferenceExample]:
    return [
        PreferenceExample(str(i), ((1, 2),), (1,), (), (1.0,), f"{owner}/user{i % users}")
        for i in range(count)
    ]


def test_invented_users_count_for_the_bound_together_and_are_one_rater() -> None:
    weighed = OwnerBound(8).weigh([*votes("sybil", 600, users=600), *votes("anna", 5)])
    assert effective_votes(weighed[:600]) == 8
    assert {example.weight for example in weighed[:600]} == {8 / 600}
    assert {example.rater for example in weighed} == {"sybil/", "anna/"}
    assert effective_votes(weighed[600:]) == 5, "few votes count in full"


@pytest.mark.parametrize("owner", ["local", "import", "service"])
def test_trusted_users_all_count(owner: str) -> None:
    examples = votes(owner, 200, users=200)
    assert OwnerBound(8, frozenset({"service"})).weigh(examples) == examples
    assert effective_votes(examples) == 200


def test_weighing_again_changes_nothing_and_a_subset_is_weighed_by_itself() -> None:
    weighed = OwnerBound(8).weigh(votes("anna", 40))
    assert OwnerBound(8).weigh(weighed) == weighed
    assert effective_votes(OwnerBound(8).weigh(weighed[:10])) == 8


def test_examples_of_unknown_raters_are_not_bounded() -> None:
    example = PreferenceExample("0", ((1, 2),), (1,))
    assert OwnerBound(1).weigh([example] * 9) == [example] * 9


def test_weights_are_relative_to_the_largest() -> None:
    alike = OwnerBound(8).weigh([*votes("anna", 80), *votes("bert", 80)])
    assert relative_weights(alike) == [1.0] * 160
    unlike = OwnerBound(8).weigh([*votes("anna", 16), *votes("bert", 64)])
    assert relative_weights(unlike) == [1.0] * 16 + [0.25] * 64
    assert relative_weights([]) == []


def test_a_trial_admits_the_first_votes_of_each_owner() -> None:
    admitted = OwnerBound(2, frozenset({"service"})).admit(
        ["sybil", "anna", "sybil", "sybil", "local", "local", "local", *["service"] * 3, "anna"]
    )
    assert admitted == [True, True, True, False, *[True] * 7]


def test_one_key_alone_never_trains_a_model() -> None:
    assert LearnerSettings().max_owner_votes == MAX_OWNER_VOTES < RewardSettings().min_train
