"""Bound what the users of one API key weigh, so that nobody steers the policy by inventing users.

A key may name any number of users, so the votes of all its users together count as a few votes at
most: in each set of training examples by smaller weights, in a trial by its first votes only. Keys
whose users are trusted, operators' keys, and callers where no key is required are not bounded.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from feedback.privacy.identity import IMPORT_OWNER, LOCAL_OWNER
from learner.data.preferences import PreferenceExample

MAX_OWNER_VOTES: Final = 6  # below `min_train`, so that one key alone trains no model
_UNBOUNDED: Final = frozenset({LOCAL_OWNER, IMPORT_OWNER})


@dataclass(frozen=True, slots=True)
class OwnerBound:
    """The bound on the votes of every owner.

    Attributes:
        votes: Largest number of votes that the users of one owner count for together.
        trusted: Owners whose users are trusted, so that each of their votes counts.

    """

    votes: int = MAX_OWNER_VOTES
    trusted: frozenset[str] = frozenset()

    def applies_to(self, owner: str) -> bool:
        """Return whether an owner's votes are bounded."""
        return owner not in self.trusted and owner not in _UNBOUNDED

    def weigh(self, examples: Sequence[PreferenceExample]) -> list[PreferenceExample]:
        """Return one set of training examples with weights; the users of an owner are one rater.

        The examples of an owner share its votes evenly. Their raters are pooled, since the
        reliability of an invented user who has voted once could not be estimated.
        """
        owners = [example.rater.partition("/")[0] for example in examples]
        counts = Counter(owners)
        return [
            replace(example, rater=f"{owner}/", weight=min(1.0, self.votes / counts[owner]))
            if owner and self.applies_to(owner)
            else example
            for example, owner in zip(examples, owners, strict=True)
        ]

    def admit(self, owners: Iterable[str]) -> list[bool]:
        """Return which votes of a trial count, by their owners in order: the first of each owner.

        Whether a vote counts does not depend on what it says, as a sequential test requires.
        """
        seen: Counter[str] = Counter()
        admitted = []
        for owner in owners:
            seen[owner] += 1
            admitted.append(seen[owner] <= self.votes or not self.applies_to(owner))
        return admitted


DEFAULT_BOUND: Final = OwnerBound()


def effective_votes(examples: Iterable[PreferenceExample]) -> float:
    """Return the number of votes that weighted examples count for."""
    return round(sum(example.weight for example in examples), 6)


def relative_weights(examples: Sequence[PreferenceExample]) -> list[float]:
    """Return the weights of examples as shares of the largest.

    Where all owners are bounded alike, their votes thus teach as much as without a bound.
    """
    largest = max((example.weight for example in examples), default=1.0)
    return [example.weight / largest for example in examples]
