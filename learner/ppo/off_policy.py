"""Off-policy answers: served by earlier versions, rated by people, and replayed in PPO.

The log has the probability of each of their tokens, for the importance weights.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from learner.data.preferences import JoinedEvent, prompt_split, record_prompt_key
from learner.sampling.sampler import Sample
from learner.settings import PPOSettings, RewardSettings
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord


@dataclass(frozen=True, slots=True)
class OffPolicyAnswer:
    """An answer that people rated.

    Attributes:
        sample: Answer with its prompt and log-probabilities.
        staleness: Number of versions between its oldest token and the version in training.

    """

    sample: Sample
    staleness: int


def off_policy_answers(
    events: Iterable[JoinedEvent],
    *,
    version: int,
    ppo: PPOSettings,
    reward: RewardSettings,
    split_secret: bytes,
    context: int | None = None,
    vocabulary: int | None = None,
) -> list[OffPolicyAnswer]:
    """Return the answers that PPO can replay, each once.

    Excluded are answers that were sampled with filters or penalties (the recorded probabilities
    are then not the policy's own), that were interrupted, that are too stale, that do not fit into
    a forward pass or are of another model, or whose prompt is held out or too long.

    Args:
        events: Joined events whose completions may be replayed.
        version: Version in training.
        ppo: Bounds of staleness and prompt length.
        reward: Shares of the splits.
        split_secret: Secret of the splits (`learner.data.preferences.prompt_split`).
        context: Context length of the model in tokens; None if it is not known.
        vocabulary: Number of token ids that the model knows; None if any may occur.

    """
    found: dict[tuple[str, int], OffPolicyAnswer] = {}
    for joined in events:
        for record in joined.completions.values():
            if not _is_usable(record, ppo, reward, split_secret):
                continue
            for choice in record.choices:
                staleness = _staleness(choice, version)
                if staleness is None or staleness > ppo.max_staleness:
                    continue
                sample = _sample(record, choice)
                if _fits(sample, min(ppo.micro_tokens, context or ppo.micro_tokens), vocabulary):
                    key = (record.completion_id, choice.index)
                    found[key] = OffPolicyAnswer(sample, staleness)
    return list(found.values())


def _is_usable(
    record: CompletionRecord, ppo: PPOSettings, reward: RewardSettings, split_secret: bytes
) -> bool:
    split = prompt_split(
        record_prompt_key(record),
        held_out_share=reward.held_out_share,
        secret=split_secret,
    )
    return (
        record.sampling.off_policy_usable
        and record.sampling.temperature > 0
        and 0 < len(record.prompt_token_ids) <= ppo.max_prompt_tokens
        and split != "held_out"
    )


def _staleness(choice: Choice, version: int) -> int | None:
    """Return the number of versions since the oldest token; None if the choice is not usable."""
    complete = choice.finish_reason in {"stop", "length"}
    if not complete or not choice.token_ids or len(choice.log_probs) != len(choice.token_ids):
        return None
    versions = [span.policy_version for span in choice.versions]
    if not versions or max(versions) > version:
        return None  # sampled by a version that was rolled back
    return version - min(versions)


def _fits(sample: Sample, tokens: int, vocabulary: int | None) -> bool:
    """Return whether the model can compute an answer in one forward pass, with finite weights."""
    ids = (*sample.prompt, *sample.token_ids)
    known = vocabulary is None or max(ids) < vocabulary
    return known and len(ids) <= tokens and all(map(math.isfinite, sample.log_probs))


def _sample(record: CompletionRecord, choice: Choice) -> Sample:
    return Sample(
        prompt=tuple(record.prompt_token_ids),
        token_ids=tuple(choice.token_ids),
        log_probs=tuple(choice.log_probs),
        finished=choice.finish_reason == "stop",
    )
