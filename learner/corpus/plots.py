"""Plots of very short stories: a summary, then sentences in order ('plain | detail', no period).

Slots: {name} and {friend} people, {he}/{He}, {his}, {him} for the first; {pet} an animal, {food} a
food, {place} a place, each with its article.
"""

PEOPLE: tuple[tuple[str, str], ...] = (
    ("Anna", "she"),
    ("Ben", "he"),
    ("Mia", "she"),
    ("Tom", "he"),
    ("Lisa", "she"),
    ("Sam", "he"),
    ("Emma", "she"),
    ("Leo", "he"),
    ("Nora", "she"),
    ("Max", "he"),
    ("Eva", "she"),
    ("Paul", "he"),
)
PETS: tuple[str, ...] = (
    "a cat",
    "a dog",
    "a cow",
    "a horse",
    "a bird",
    "a rabbit",
    "a mouse",
    "a duck",
    "a chicken",
    "a frog",
    "a sheep",
    "a monkey",
    "an owl",
)
MEALS: tuple[str, ...] = ("bread", "soup", "tea", "coffee", "pasta", "rice", "a cake")

PLOTS: tuple[tuple[str, ...], ...] = (
    (
        "One day {name} found {pet} and took it home",
        "One day {name} went to {place} | for about 2 hours",
        "There {he} saw {pet} that was alone | because it was lost",
        "{He} gave it some food and water | such as 1 bowl of water",
        "Then {name} looked for its home | for example in the next street",
        "In the end they became good friends",
    ),
    (
        "{name} made {food} for {friend}, and both were happy",
        "{name} wanted to make {food} for {friend} | because it was a birthday",
        "{He} went to the market and bought all the things | for about 10 coins",
        "At first it did not go well | because the oven was cold",
        "{friend} came and helped {him} | for example with the table",
        "In the end they ate together and laughed",
    ),
    (
        "{name} lost a key at {place}, but {friend} found it",
        "{name} came home from {place} in the evening | at about 7",
        "{His} key was not in the bag | because the bag had a hole",
        "{He} called {friend} and asked for help | for example with a lamp",
        "They looked everywhere | such as under the bench",
        "In the end {friend} found the key, and they were glad",
    ),
    (
        "{name} and {pet} walked in the rain and came home wet and happy",
        "On a rainy day {name} met {pet} | such as the one of a friend",
        "They walked to {place} together | because the air was fresh",
        "Soon both were very wet | after about 10 minutes",
        "{name} laughed and ran | because it was fun",
        "In the end they sat at home and had {food}",
    ),
    (
        "{name} could not sleep, so {friend} told a story about {pet}",
        "One night {name} could not sleep | because the wind was loud",
        "{friend} told a story about {pet} | for about 15 minutes",
        "It was a calm story | for example about a day in a field",
        "Then they had some milk | such as 1 warm cup",
        "In the end {name} went to bed and slept well",
    ),
    (
        "{name} was new at school, but soon {friend} was a good friend",
        "{name} was new in town | because of the work of the family",
        "On the first day {he} was afraid | for example of the big school",
        "{friend} smiled and asked about {pet} | because it was on the bag",
        "After that they went to {place} together | about 2 times a week",
        "In the end {name} was not afraid any more",
    ),
    (
        "{name} helped {pet} that was hungry",
        "Early in the morning {name} heard a sound | for about 5 minutes",
        "{He} opened the door and saw {pet} | because it was hungry",
        "{name} had only {food} | for example from the day before",
        "{He} gave some of it to the animal | about 3 small pieces",
        "In the end it came back every day",
    ),
    (
        "{name} learned to ride a bike at {place}",
        "{name} wanted to ride a bike | because all the friends could do it",
        "{He} went to {place} with {friend} | for about 1 hour a day",
        "The first time {he} fell | for example on the grass",
        "{friend} said that it takes time | such as 2 weeks",
        "In the end {name} could ride very well",
    ),
)
