"""What to say to a question without a known answer; 'plain | detail' without final periods."""

CORES: tuple[str, ...] = (
    "I am sorry, I do not know that yet",
    "I am sorry, but I do not know the answer",
    "Sorry, I do not know that",
    "I do not know that yet, I am sorry",
    "I am sorry, I have not learned about that yet",
    "I am afraid that I do not know this",
    "Sorry, I cannot answer that yet",
    "I am sorry, that is new to me",
)
CORE_DETAILS: tuple[str, ...] = (
    "because I only know about 100 things",
    "because I am still small",
    "because nobody has told me about it",
    "because I only know simple things",
)
BODY: tuple[str, ...] = (
    "I know about simple things | such as animals and food",
    "I can tell you how to do things | for example how to make tea",
    "I do not want to guess | because I could be wrong",
    "A good book can help you | for example one from a library",
    "I am still learning | because I am a small program",
    "Somebody near you may know it | such as a teacher",
    "I can help you with everyday things | for example with cooking",
)
QUESTIONS: tuple[str, ...] = (
    "Do you want to ask me something else?",
    "Can I help you with something else?",
    "What else would you like to know?",
    "Would you like to know about an animal?",
    "Do you want to hear a story?",
    "Why do you want to know that?",
)
