"""Questions to the default model that its corpus does not have, and some that it does."""

import random
from dataclasses import dataclass

from learner.corpus.categories import Attribute
from learner.corpus.entities import Entity, asked_entities, entities
from learner.corpus.kinds.facts import fact_prompt

# Wordings that the corpus does not have.
NEW_DEFINITIONS = (
    "In a few words, what is {one}?",
    "My son asked me what {one} is. What do I say?",
    "I have never heard of {one}. What is it?",
    "Could you tell me a bit about {many}?",
    "Help me understand what {one} is.",
    "What would you say about {many}?",
    "How would you explain {one} to a child?",
    "Say something about {many}, please.",
    "I am curious about {many}.",
    "Any idea what {one} is?",
)
NEW_INDIRECT = (
    "My daughter wants to know {}.",
    "Any idea {}?",
    "I forgot {}.",
    "Could you please say {}?",
    "Help me understand {}.",
    "I was asked {} today.",
)
# Things that neither the facts nor the unknown words of the corpus have.
UNKNOWN_THINGS = (
    *("a flumbozzle", "a narwhal tusk carving", "a trebuchet", "a sphygmomanometer", "a zamboni"),
    *("a gazebo permit", "a zither concerto", "a bassoon reed", "kombucha brewing", "a hovercraft"),
    *("a sextant", "origami folding", "stoicism", "a tesseract", "a mitochondrion"),
    *("plasma physics", "macroeconomics", "a fjord horse", "tectonic drift", "game theory"),
    *("a quokka", "a cassowary", "a pangolin", "a lemur", "an okapi"),
    *("a numbat", "a kinkajou", "a coelacanth", "a puffin", "a sousaphone"),
    *("a theodolite", "a centrifuge", "a ballista", "a rickshaw", "a pagoda"),
    *("a samovar", "a crumpet", "miso paste", "a rambutan", "jurisprudence"),
    *("thermodynamics", "epistemology", "a neutrino", "osmosis", "a subpoena"),
    *("baroque music", "a haiku", "falconry", "jousting", "a velodrome"),
    *("permafrost", "lichen", "a baobab", "a tardigrade", "an ocelot"),
)
UNKNOWN_WORDINGS = (
    "What is {}?",
    "Tell me about {}.",
    "Can you explain {}?",
    "what is {}",
    "What do you know about {}?",
)
UNKNOWN_QUESTIONS = (
    "Who won the match yesterday?",
    "What is the weather in Nairobi right now?",
    "How much is a flight to Winnipeg?",
    "Who is Marie Tussaud?",
    "Who was Emily Bronte?",
    "What did Aristophanes write?",
    "What is the population of Bratislava?",
    "Where is Timbuktu?",
    "What is 482 times 77?",
    "What is the square root of 169?",
    "Write a Java class that reads a file.",
    "What is my phone number?",
    "Which party should I vote for?",
    "Translate good night into Finnish.",
    "When does the next train leave?",
)


@dataclass(frozen=True)
class Asked:
    """A question about an attribute of an entity."""

    prompt: str
    entity: Entity
    attribute: Attribute


def new_wordings(rng: random.Random, count: int) -> list[Asked]:
    """Draw questions about things that demonstrations ask about, in wordings that are new."""
    found = []
    for entity in rng.sample(asked_entities(), count):
        what, *others = entity.category.attributes
        attribute = what if rng.random() < 0.5 else rng.choice(others)
        if attribute is what:
            prompt = entity.fill(rng.choice(NEW_DEFINITIONS))
        else:
            prompt = rng.choice(NEW_INDIRECT).format(entity.fill(attribute.offer))
        found.append(Asked(prompt, entity, attribute))
    return found


def new_things(rng: random.Random, each: int) -> list[Asked]:
    """Draw questions about things that no demonstration asks about, in the corpus's wordings."""
    return [
        Asked(fact_prompt(rng, entity, attribute), entity, attribute)
        for entity in entities()
        if entity.held_out
        for attribute in rng.sample(entity.category.attributes, each)
    ]


def usual_definitions(rng: random.Random, count: int) -> list[Asked]:
    """Draw 'What is X?' about things that demonstrations ask about."""
    chosen = rng.sample([each for each in asked_entities() if each.category.name != "job"], count)
    return [
        Asked(entity.fill("What is {one}?"), entity, entity.category.attributes[0])
        for entity in chosen
    ]


def unknown_questions() -> list[str]:
    asked = [
        UNKNOWN_WORDINGS[at % len(UNKNOWN_WORDINGS)].format(thing)
        for at, thing in enumerate(UNKNOWN_THINGS)
    ]
    return [*asked, *UNKNOWN_QUESTIONS]
