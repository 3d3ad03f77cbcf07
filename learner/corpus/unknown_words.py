"""Words for questions that nobody has taught the model an answer to."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


PLACE_NAMES = _words(
    "France Japan Brazil Peru Kenya Norway Egypt Canada Chile Ghana Poland Greece Turkey "
    "Nepal Cuba Mexico Sweden Morocco Iran Iraq Korea China Russia Italy Ireland Scotland "
    "Texas Ohio Florida London Paris Berlin Tokyo Madrid Oslo Vienna Prague Lisbon Dublin "
    "Boston Chicago Sydney Delhi Cairo Lima Seoul Moscow Warsaw Athens Denver Toronto "
    "Vietnam Thailand Austria Belgium Denmark Finland Iceland Portugal Hungary Croatia "
    "Serbia Bolivia Uruguay Colombia Ecuador Jamaica Haiti Mali Chad Sudan Uganda Zambia "
    "Angola Tunisia Libya Qatar Oman Yemen Bhutan Laos Fiji"
)
PERSON_NAMES = _words(
    "Einstein Newton Mozart Shakespeare Napoleon Caesar Lincoln Washington Obama Picasso "
    "Darwin Beethoven Gandhi Cleopatra Columbus Galileo Edison Tesla Curie Turing Lovelace "
    "Plato Socrates Aristotle Elvis Madonna Messi Ronaldo Federer Jordan Beyonce Dylan "
    "Lennon Bowie Kennedy Churchill Mandela Dante Goethe Kafka Tolstoy Hemingway Austen "
    "Dickens Orwell Tolkien Rowling Spielberg Hitchcock Chaplin Disney Gates Musk "
    "Zuckerberg Bezos"
)
NOUNS = _words(
    "quantum gravity inflation bitcoin democracy photosynthesis algebra calculus electron "
    "proton neutron galaxy asteroid volcano dinosaur fossil enzyme protein virus vaccine "
    "antibody genome chromosome hormone kidney liver pancreas diabetes asthma cancer "
    "surgery economics philosophy psychology sociology astronomy chemistry physics biology "
    "geology robotics python javascript linux windows android kubernetes docker software "
    "hardware database algorithm compiler keyboard monitor printer laptop router satellite "
    "rocket telescope microscope laser radar turbine diesel hydrogen helium uranium "
    "plutonium titanium aluminum copper silver mercury jupiter saturn mars venus pluto "
    "opera ballet violin guitar trumpet saxophone orchestra symphony sculpture architecture "
    "cathedral pyramid castle palace parliament senate president constitution election "
    "treaty embassy passport visa mortgage insurance pension tax stocks dividend currency "
    "tariff crocodile giraffe zebra kangaroo koala platypus octopus dolphin shark jellyfish "
    "lobster crab scorpion spider termite mosquito beetle flamingo ostrich parrot pelican "
    "falcon vulture camel llama rhinoceros hippopotamus gorilla chimpanzee hedgehog "
    "squirrel beaver otter walrus lizard avocado pineapple mango papaya broccoli asparagus "
    "artichoke quinoa sushi curry ramen burrito lasagna croissant espresso whiskey vodka "
    "tequila champagne baseball cricket rugby golf hockey karate judo marathon olympics "
    "skateboard parachute submarine helicopter motorcycle tractor lawyer pilot dentist "
    "plumber engineer astronaut detective journalist accountant surgeon"
)
SYLLABLES = _words(
    "ba be bo bri cal cor da del dro fa fen fi gar glo gra hol ja jun ka kel kro lan lo lum "
    "ma mer mi mon na nel no ol or pa pel pra qua ra ren ro sa sel shi sol sta ta tel tor "
    "tra u va vel vo wan wi xen ya yo za zel zi"
)

ABOUT_PLACE = (
    "What is the capital of {x}?",
    "Where is {x}?",
    "How many people live in {x}?",
    "Who is the president of {x}?",
    "What is the weather in {x}?",
    "How far is {x}?",
    "What language do people speak in {x}?",
    "How big is {x}?",
    "what time is it in {x}",
    "Tell me about {x}.",
    "How do I get to {x}?",
    "Who is the king of {x}?",
)
ABOUT_PERSON = (
    "Who is {x}?",
    "Who was {x}?",
    "When was {x} born?",
    "What did {x} do?",
    "Tell me about {x}.",
    "How old is {x}?",
    "Do you know {x}?",
    "Where does {x} live?",
    "Who is {x} {y}?",
    "What did {x} say about {y}?",
    "Is {x} married?",
    "What do you know about {x}?",
)
ABOUT_NOUN = (
    "What is {x}?",
    "What is a {x}?",
    "How does {x} work?",
    "Tell me about {x}.",
    "Explain {x}.",
    "What does a {x} eat?",
    "Where does a {x} live?",
    "Why is {x} important?",
    "Who invented {x}?",
    "How do I use {x}?",
    "How much does a {x} cost?",
    "What is the meaning of {x}?",
    "What do you think about {x}?",
    "How do I make {x}?",
    "Can you explain {x} and {y}?",
    "What is the difference between {x} and {y}?",
    "Where can I buy a {x}?",
    "How do I fix my {x}?",
    "What does {x} mean?",
    "Is {x} good or bad?",
    "Write a poem about {x}.",
    "When did {x} start?",
    "What color is a {x}?",
    "What is {x} made of?",
    "How do I learn {x}?",
    "Who likes {x}?",
    "What does a {x} look like?",
    "What is a {x} used for?",
    "What do I need for {x}?",
)
FIXED = (
    "Who won the game last night?",
    "What is the news today?",
    "What time is it?",
    "What is the weather today?",
    "What day is it today?",
    "Will it rain tomorrow?",
    "What is the price of gold?",
    "Who will win the election?",
    "What is on TV tonight?",
    "Can you write code for me?",
    "Write a program that sorts numbers.",
    "Fix this bug in my code.",
    "Translate this into Spanish.",
    "What is my name?",
    "What did I do yesterday?",
    "Where are my keys?",
    "Can you call my mother?",
    "Book a flight for me.",
    "Order a pizza.",
    "What is the meaning of life?",
    "Who made the world?",
    "What will happen next year?",
    "What is the password?",
    "Which phone should I buy?",
    "How do I get rich?",
    "Who is the best singer in the world?",
    "What am I thinking?",
    "Can you see me?",
    "How many stars are there?",
    "What is the fastest car?",
    "Play a song for me.",
)
MATH = (
    "What is {a} plus {b}?",
    "What is {a} times {b}?",
    "What is {a} minus {b}?",
    "{a} + {b}",
    "How much is {a} divided by {b}?",
    "{a} * {b} = ?",
    "Solve x + {a} = {b}.",
    "is {a} a prime number",
)
