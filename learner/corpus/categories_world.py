"""Weather, nature, places, jobs, activities, subjects: how their facts are asked and stated.

In the templates `{one}` is the name with its article, `{many}` the plural, `{v}` the value; a value
always ends its sentence, so that a detail can follow it.
"""

from __future__ import annotations

from learner.corpus.attributes import Attribute, Category, attribute, definition


def _person() -> Attribute:
    return Attribute(
        "what",
        (
            "What does {one} do?",
            "Who is {one}?",
            "What do {many} do?",
            "Tell me about {many}.",
            "What is the job of {one}?",
        ),
        ("{One} is {v}",),
        "This is {v}",
        "what {many} do",
        "What do they do?",
    )


WEATHER = Category(
    "weather",
    (
        definition(),
        attribute(
            "when",
            "When does {one} come? / When can I expect {one}?",
            "{One} comes {v} / {One} often comes {v}",
            "It comes {v} / when {one} comes / When does it come?",
        ),
        attribute(
            "feel",
            "What does {one} feel like? / How does {one} feel?",
            "{One} feels {v} / {One} often feels {v}",
            "It feels {v} / how {one} feels / How does it feel?",
        ),
        attribute(
            "do",
            "What should I do in {one}? / What do people do in {one}?",
            "In {one}, {v} / In {one}, you should {v}",
            "You should {v} / what to do in {one} / What should I do then?",
        ),
        attribute(
            "good",
            "Why is {one} good? / What is {one} good for? / Who likes {one}?",
            "{One} is good for {v} / {One} is a good thing for {v}",
            "It is good for {v} / what {one} is good for / What is it good for?",
        ),
    ),
    ("Do you like {one}?", "What do you do in {one}?"),
)

NATURE = Category(
    "nature",
    (
        definition(),
        attribute(
            "where",
            "Where can I see {one}? / Where is {one}? / Where can I find {one}?",
            "You can see {one} {v} / You can find {one} {v}",
            "You can see it {v} / where to see {one} / Where can I see it?",
        ),
        attribute(
            "look",
            "What does {one} look like? / Describe {one}. / How does {one} look?",
            "{One} looks {v} / {One} is {v}",
            "It looks {v} / what {one} looks like / What does it look like?",
        ),
        attribute(
            "give",
            "What does {one} give us? / Why do we need {one}? / Why is {one} important?",
            "{One} gives us {v} / From {one} we get {v}",
            "It gives us {v} / what {one} gives us / What does it give us?",
        ),
    ),
    ("Do you like to look at {one}?", "Can you see {one} from your home?"),
)

PLACE = Category(
    "place",
    (
        definition(),
        attribute(
            "do",
            "What can I do at {one}? / Why do people go to {one}? / What do people do at {one}?",
            "At {one} you can {v} / People go to {one} to {v}",
            "You can {v} there / what to do at {one} / What can I do there?",
        ),
        attribute(
            "find",
            "What can I find at {one}? / What is there to see at {one}?",
            "At {one} you can find {v} / At {one} there are {v}",
            "There are {v} / what there is at {one} / What can I find there?",
        ),
        attribute(
            "bring",
            "What should I bring to {one}? / What do I need for a trip to {one}?",
            "For a trip to {one}, bring {v} / If you go to {one}, take {v}",
            "You should bring {v} / what to bring to {one} / What should I bring?",
        ),
        attribute(
            "time",
            "When should I go to {one}? / What is the best time to visit {one}?",
            "The best time for {one} is {v} / Go to {one} {v}",
            "The best time to go is {v} / when to go to {one} / When should I go there?",
        ),
    ),
    ("Do you often go to {one}?", "Do you like to go to {one}?"),
)

JOB = Category(
    "job",
    (
        _person(),
        attribute(
            "where",
            "Where does {one} work? / Where do {many} work?",
            "{One} works {v} / {Many} work {v} / {Many} mostly work {v}",
            "This person works {v} / where {one} works / Where do they work?",
        ),
        attribute(
            "need",
            "What does {one} need? / What do {many} need for work?",
            "{One} needs {v} / {Many} need {v}",
            "For the work you need {v} / what {one} needs / What do they need?",
        ),
        attribute(
            "become",
            "How do I become {one}? / How can I become {one}? / I want to be {one}.",
            "To become {one}, {v} / If you want to be {one}, {v}",
            "To get this job, {v} / how to become {one} / How can I become one?",
        ),
    ),
    ("Do you want to be {one}?", "Do you know {one}?"),
)

ACTIVITY = Category(
    "activity",
    (
        definition(),
        attribute(
            "need",
            "What do I need for {one}? / What should I have for {one}?",
            "For {one} you need {v} / {One} needs {v}",
            "You need {v} / what you need for {one} / What do I need for it?",
        ),
        attribute(
            "good",
            "Why is {one} good for me? / Is {one} good for me? / Why do people like {one}?",
            "{One} makes you {v} / {One} can make you {v}",
            "It makes you {v} / why {one} is good for you / Why is it good for me?",
        ),
        attribute(
            "where",
            "Where is a good place for {one}? / What is a good place for {one}?",
            "A good place for {one} is {v} / The best place for {one} is {v}",
            "A good place for it is {v} / where to do it / Where can I do it?",
        ),
        attribute(
            "start",
            "How do I start with {one}? / I want to try {one}. / How can I learn {one}?",
            "To start with {one}, {v} / If {one} is new to you, {v}",
            "To start, {v} / how to start with {one} / How do I start?",
        ),
    ),
    ("Do you like {one}?", "Have you tried {one}?"),
)

SUBJECT = Category(
    "subject",
    (
        definition(),
        attribute(
            "learn",
            "What do I learn in {one}? / What do children learn in {one}?",
            "In {one} you learn {v} / In {one} people learn {v}",
            "You learn {v} / what you learn in {one} / What do I learn in it?",
        ),
        attribute(
            "use",
            "Why is {one} useful? / What is {one} good for? / Why should I learn {one}?",
            "{One} helps you {v} / {One} can help you {v}",
            "It helps you {v} / why {one} is useful / Why is it useful?",
        ),
        attribute(
            "need",
            "What do I need for {one}? / What do I need to learn {one}?",
            "For {one} you need {v} / To learn {one}, you need {v}",
            "You need {v} / what you need for {one} / What do I need for it?",
        ),
        attribute(
            "better",
            "How do I get better at {one}? / How can I learn {one}? / {One} is hard for me.",
            "To get better at {one}, {v} / If {one} is hard for you, {v}",
            "To get better, {v} / how to get better at {one} / How do I get better at it?",
        ),
    ),
    ("Do you like {one}?", "Is {one} hard for you?"),
)
