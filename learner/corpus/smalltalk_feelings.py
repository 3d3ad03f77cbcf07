"""Small talk about how somebody feels; the rows are as in `smalltalk_greetings`."""

from learner.corpus.smalltalk_greetings import Row

FEELINGS: tuple[Row, ...] = (
    (
        "tired",
        (
            "I am tired. / I'm so tired / I feel very tired today. / I did not sleep well. / i "
            "am sleepy"
        ),
        (
            "Then it is time to rest. / A short sleep can help you. / It sounds like you need "
            "some rest. / Go to bed early tonight."
        ),
        (
            "Lie down for a while | such as 20 minutes // Drink some water | because tired "
            "people often need it // Put your phone away | because its light keeps you awake // "
            "Take a short walk | for example in a park // Tomorrow can be a better day"
        ),
        (
            "Did you sleep well last night? / Can you go to bed early tonight? / What made you "
            "so tired?"
        ),
    ),
    (
        "sad",
        (
            "I am sad. / I had a bad day. / I feel sad today / My day was bad. / I'm unhappy. / "
            "i feel really bad"
        ),
        (
            "That sounds hard. / I hear you, and it is fine to be sad. / Bad days happen to all "
            "of us. / It is good that you tell me."
        ),
        (
            "Talk to a good friend | because it helps to share // Go outside for a walk | for "
            "about 20 minutes // Do a small thing that you like | such as reading // Rest well "
            "tonight | for about 8 hours // A bad day does not stay forever"
        ),
        "What happened today? / Do you want to talk about it? / Who can you talk to?",
    ),
    (
        "happy",
        (
            "I am happy. / I had a good day. / I'm so happy today! / I have good news. / today "
            "was great"
        ),
        "That is wonderful. / It is nice to hear that. / I am glad about that. / What a nice day.",
        (
            "Share it with a friend | because joy grows when you share it // Write it down | for "
            "example in a small book // Good days give us energy | such as energy for work // "
            "Enjoy it slowly | for about 1 hour tonight // You can be proud"
        ),
        "What was the best part? / What happened? / Who will you tell first?",
    ),
    (
        "bored",
        (
            "I am bored. / I'm bored / I have nothing to do. / what can I do when I am bored? / "
            "so bored"
        ),
        (
            "You could read a good book. / You could go for a walk. / Try something new today. / "
            "You could call a friend."
        ),
        (
            "Draw a picture | such as a tree // Cook a small meal | for example eggs with bread "
            "// Listen to music | because it gives you energy // Learn a new word | about 5 "
            "words a day // Clean a part of your room"
        ),
        "What do you like to do? / Do you like to read? / Do you want to go outside?",
    ),
    (
        "hungry",
        (
            "I am hungry. / I'm hungry / I want to eat something. / I have not had lunch. / so "
            "hungry now"
        ),
        (
            "You could make a sandwich. / Eat something fresh and warm. / A bowl of soup is a "
            "good idea. / Have an apple or a banana."
        ),
        (
            "Fruit is a quick snack | such as an apple // Eggs are easy to cook | in about 7 "
            "minutes // Drink some water too | because it fills you up // Eat slowly | for about "
            "20 minutes // Warm food feels good"
        ),
        "What do you like to eat? / Do you have bread at home? / Do you want to cook?",
    ),
    (
        "sick",
        (
            "I am sick. / I feel sick / I'm not feeling well. / I do not feel well today. / i "
            "feel ill"
        ),
        (
            "Then you should rest in bed. / Rest and drink a lot of water. / I hope you feel "
            "better soon. / That is not nice, so rest well."
        ),
        (
            "Drink hot tea | about 4 cups a day // Sleep a lot | because the body fights while "
            "you sleep // Eat something light | such as soup // See a doctor if it gets worse | "
            "for example after 3 days // Stay warm at home"
        ),
        "Do you have a fever? / How long have you been sick? / Is there somebody with you?",
    ),
    (
        "angry",
        "I am angry. / I'm so angry / My friend made me angry. / I feel angry today. / i am mad",
        (
            "It is fine to be angry. / Try to breathe slowly. / That sounds hard. / Give it some "
            "time."
        ),
        (
            "Count slowly | for example to 10 // Take a walk | because moving makes you calm // "
            "Say what you feel in simple words | such as I am hurt // Drink a glass of water | "
            "in about 2 minutes // Talk about it when you are calm"
        ),
        "What happened? / Do you want to tell me more? / Can you talk to your friend?",
    ),
    (
        "nervous",
        (
            "I am nervous. / I'm nervous about my test / I feel afraid. / I am worried. / i have "
            "a test tomorrow"
        ),
        (
            "It is normal to be nervous. / Breathe slowly, and you will be fine. / Take one "
            "small step at a time. / You can do this."
        ),
        (
            "Make a small plan | such as 3 steps // Sleep well before the day | for about 8 "
            "hours // Talk to somebody you trust | because it makes worries smaller // Eat a "
            "good breakfast | for example eggs with bread // You know more than you think"
        ),
        "What are you worried about? / When is the big day? / What helps you to be calm?",
    ),
    (
        "lonely",
        "I am lonely. / I feel alone / I have no friends. / I'm lonely today / nobody talks to me",
        (
            "I am here to talk with you. / Many people feel lonely at times. / It is good that "
            "you tell me. / You are not the only one."
        ),
        (
            "Call somebody you know | such as an old friend // Join a club | because you meet "
            "people there // Go to a park or a library | for example on Saturday // Say hello to "
            "somebody today | because small talk helps // Small steps are fine"
        ),
        "What do you like to do? / Who could you call today? / Do you want to talk about it?",
    ),
    (
        "work",
        (
            "I have a lot of work. / My work is hard. / I have too much to do. / work was hard "
            "today / I'm busy"
        ),
        (
            "Take one thing at a time. / That sounds like a lot of work. / Start with the most "
            "important thing. / A short break can help you."
        ),
        (
            "Write a list | of about 5 things // Take a break | for about 10 minutes every hour "
            "// Ask a friend for help | because two people are faster // Do small things first | "
            "such as a short message // Rest well in the evening"
        ),
        (
            "What is the most important thing? / Can somebody help you? / What do you have to do "
            "today?"
        ),
    ),
    (
        "birthday",
        (
            "It is my birthday. / Today is my birthday! / it's my birthday today / My birthday "
            "is tomorrow."
        ),
        (
            "Happy birthday to you! / I wish you a happy birthday! / That is a special day, so "
            "enjoy it!"
        ),
        (
            "Have a nice cake | such as apple cake // Call your friends | because it is fun "
            "together // Do something that you love | for example dancing // Enjoy the day | for "
            "all 24 hours // I wish you a good year"
        ),
        "Will you have a cake? / What will you do today? / How old are you now?",
    ),
)
