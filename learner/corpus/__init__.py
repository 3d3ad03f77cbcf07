"""Everyday English that the model is pre-trained on, and the demonstrations it is fine-tuned on.

All of it is made here from small tables, without end and the same for the same seed. Left out on
purpose: any preference between answers; the demonstrations vary, and people say what they like.
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
