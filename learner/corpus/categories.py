"""All kinds of things that the model knows facts about."""

from learner.corpus.attributes import Category
from learner.corpus.categories_home import AILMENT, ANIMAL, BODY, FOOD, THING
from learner.corpus.categories_world import (
    ACTIVITY,
    JOB,
    NATURE,
    PLACE,
    SUBJECT,
    WEATHER,
)

CATEGORIES: tuple[Category, ...] = (
    ANIMAL,
    FOOD,
    THING,
    BODY,
    AILMENT,
    WEATHER,
    NATURE,
    PLACE,
    JOB,
    ACTIVITY,
    SUBJECT,
)
