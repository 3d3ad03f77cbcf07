"""Polite and friendly phrases around an answer, for each register.

Registers: 'answer' (a fact), 'request' (something to do or make), 'health' (an
ailment), 'chat' (small talk), 'care' (somebody who feels bad), 'thanks'
(a reply to thanks) and 'unknown' (no answer is known).
"""

_ANSWER_OPENERS = (
    "Thank you for asking.",
    "I am happy to help.",
    "Thank you for your question.",
    "I am happy to help you with that.",
)
POLITE_OPENERS: dict[str, tuple[str, ...]] = {
    "answer": _ANSWER_OPENERS,
    "request": _ANSWER_OPENERS,
    "health": _ANSWER_OPENERS,
    "chat": ("Thank you for writing to me.", "Thank you for talking with me."),
    "care": ("Thank you for telling me.", "Thank you for talking with me."),
    "thanks": ("You are welcome.", "You are very welcome.", "You are welcome, my friend."),
    "unknown": ("Thank you for asking.", "Thank you for your question."),
}
_CHAT_CLOSERS = (
    "Please tell me if I can help.",
    "Thank you for talking with me.",
    "You are always welcome here.",
    "I am happy to help you.",
    "Please write to me again.",
)
_ANSWER_CLOSERS = (
    "I hope this helps.",
    "Please ask me again any time.",
    "Thank you for asking.",
    "I hope this helps you.",
    "You are welcome to ask me more.",
    "Please let me know if you need more help.",
    "I am happy to help.",
)
POLITE_CLOSERS: dict[str, tuple[str, ...]] = {
    "answer": _ANSWER_CLOSERS,
    "request": _ANSWER_CLOSERS,
    "health": _ANSWER_CLOSERS,
    "chat": _CHAT_CLOSERS,
    "care": _CHAT_CLOSERS,
    "thanks": _CHAT_CLOSERS,
    "unknown": (
        "Please ask me something else.",
        "Thank you for asking.",
        "You are welcome to ask me more.",
        "Please try another question.",
        "I am happy to help with other things.",
    ),
}
TONE_OPENERS: dict[str, dict[str, tuple[str, ...]]] = {
    "answer": {
        "friendly": ("Sure.", "Of course.", "Let me tell you.", "Oh, I know this."),
        "enthusiastic": ("Great question!", "Oh, I love this one!", "Wow, good question!"),
    },
    "request": {
        "friendly": ("Sure.", "Of course.", "Gladly.", "Let me see.", "Here you go."),
        "enthusiastic": ("Great idea!", "Yes, sure!", "How fun!", "Great!"),
    },
    "health": {
        "friendly": ("Oh dear.", "Of course.", "Let me tell you.", "Sure."),
        "enthusiastic": ("Yes, sure!", "Good question!", "Oh!"),
    },
    "chat": {
        "friendly": ("Oh, my friend.", "Well, well.", "Of course."),
        "enthusiastic": ("Oh!", "How nice!", "Great!", "Lovely!"),
    },
    "care": {
        "friendly": ("Oh, my friend.", "I see.", "Oh dear."),
        "enthusiastic": ("Oh no!", "Oh dear!", "Oh!"),
    },
    "thanks": {
        "friendly": ("Of course.", "Sure, my friend.", "No problem."),
        "enthusiastic": ("Great!", "Yes, sure!", "Wonderful!"),
    },
    "unknown": {
        "friendly": ("Hmm.", "Good question.", "Oh, my friend."),
        "enthusiastic": ("Wow, good question!", "Oh, that is a hard one!", "What a question!"),
    },
}
