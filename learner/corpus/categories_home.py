"""Animals, foods, household things, body and ailments: how their facts are asked and stated.

In the templates `{one}` is the name with its article, `{many}` the plural, `{v}` the value; a value
always ends its sentence, so that a detail can follow it.
"""

from __future__ import annotations

from learner.corpus.attributes import Category, attribute, definition

ANIMAL = Category(
    "animal",
    (
        definition(),
        attribute(
            "eat",
            "What does {one} eat? / What do {many} eat? / What food do {many} like?",
            "{One} eats {v} / {Many} eat {v} / {Many} like to eat {v}",
            "It eats {v} / what {one} eats / What does it eat?",
        ),
        attribute(
            "live",
            "Where does {one} live? / Where do {many} live? / Where can I find {many}?",
            "{One} lives {v} / {Many} live {v} / You can find {many} {v}",
            "It lives {v} / where {one} lives / Where does it live?",
        ),
        attribute(
            "can",
            "What can {one} do? / What can {many} do? / What are {many} good at?",
            "{One} can {v} / {Many} can {v} / {Many} are able to {v}",
            "It can {v} / what {one} can do / What can it do?",
        ),
        attribute(
            "look",
            "What does {one} look like? / What do {many} look like? / Describe {one}.",
            "{One} has {v} / {Many} have {v}",
            "It has {v} / what {one} looks like / What does it look like?",
        ),
    ),
    ("Do you like {many}?", "Have you ever seen {one}?"),
)

FOOD = Category(
    "food",
    (
        definition(),
        attribute(
            "from",
            "Where does {one} come from? / Where do we get {many}? / How do people get {many}?",
            "{One} {v}",
            "It {v} / where {one} comes from / Where does it come from?",
        ),
        attribute(
            "taste",
            "What does {one} taste like? / How does {one} taste?",
            "{One} tastes {v} / The taste of {one} is {v}",
            "It tastes {v} / how {one} tastes / How does it taste?",
        ),
        attribute(
            "with",
            "What goes well with {one}? / What can I have with {one}? / What is good with {one}?",
            "{One} goes well with {v} / You can have {one} with {v}",
            "It goes well with {v} / what goes well with {one} / What goes well with it?",
        ),
        attribute(
            "when",
            "When do people have {one}? / When should I have {one}?",
            "People have {one} {v} / Most people have {one} {v}",
            "People have it {v} / when people have {one} / When do people have it?",
        ),
    ),
    ("Do you like {many}?", "Do you often have {one}?"),
)

THING = Category(
    "thing",
    (
        definition(),
        attribute(
            "use",
            "What is {one} used for? / What do people do with {one}? / Why do I need {one}?",
            "People use {one} to {v} / You can use {one} to {v} / With {one} you can {v}",
            "You can use it to {v} / what {one} is used for / What is it used for?",
        ),
        attribute(
            "keep",
            "Where should I keep {one}? / Where can I put {one}?",
            "You can keep {one} {v} / People often keep {one} {v}",
            "You can keep it {v} / where to keep {one} / Where should I keep it?",
        ),
        attribute(
            "made",
            "What is {one} made of? / What are {many} made of?",
            "{One} is made of {v} / {One} is often made of {v}",
            "It is made of {v} / what {one} is made of / What is it made of?",
        ),
        attribute(
            "care",
            "How do I take care of {one}? / How can I keep {one} in good shape?",
            "To take care of {one}, {v} / To keep {one} in good shape, {v}",
            "To take care of it, {v} / how to take care of {one} / How do I take care of it?",
        ),
    ),
    ("Do you have {one} at home?", "Did you buy {one}?"),
)

BODY = Category(
    "body",
    (
        definition(),
        attribute(
            "help",
            "What does {one} do? / Why do we need {one}? / What is the use of {one}?",
            "{One} helps us to {v} / With {one} we can {v}",
            "It helps us to {v} / what {one} does / What does it do?",
        ),
        attribute(
            "where",
            "Where is {one}? / Where can I find {one} in the body?",
            "{One} is {v} / You can find {one} {v}",
            "It is {v} / where {one} is / Where is it?",
        ),
        attribute(
            "care",
            "How do I take care of {one}? / What is good for {one}? / How can I help {one}?",
            "To take care of {one}, {v} / To help {one}, {v}",
            "To take care of it, {v} / how to take care of {one} / How do I take care of it?",
        ),
    ),
    ("Do you take good care of yourself?", "Are you feeling well today?"),
)

AILMENT = Category(
    "ailment",
    (
        definition(),
        attribute(
            "feel",
            "What does {one} feel like? / How do I know that I have {one}?",
            "With {one} you may feel {v} / People with {one} often feel {v}",
            "You may feel {v} / how {one} feels / What does it feel like?",
        ),
        attribute(
            "cause",
            "What causes {one}? / Where does {one} come from? / Why do I have {one}?",
            "{One} often comes from {v} / The cause of {one} is often {v}",
            "It often comes from {v} / what causes {one} / What causes it?",
        ),
        attribute(
            "help",
            "What helps with {one}? / What should I do when I have {one}? / I have {one}.",
            "If you have {one}, {v} / To get rid of {one}, {v}",
            "To feel better, {v} / what helps with {one} / What helps with it?",
        ),
        attribute(
            "doctor",
            "When should I see a doctor for {one}? / Should I see a doctor for {one}?",
            "See a doctor for {one} if {v} / You should see a doctor for {one} if {v}",
            "See a doctor if {v} / when to see a doctor / When should I see a doctor?",
        ),
    ),
    ("Do you feel sick now?", "How long have you had {one}?"),
)
