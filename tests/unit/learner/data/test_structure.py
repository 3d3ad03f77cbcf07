"""Structural features of answers."""

import math

import pytest
import torch

from learner.data.structure import STRUCTURE_SIZE, structure, structures


def test_features_are_counted() -> None:
    answer = "- Green tea is hot!\n- Is green tea, hot? Green tea is hot"
    *counts, repeated, overlap, ended = structure("What is green about tomatoes?", answer)[:9]
    assert counts == pytest.approx([math.log1p(n) for n in (12, 2, 1, 1, 1, 2)])
    # green tea, tea is, is hot: these come again, the first of them twice.
    assert repeated == pytest.approx(4 / 11)
    assert overlap == pytest.approx(1 / 4), "of what, green, about, tomatoes"
    assert ended == 0.0
    assert structure("Hi", "Hello.")[8] == 1.0


@pytest.mark.parametrize(("words", "expected"), [(0, {0: 1.0}), (22, {4: 0.5, 5: 0.5})])
def test_the_length_is_piecewise_linear(words: int, expected: dict[int, float]) -> None:
    lengths = structure("Hi", "a " * words)[9:20]
    assert {i: value for i, value in enumerate(lengths) if value} == pytest.approx(expected)
    assert sum(structure("Hi", "a " * 5000)[9:20]) == 1.0


@pytest.mark.parametrize(("sentences", "expected"), [(2, {2: 1.0}), (5, {4: 0.5, 5: 0.5})])
def test_the_number_of_sentences_is_piecewise_linear(
    sentences: int, expected: dict[int, float]
) -> None:
    counts = structure("Hi", "Yes. " * sentences)[-7:]
    assert {i: value for i, value in enumerate(counts) if value} == pytest.approx(expected)


def test_a_linear_model_can_prefer_a_medium_length_and_another_for_other_prompts() -> None:
    """Least squares fits a best length that is 12 words after short prompts and 38 after long."""
    cases = [(p, n) for p in (1, 24) for n in range(60)]
    features = structures(["a " * p for p, _ in cases], ["b " * n for _, n in cases])
    assert features.shape == (len(cases), STRUCTURE_SIZE)
    utility = torch.tensor([-abs(n - (12 if p == 1 else 38)) / 10 for p, n in cases])
    solved = torch.linalg.lstsq(features, utility[:, None], driver="gelsd").solution
    assert (features @ solved).squeeze(-1).sub(utility).abs().max() < 0.3
