"""Phrases of our own: a small grammar of chat, numbers, names and questions, and the cues."""

import random

from synth.figures import number_words

CUES = (
    *("[laughs]", "[laughter]", "[sighs]", "[gasps]", "[clears throat]", "[music]"),
    *("[laughs]", "[sighs]", "♪"),
)

# Never trained on: easy and chat sentences to judge a checkpoint by.
EASY = [
    "Hello, my name is Alice and I am happy to meet you.",
    "Good morning, how are you today?",
    "The quick brown fox jumps over the lazy dog.",
    "Please open the window, it is very warm in here.",
    "I would like a cup of coffee and a glass of water.",
    "What time does the next train leave for the city?",
    "She sells sea shells by the sea shore.",
    "There are twenty five students in the classroom.",
    "The weather will be cold and rainy tomorrow.",
    "Thank you very much for your help.",
    "My brother bought a new bicycle last week.",
    "We walked along the river until the sun went down.",
    "Can you hear me now, or is my microphone broken?",
    "Let me know when you are ready to start the game.",
    "That was the funniest thing I have seen all day.",
    "I will be back in five minutes, wait for me.",
    "Who wants to join the voice channel tonight?",
    "Welcome to the server, please read the rules first.",
    "Sorry, I did not hear what you said.",
    "Dinner is ready, come down to the kitchen.",
    "He forgot his keys on the table again.",
    "Do you want to watch a movie after work?",
    "The children are playing in the garden.",
    "I think we should take a short break.",
    "Could you send me the pictures from the party?",
    "It is already late and I have to sleep.",
    "Turn the music down, the baby is asleep.",
    "We won the last round by a single point.",
    "My sister lives in a small house near the sea.",
    "The bus stops in front of the old church.",
    "Yes, that sounds like a really good idea.",
    "No problem, we can try it again tomorrow.",
    "Happy birthday, I hope you have a great day!",
    "The doctor told me to drink more water.",
    "Everybody laughed when the cat fell off the chair.",
    "I have never been to this part of the country.",
    "Put the milk back in the fridge, please.",
    "How much does the blue shirt cost?",
    "The teacher wrote a long word on the board.",
    "See you next week at the same time.",
]

NAMES = (
    "Anna Ben Maria Tom Lucy James Sarah David Emma John Kate Peter Robert Linda Michael Susan "
    "Daniel Laura Kevin Grace Henry Julia Paul Sophie Mark Nancy Oliver Rachel Steven Alex Amy "
    "Andrew Barbara Brian Carlos Carol Charles Chloe Chris Claire Dylan Eddie Elena Ella Eric "
    "Eva Felix Fiona Frank Gabriel George Hannah Harry Helen Ian Isaac Ivan Jack Jacob Jane Jason "
    "Jenny Jessica Joe Jordan Josh Karen Leo Lily Liam Logan Lucas Maya Martin Max Megan Mia "
    "Molly Natalie Nathan Nick Nina Noah Nora Omar Patrick Philip Rebecca Rosa Ruby Ryan Sam Sofia "
    "Simon Tara Theo Thomas Tina Tony Vera Victor Violet Walter Wendy William Zoe Yuki Ahmed Priya"
).split()
THINGS = (
    "coffee|a cup of tea|the report|the newspaper|a new phone|the red car|my keys|the garden|"
    "some bread|a glass of juice|the meeting|the music|a good book|the window|this computer|"
    "the kitchen table|an old song|the blue jacket|a sandwich|the train ticket|the camera|"
    "a birthday cake|the front door|her guitar|his umbrella|the big dog|our house|the small cat|"
    "a long walk|the answer|this game|the next round|a headset|the microphone|your message|"
    "that video|the new update|a better plan|my homework|the last level|a picture|the map|"
    "some pizza|a hot shower|the whole story|an email|the password|this channel|a joke|my brother|"
    "the screen|her letter|two tickets|a quiet place|the other team|our server|the first question"
).split("|")
PLACES = (
    "the park|the office|the station|London|the beach|school|the library|New York|the river|"
    "the city center|the airport|Paris|the market|the mountains|the hospital|a restaurant|"
    "California|the village|the museum|home|the bank|Berlin|the bridge|the theater|Tokyo|the gym|"
    "the forest|Chicago|the hotel|the farm|the lake|Texas|the university|the garage|Canada|Spain|"
    "the corner|the castle|the island|Boston|the voice channel|the lobby|the main hall"
).split("|")
TIMES = (
    "today|tomorrow|this morning|tonight|on Monday|on Friday|next week|at noon|in the evening|"
    "this afternoon|next summer|on Sunday|last night|every day|yesterday|right now|soon|"
    "on Tuesday|on Wednesday|on Thursday|on Saturday|in January|in March|in December|at midnight|"
    "after lunch|before dinner|later|again|once more|this weekend|next month|at seven"
).split("|")
_ADJECTIVES = (
    "happy sad tired beautiful important strange quiet loud warm cold difficult easy funny "
    "expensive simple wonderful terrible bright dark friendly clever useful slow fast heavy "
    "clean dirty early late amazing awful boring brave calm cheap crazy cute dangerous empty "
    "fresh gentle glad huge hungry lucky nervous nice noisy perfect polite proud rude serious "
    "shy silly smart soft sour stupid sweet tiny ugly weird wise young"
).split()
_WEATHER = "sunny rainy cloudy windy snowy warm cold foggy hot nice".split()
_VERBS = (
    "find see buy like want need remember forget bring take open close clean fix hear watch use "
    "check borrow move share save lose keep hide paint touch carry draw finish start try play "
    "change choose show sell study"
).split()
_PEOPLE = "I|you|we|they|my friend|the teacher|everyone|nobody|somebody|our team|the kids".split(
    "|"
)
_PAST = (
    "went home|fell asleep|lost the game|won again|called me|said goodbye|left early|came back|"
    "laughed a lot|got really angry|forgot about it|told the truth|ran away|made a mistake|"
    "waited for hours|found the answer|joined the server|broke the record|missed the bus|"
    "cooked dinner|stayed up all night|heard a noise|turned around|bought a ticket"
).split("|")
_SHORT = (
    "Yes.|No.|Maybe.|Okay.|Sure.|Thanks!|Hello!|Hi there!|Hey!|Goodbye.|Bye!|Good night.|Welcome!|"
    "Please wait.|Stop!|Go!|Come on!|Let's go!|Well done!|Good job!|Nice one!|Great!|Awesome!|"
    "Excuse me?|Really?|Why?|Why not?|What?|Who?|Where?|When?|How?|How come?|I see.|I know.|"
    "I don't know.|Never mind.|No way!|Of course.|Not yet.|Right now.|Be careful!|Watch out!|"
    "Good luck!|Have fun!|One moment.|Just a second.|I'm here.|I'm back.|Are you there?|"
    "Can you hear me?|Try again.|Same here.|Me too.|That's it.|That's fine.|All right.|Oh no!|"
    "Oh my god!|Wow!|Hmm.|Um, wait.|Ready?|Good game!|Next one, please.|Guess what?|Cheers!|"
    "Congratulations!|What's up?|How are you?|I'm fine.|Not bad.|You're welcome.|It's okay."
).split("|")
WORDS = tuple(w for group in (NAMES, _ADJECTIVES, _VERBS, _WEATHER) for w in group)


def _number(rng: random.Random, below: int = 3000) -> str:
    n = rng.choice(
        (rng.randrange(20), rng.randrange(100), rng.randrange(1000), rng.randrange(below))
    )
    return f"{n:,}" if rng.random() < 0.35 else number_words(n)


def short_phrase(rng: random.Random) -> str:
    """One to four words; now and then with a name, or shouted."""
    text = rng.choice(_SHORT)
    if rng.random() < 0.45:
        text = f"{text[:-1]}, {rng.choice(NAMES)}{text[-1]}"
    return text.upper() if rng.random() < 0.15 else text


def phrase(rng: random.Random) -> str:
    """One sentence of the grammar."""
    c = rng.choice
    n, m, t, u = c(NAMES), c(NAMES), c(THINGS), c(THINGS)
    p, w, a, b, v = c(PLACES), c(TIMES), c(_ADJECTIVES), c(_ADJECTIVES), c(_VERBS)
    who, did, num, num2 = c(_PEOPLE), c(_PAST), _number(rng), _number(rng, 100)
    hour, minute = number_words(rng.randrange(1, 13)), c(("oh five", "fifteen", "thirty", "ten"))
    digits = [rng.randrange(10) for _ in range(rng.randrange(3, 8))]
    spoken = " ".join(map(c((str, number_words)), digits))
    makers = (
        lambda: f"Hello, my name is {n}.",
        lambda: f"Hello {n}, how are you {w}?",
        lambda: f"Good {c(('morning', 'evening', 'afternoon', 'night'))}, {n}.",
        lambda: f"Nice to meet you, {n}.",
        lambda: f"Thank you {c(('so', 'very'))} much, {n}.",
        lambda: f"Can you {v} {t} {w}?",
        lambda: f"I would like to {v} {t}.",
        lambda: f"Please {v} {t} {w}.",
        lambda: f"The weather in {p} is {c(_WEATHER)} {w}.",
        lambda: f"It is {hour} {minute}.",
        lambda: f"It is {hour} o'clock {w}.",
        lambda: f"The number is {num}.",
        lambda: f"{num} plus {num2} is {_number(rng)}.",
        lambda: f"There are {num} people at {p}.",
        lambda: f"My phone number is {spoken}.",
        lambda: f"{n} and {m} went to {p} {w}.",
        lambda: f"I think {t} is {c(('very', 'too', 'a bit', 'really', 'not'))} {a}.",
        lambda: f"Do you {v} {t}?",
        lambda: f"Where is {t}, {n}?",
        lambda: f"I do not {v} {t}.",
        lambda: f"Let us go to {p} {w}.",
        lambda: f"{n} said that {p} was {a} and {b}.",
        lambda: f"Why is {t} so {a}?",
        lambda: f"We will {v} {t} at {p} {w}.",
        lambda: f"It costs {num} dollars.",
        lambda: f"I am {a}, but {n} is {b}.",
        lambda: f"What do you think about {t}, {n}?",
        lambda: f"She was {a} because {n} forgot {t}.",
        lambda: f"If it is {c(_WEATHER)} {w}, we can go to {p}.",
        lambda: f"Turn {c(('left', 'right'))} at {p} and walk {num2} meters.",
        lambda: f"Happy birthday, {n}!",
        lambda: f"I'm sorry, I can't {v} {t} {w}.",
        lambda: f"You don't have to {v} {t}.",
        lambda: f"This is a test, number {num}.",
        lambda: f"See you {w}, {n}!",
        lambda: f"{who} {did} {w}.",
        lambda: f"{n} {did}, and then {m} {did} too.",
        lambda: f"Did {n} really {v} {t} {w}?",
        lambda: f"Has anyone seen {t} or {u}?",
        lambda: f"{n}, please {v} {t} and come to {p}.",
        lambda: f"I have been to {p} {number_words(rng.randrange(2, 20))} times.",
        lambda: (
            f"That is a {a} {c(('idea', 'day', 'story', 'place', 'question', 'game', 'song'))}."
        ),
        lambda: f"When {who} {did}, I was at {p}.",
        lambda: f"Well, I guess {t} was {a} after all.",
        lambda: f"You should {v} {t} before you {c(_VERBS)} {u}.",
        lambda: f"Hmm... I don't know if {n} can {v} {t}.",
        lambda: f"Wait — who is going to {v} {t}?",
        lambda: f"There is {t}, and there is {u}.",
        lambda: f"How many people are at {p} {w}?",
        lambda: f"Is it {a} or {b}?",
        lambda: (
            f"{n} was born in {c(('nineteen', 'twenty'))} {number_words(rng.randrange(10, 99))}."
        ),
        lambda: f"Tell {n} that I'm going to {p} {w}.",
        lambda: f"Nobody knows where {n} put {t}.",
        lambda: f"The answer is {num}, not {num2}.",
        lambda: f"Everyone was {a}, even {n}.",
        lambda: f"Hey {n}, did you {v} {t}?",
        lambda: f"I can {v} {t}, if you {c(_VERBS)} {u}.",
        lambda: f"We need {num2} more players.",
        lambda: f"Round {num2} starts in {number_words(rng.randrange(2, 60))} seconds!",
        lambda: f"{n} joined the channel.",
    )
    text = c(makers)()
    return text.upper() if rng.random() < 0.03 else text
