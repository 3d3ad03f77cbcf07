"""Generate everyday English to pre-train on, and demonstrations to fine-tune on.

All text is composed from the small tables in `data/`. The streams are endless, and the same for
the same seed on every machine. They deliberately express no preference between answers: the
demonstrations vary in style, and users say by their votes what they like.
"""

from learner.corpus.demos import Demonstration, demonstrations, prompts
from learner.corpus.dialogues import conversations
from learner.corpus.documents import pretraining_documents

__all__ = [
    "Demonstration",
    "conversations",
    "demonstrations",
    "pretraining_documents",
    "prompts",
]
