"""Answers that people were given and rated, as training data for PPO: sampled by earlier policies.

What each token's probability was is recorded with them, so that they can be corrected for.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from learner.data.preferences import JoinedEvent, prompt_split, record_prompt_key
from learner.sampling.sampler import Sample
from learner.settings import PPOSettings, RewardSettings
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord


@dataclass(frozen=True, slots=True)
class OffPolicyAnswer:
    """An answer that somebody rated.

    Attributes:
        staleness: How many versions before the one that learns now sampled its oldest token.

    """

    sample: Sample
    staleness: int


def off_policy_answers(
    events: Iterable[JoinedEvent],
    *,
    version: int,
    ppo: PPOSettings,
    reward: RewardSettings,
) -> list[OffPolicyAnswer]:
    """Return the answers that can be learned from off-policy, each once.

    Left out are those sampled with filters or penalties (what was recorded is not the policy's
    own probability then), those that somebody stopped, those of versions too long ago, and those
    to prompts that are held out or too long.

    Args:
        version: That learns now.

    """
    found: dict[tuple[str, int], OffPolicyAnswer] = {}
    for judged in events:
        for record in judged.completions.values():
            if not _usable(record, ppo, reward):
                continue
            for choice in record.choices:
                staleness = _staleness(choice, version)
                if staleness is not None and staleness <= ppo.max_staleness:
                    place = (record.completion_id, choice.index)
                    found[place] = OffPolicyAnswer(_sample(record, choice), staleness)
    return list(found.values())


def _usable(record: CompletionRecord, ppo: PPOSettings, reward: RewardSettings) -> bool:
    split = prompt_split(
        record_prompt_key(record),
        held_out_share=reward.held_out_share,
        judge_share=reward.judge_share,
    )
    return (
        record.sampling.off_policy_usable
        and record.sampling.temperature > 0
        and 0 < len(record.prompt_token_ids) <= ppo.max_prompt_tokens
        and split != "held_out"
    )


def _staleness(choice: Choice, version: int) -> int | None:
    """Return how many versions ago its oldest token was sampled; None where it cannot be used."""
    whole = choice.finish_reason in {"stop", "length"}
    if not whole or not choice.token_ids or len(choice.log_probs) != len(choice.token_ids):
        return None
    versions = [span.policy_version for span in choice.versions]
    if not versions or max(versions) > version:
        return None  # of a version that was rolled back
    return version - min(versions)


def _sample(record: CompletionRecord, choice: Choice) -> Sample:
    return Sample(
        prompt=tuple(record.prompt_token_ids),
        token_ids=tuple(choice.token_ids),
        log_probs=tuple(choice.log_probs),
        finished=choice.finish_reason == "stop",
    )
