"""Sentences with figures in them, as people type them: 25, $3.50, 7:30, 3 pm, 1st, 50%, 555-0123.

Only what the teacher's text front end reads as a person would. It reads 24/7 as "twenty four slash
seven", 10/10 as a date, 4071 and 007 without their zeros, 2.50 as "two point five", and drops the
number of "it's -5 degrees": none of these is made here. Four figures without a comma are years.
"""

import random
import re

from synth.nano.phrases import NAMES, PLACES, THINGS, TIMES

# Never trained on: sentences with figures to judge a checkpoint by.
HELD_OUT = [
    "The ticket was $18 and the popcorn was $7.",
    "Can you lend me $45 until Friday?",
    "My new laptop cost $1,299 with the case.",
    "He tipped the waiter $3.75 last night.",
    "They sold the painting for €640.",
    "Wake me up at 6:45, okay?",
    "The stream begins at 8 pm tonight.",
    "Our raid is at 9:30 pm, do not be late.",
    "The shop closes at 5:15 on weekdays.",
    "I went to bed at 2 am again.",
    "The bus comes at 16:20 every afternoon.",
    "The war ended in 1945.",
    "We moved into this house in 2019.",
    "The next games will be held in 2028.",
    "Only 15% of the users voted.",
    "The download is stuck at 87%.",
    "Prices went up by 4.5% this year.",
    "There is a 60 % chance of rain.",
    "The stadium holds 48,000 fans.",
    "I have walked 1,200 steps so far.",
    "The channel has 7,350 followers now.",
    "He runs 9.4 miles before breakfast.",
    "The baby weighs 3.2 kilograms.",
    "Add 0.5 cups of sugar.",
    "She finished 1st and I finished 17th.",
    "Today is the 31st, so rent is due.",
    "It was their 50th wedding anniversary.",
    "This is the 2nd warning, please stop.",
    "You can reach the office at 555-0147.",
    "Dial 415-555-0198 for help.",
    "Our hotel room is 318.",
    "Turn to page 276 in your textbook.",
    "Only 12 of us made it to level 40.",
    "My grandmother turned 93 in spring.",
    "I scored 21 goals in 14 matches.",
    "Pack 6 shirts, 2 coats and 11 socks.",
    "The recipe needs 250 grams of flour.",
    "Roll a number between 1 and 100.",
    "It is minus 8 degrees outside, wear 2 sweaters.",
    "The library has 30 chairs and 19 desks.",
]

_MONTHS = (
    "January February March April May June July August September October November December"
).split()
_COUNTED = (
    "people|points|players|minutes|seconds|hours|days|years|weeks|dollars|meters|miles|messages|"
    "tickets|pages|students|chairs|apples|cats|books|games|songs|votes|coins|steps|cars|wins|"
    "friends|members|eggs|bottles|photos|euros|degrees|levels|questions|rounds|times|kilometers"
).split("|")
_UNITS = "kg km cm mph min ft".split()
_NUMBERED = (
    "Room|Player|Level|Round|Number|Page|Chapter|Channel|Question|Team|Bus|Line|Track|Episode|"
    "Season|Gate|Platform|Step|Version|Rule|Part|Flight|Apartment|Server|Highway|Floor|Table"
).split("|")
_RANKED = (
    "time|place|floor|street|round|birthday|day|century|chapter|question|week|try|game|person|"
    "message|anniversary|episode|row|door|prize|lap"
).split("|")


def suffixed(n: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, 21st."""
    regular = n % 100 in (11, 12, 13)
    return str(n) + ("th" if regular else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th"))


def _whole(rng: random.Random) -> str:
    """A count of things; short ones most often, four figures and more with commas."""
    low, high = rng.choice(((0, 10), (10, 20), *[(20, 100)] * 3, *[(100, 1000)] * 2, (1, 10)))
    n = rng.randrange(low, high) * (100 if low == 1 else 1)
    if rng.random() < 0.15:
        step, top = rng.choice(((1000, 20), (1, 10_000), (500, 100), (1000, 1000)))
        n = step * rng.randrange(1, top)
    return f"{n:,}"


def _below(rng: random.Random, top: int) -> str:
    return str(rng.randrange(1, top))


def _price(rng: random.Random) -> str:
    sign = rng.choice("$$$$$$$€£")
    if rng.random() < 0.3:
        return f"{sign}{rng.randrange(100)}.{rng.randrange(10, 100)}"
    if rng.random() < 0.1:
        return f"{sign}{rng.randrange(2, 100)} {rng.choice(('million', 'billion', 'thousand'))}"
    return sign + _whole(rng)


def _clock(rng: random.Random) -> str:
    hour = rng.randrange(1, 13) if rng.random() < 0.8 else rng.randrange(13, 24)
    minute = rng.choice((0, 15, 30, 45, rng.randrange(60), rng.randrange(60)))
    half = rng.choice((" am", " pm", "am", "pm", " a.m.", " p.m.", " AM", " PM"))
    if hour > 12 or rng.random() < 0.5:
        return f"{hour}:{minute:02}"
    return f"{hour}:{minute:02}{half}" if rng.random() < 0.4 else f"{hour}{half}"


def _year(rng: random.Random) -> str:
    return str(rng.choice((rng.randrange(1900, 2000), rng.randrange(2000, 2040))))


def _share(rng: random.Random) -> str:
    n = rng.choice((rng.randrange(1, 100), rng.randrange(1, 20) * 5, 100))
    text = f"{n}.{rng.randrange(1, 10)}" if rng.random() < 0.15 else str(n)
    return text + rng.choice(("%", "%", " %", " percent"))


def _decimal(rng: random.Random) -> str:
    whole = rng.choice((rng.randrange(10), rng.randrange(10), rng.randrange(100)))
    return f"{whole}.{rng.choice(('', '', rng.randrange(10)))}{rng.randrange(1, 10)}"


def _day(rng: random.Random) -> str:
    n = rng.randrange(1, 31)
    return suffixed(n) if rng.random() < 0.4 else str(n)


def phone(rng: random.Random) -> str:
    """A telephone number of seven or ten figures."""
    area = f"{rng.randrange(200, 1000)}-" if rng.random() < 0.3 else ""
    middle = rng.choice((555, rng.randrange(200, 1000)))
    return f"{area}{middle}-{rng.randrange(10_000):04}"


def sentence(rng: random.Random) -> str:
    """One sentence, or only a number, with at least one figure in it."""
    c = rng.choice
    a, b, k = _whole(rng), _whole(rng), c(_COUNTED)
    x, y = _below(rng, 100), _below(rng, 100)
    n, m, t, p, w = c(NAMES), c(NAMES), c(THINGS), c(PLACES), c(TIMES)
    month, ranked, numbered = c(_MONTHS), suffixed(rng.randrange(1, 40)), c(_NUMBERED)
    clock, price, share, decimal, year = (f(rng) for f in (_clock, _price, _share, _decimal, _year))
    makers = (
        # counts
        lambda: f"{a}",
        lambda: f"{a}.",
        lambda: f"{a} {k}.",
        lambda: f"{a} {k}, not {b}.",
        lambda: f"There are {a} {k} at {p}.",
        lambda: f"I need {a} {k} and {b} {c(_COUNTED)}.",
        lambda: f"We have {a} {k} left.",
        lambda: f"{n} has {a} {k}.",
        lambda: f"{n} has {a} {k} and {m} has {b}.",
        lambda: f"It costs {a} dollars.",
        lambda: f"Wait {x} {c(('seconds', 'minutes', 'hours', 'days'))}, {n}.",
        lambda: f"I will be there in {x} minutes.",
        lambda: f"{n} is {x} years old.",
        lambda: f"{n} is {x} and {m} is {y}.",
        lambda: f"The answer is {a}.",
        lambda: f"Pick a number from {x} to {a}.",
        lambda: f"{x}, {y}, {_below(rng, 1000)}.",
        lambda: f"{a} or {b}?",
        lambda: f"Is it {a} or {b}, {n}?",
        lambda: f"{x} plus {y} is {int(x) + int(y)}.",
        lambda: f"{x} + {y} = {int(x) + int(y)}.",
        lambda: f"{c(('Okay', 'Wow', 'So', 'Well', 'Yes', 'No'))}, {a} {k} {w}.",
        lambda: f"Only {a} {k} to go!",
        lambda: f"I've waited {a} {k}.",
        # numbers as names
        lambda: f"{numbered} {_below(rng, 1000)}.",
        lambda: f"{numbered} {x} is ready.",
        lambda: f"Go to {numbered.lower()} {_below(rng, 400)} {w}.",
        lambda: f"We are in {numbered.lower()} {_below(rng, 1000)}, {n}.",
        lambda: f"Number {x}, please.",
        lambda: f"This is #{x}.",
        # scores and ranges
        lambda: f"We won {rng.randrange(11)}-{rng.randrange(11)}!",
        lambda: f"The score is {x} to {y}.",
        lambda: f"It takes {(r := rng.randrange(1, 20))}-{r + rng.randrange(1, 10)} {k} to do it.",
        # money
        lambda: f"{price}",
        lambda: f"It costs {price}.",
        lambda: f"That's {price}, {n}.",
        lambda: f"I paid {price} for {t}.",
        lambda: f"{n} owes me {price}.",
        lambda: f"Do you have {price}?",
        lambda: f"{price} for {t} is too much!",
        # times of day
        lambda: f"{clock}",
        lambda: f"Wake me at {clock}.",
        lambda: f"See you at {clock}, {n}!",
        lambda: f"The train leaves at {clock}.",
        lambda: f"We start at {clock} and stop at {_clock(rng)}.",
        lambda: f"Is {clock} okay for you, {n}?",
        lambda: f"Meet me at {p} at {clock}.",
        # dates and years
        lambda: f"{year}.",
        lambda: f"In {year}, {n} went to {p}.",
        lambda: f"It was the summer of {year}.",
        lambda: f"{n} was born in {year}.",
        lambda: f"Happy new year {year}!",
        lambda: f"My birthday is {month} {_day(rng)}.",
        lambda: f"It was {month} {_day(rng)}, {year}.",
        lambda: f"See you on {month} {_day(rng)} at {clock}.",
        lambda: f"The {rng.randrange(6, 10)}0s were great.",
        # order
        lambda: f"{ranked}",
        lambda: f"This is the {ranked} {c(_RANKED)}.",
        lambda: f"It's my {ranked} {c(_RANKED)} {w}.",
        lambda: f"{n} came in {ranked} and {m} in {suffixed(rng.randrange(1, 30))}.",
        # shares, measures
        lambda: f"{share}",
        lambda: f"I'm {share} sure.",
        lambda: f"{share} of the {k} are gone.",
        lambda: f"My battery is at {share}.",
        lambda: f"{decimal}",
        lambda: f"It is {decimal} {c(('meters', 'miles', 'hours', 'percent', 'points'))} long.",
        lambda: f"About {decimal} {k}, I think.",
        lambda: f"It's {x} degrees in {p}.",
        lambda: f"It's {x}°{c('CF')} {w}.",
        lambda: f"{x} {c(_UNITS)} is too much for {t}.",
        lambda: f"I ran {x} km in {y} min.",
        # telephone numbers
        lambda: f"{phone(rng)}",
        lambda: f"Call {phone(rng)} {w}.",
        lambda: f"My phone number is {phone(rng)}.",
        lambda: f"{n}'s number is {phone(rng)}, call {w}.",
    )
    return re.sub(r"\.+$", ".", c(makers)())  # "at 3 p.m." has its full stop already
