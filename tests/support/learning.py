"""Synthetic votes, and the learner run on them, for tests of whole cycles."""

import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from feedback.control.policies import append_policy_event
from feedback.log.event_log import NewRecord
from feedback.log.sqlite_log import SqliteLog
from learner.cycle.service import run
from learner.cycle.state import latest_cycle
from learner.data.tokenizer import encode_chat, end_token_ids, train_tokenizer
from learner.models.loading import new_model
from learner.models.saving import save_model
from learner.settings import LearnerSettings, PretrainSettings
from protos.checkpoints.folder_registry import FolderRegistry
from protos.plaudit.v1.completion_pb2 import Choice, CompletionRecord, Message
from protos.plaudit.v1.feedback_pb2 import Candidate, Comparison, FeedbackEvent
from protos.plaudit.v1.policy_pb2 import Published

TINY = PretrainSettings(
    vocabulary=300, hidden=32, layers=1, heads=1, feed_forward=32, initial_deviation=0.3
)


def make_home(
    home: Path,
    votes: int = 120,
    raters: int = 1,
    *,
    random_votes: bool = False,
    owner: str = "local",
    keyed_split: bool = False,
) -> Path:
    """Create a home folder with version 1 and votes for the answers that contain token 99."""
    tokenizer = train_tokenizer(["a b c"], vocabulary=300, context=64)
    model = new_model(TINY, tokenizer).eval()
    save_model(model, tokenizer, home / "models" / "sft")
    FolderRegistry(home / "registry").publish(
        home / "models" / "sft", version=1, parent=0, base="tiny", keyed_split=keyed_split
    )
    log = SqliteLog(home / "log.db")
    append_policy_event(log, Published(version=1))
    cast_votes(log, tokenizer, votes, raters, random_votes=random_votes, owner=owner)
    log.close()
    return home


def cast_votes(
    log: SqliteLog,
    tokenizer: PreTrainedTokenizerBase,
    votes: int,
    raters: int = 1,
    first: int = 0,
    *,
    random_votes: bool = False,
    owner: str = "local",
) -> None:
    """Log completions, and votes for the answers that contain token 99.

    Args:
        raters: Number of subjects; they vote in turn.
        first: Number of the first completion.
        random_votes: Whether votes are random instead.
        owner: Owner of the completions and the votes.

    """
    end = end_token_ids(tokenizer)[0]
    rng = random.Random(first)
    for number in range(first, first + votes):
        chat = [{"role": "user", "content": f"say {number}"}]
        prompt = encode_chat(tokenizer, chat, answer=True)
        preferred, other = [70 + number % 20, 99, end], [70 + number % 30, 98, end]
        left = number % 3 == 0
        pair = (preferred, other) if left else (other, preferred)
        if random_votes:
            left = rng.random() < 0.5
        record = CompletionRecord(
            completion_id=f"c{number}",
            owner=owner,
            subject=f"s{number % raters}",
            messages=[Message(**m) for m in chat],
            prompt_token_ids=prompt,
            choices=[Choice(index=i, token_ids=ids) for i, ids in enumerate(pair)],
        )
        event = FeedbackEvent(
            event_id=f"e{number}",
            completion_id=f"c{number}",
            owner=owner,
            subject=f"s{number % raters}",
            target=f"comparison c{number}",
            comparison=Comparison(
                left=Candidate(completion_id=f"c{number}", choice=0),
                right=Candidate(completion_id=f"c{number}", choice=1),
                verdict=Comparison.VERDICT_LEFT if left else Comparison.VERDICT_RIGHT,
            ),
        )
        for topic, key, message in (
            ("completions", f"c{number}", record),
            ("feedback", f"e{number}", event),
        ):
            name = message.DESCRIPTOR.full_name
            log.append(topic, [NewRecord(key, name, message.SerializeToString())])  # type: ignore[arg-type]


def learn_until(home: Path, settings: LearnerSettings, done: Callable[[], bool]) -> None:
    """Run the learner service in a thread until `done()`, then stop it."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            run(home, settings, stop)
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=serve)
    thread.start()
    for _ in range(24_000):
        if done() or not thread.is_alive():
            break
        stop.wait(0.02)
    reached = done()
    stop.set()
    thread.join()
    assert not failures
    assert reached


def cycle_ended(home: Path) -> Callable[[], bool]:
    """Return a function that returns whether the latest cycle has ended."""

    def ended() -> bool:
        state = latest_cycle(home)
        return state is not None and state.stage == "done"

    return ended


@torch.no_grad()
def answer_log_probs(
    model: PreTrainedModel,
    prompt: Sequence[int],
    answer: Sequence[int],
    temperature: float = 1.0,
) -> torch.Tensor:
    """Compute the log-probability of each token of an answer in a batch of one, without padding."""
    ids = torch.tensor([[*prompt, *answer]])
    logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(-1, torch.tensor([*answer])[:, None])[:, 0]
