"""The wordings of all tasks: some for training, others for the held-out side, none for both.

A wording is the last turn of the user, with slots in braces. `Wordings` refuses a text that stands
on both sides, and `fits` says whether a finished turn may have come from a template, so that the
verifier can hold every row to the side that its key names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Final


@dataclass(frozen=True, slots=True)
class Wordings:
    """The wordings of one thing to ask, for each side of the split."""

    train: tuple[str, ...]
    held_out: tuple[str, ...]

    def __post_init__(self) -> None:
        """Refuse a wording that stands on both sides, or twice."""
        both = [re.sub(r"\{\w+\}", "{}", text).casefold() for text in (*self.train, *self.held_out)]
        if len(set(both)) != len(both):
            raise ValueError("a wording stands on both sides of the split, or twice")


def _of(text: str) -> Wordings:
    train, _, held_out = text.partition("\n--\n")
    sides = [tuple(line.replace(r"\n", "\n") for line in t.splitlines()) for t in (train, held_out)]
    return Wordings(sides[0], sides[1])


# One wording a line; those below "--" are held out.
WORDINGS: Final[dict[str, Wordings]] = {
    name: _of(text.strip())
    for name, text in {
        # reasoning
        "order": """
{facts} Who is the {wanted}?
{facts} Name the {wanted} person.
Read this. {facts} Which of them is the {wanted}?
Who is the {wanted} here? {facts}
--
Here is what we know: {facts} Tell me the {wanted}.
{facts} Of all these people, the {wanted} is who?""",
        "expression": """
What is {x}?
Work out {x}.
Calculate {x} step by step.
{x} = ?
--
Give me the value of {x}.
How much is {x}?""",
        "equation": """
Solve {x}.
What is x if {x}?
Find x: {x}.
{x}. What number is x?
--
For which x does {x} hold?
If {x}, then x is what?""",
        "syllogism": """
{facts} Is it certain that {asked}?
{facts} Does it follow that {asked}?
Given: {facts} Can we be sure that {asked}?
--
{facts} Must it be true that {asked}?
Suppose this holds. {facts} Is it then safe to say that {asked}?""",
        "direction": """
{name} faces {start} and turns {turns}. Which way is that in the end?
{name} looks {start}, then turns {turns}. Which way does {name} look now?
Start: {start}. Turns: {turns}. What is the last direction of {name}?
--
{name} stands facing {start}. The turns are {turns}. In which direction does {name} end?
After facing {start} and turning {turns}, where does {name} face?""",
        "parity": """
Is {x} even or odd?
Even or odd: {x}?
Say if {x} is even or odd.
--
Tell me: is {x} an odd or an even number?
Would you call {x} odd or even?""",
        "liars": """
{facts} Does {name} tell the truth?
{facts} Is {name} honest?
Everybody here always lies or never does. {facts} Can {name} be believed?
--
{facts} Would you say that {name} is honest?
Each of them always lies or never does. {facts} May we trust {name}?""",
        # code
        "number_function": """
Write a Python function {name}(x) that {steps}.
Write {name}(x) in Python. It {steps}.
Python: a function {name}(x) which {steps}.
--
I need a function {name}(x) in Python; it {steps}.
Please code {name}(x), a Python function that {steps}.""",
        "list_function": """
Write a Python function {name}(xs) that returns {what}.
Write {name}(xs) in Python. It returns {what}.
Python: a function {name}(xs) which gives back {what}.
--
I need a function {name}(xs) in Python; its result is {what}.
Please code {name}(xs), a Python function for {what}.""",
        "text_function": """
Write a Python function {name}(s) that takes a text and {steps}.
Write {name}(s) in Python. It takes a text and {steps}.
Python: a function {name}(s) of a text which {steps}.
--
I need a function {name}(s) in Python; given a text, it {steps}.
Please code {name}(s), a Python function of one text that {steps}.""",
        "trace": r"""
What does this program print?\n{program}
{program}\nWhat is printed?
Read the program.\n{program}\nSay what it prints.
--
Which output does this code give?\n{program}
Run this in your head:\n{program}\nWhat comes out?""",
        "loop": """
Write a Python program that prints {what}.
Python, please: print {what}.
Make a program in Python which prints {what}.
--
I need a few lines of Python to print {what}.
How do I print {what} in Python?""",
        "repair": r"""
This test fails: {test}\n{code}\nMend the function.
{code}\nIt should pass the test {test}. Correct it.
Fix this function for the test {test}.\n{code}
--
The function is wrong, {test} does not hold.\n{code}\nWrite it as it should be.
{code}\nChange a thing and make {test} true.""",
        # creative
        "story": """
Write a story of {n} sentences with the words {words}.
Tell a tale in {n} sentences with the words {words}.
Make up {n} sentences that tell of {words}.
--
I want {n} sentences of a story, and in them {words}.
Use {words} in a little story of {n} sentences.""",
        "couplet": """
Write a couplet for {name}: the first line ends with {first}, the second line names {second}.
Two lines for {name}, please: end the first with {first}, and have {second} in the second.
Write two lines that rhyme for {name}. The first ends with {first}, the second has {second}.
--
A rhyme for {name}! Of its two lines, one must close with {first}, the other must hold {second}.
Give {name} a poem of two lines, {first} at the end of line one, {second} in line two.""",
        "alliteration": """
Make a sentence in which the words begin with {letter}, out of {words}.
Out of {words}, make a sentence of words with {letter}.
Use {words} for a sentence whose words begin with {letter}.
--
Join {words} to one sentence; every word starts with {letter}.
One sentence of words in {letter}, please: take {words}.""",
        "acrostic": """
Write an acrostic of {word} for {name}. Each line has two words.
For {name}: lines of two words whose first letters spell {word}.
Spell {word} for {name} with the first letters of lines, two words each.
--
{name} wants an acrostic of {word}, two words in a line.
Let lines begin with the letters of {word}, two words a line, for {name}.""",
        "counted": """
Write a sentence of {n} words with the word {word}{rule}.
A sentence with {word} in it, please, {n} words long{rule}.
Make a sentence about the {word} in {n} words{rule}.
--
I need a sentence that has {n} words, {word} among them{rule}.
In {n} words exactly, say something of the {word}{rule}.""",
        # tool_use: requests, by the tool that serves them
        "get_weather": """
What is the weather in {city} on {day}?
Will it rain in {city} on {day}?
--
Tell me how warm {city} will be on {day}.""",
        "get_time": """
What time is it in {city}?
Tell me the time in {city}.
--
How late is it now in {city}?""",
        "book_train": """
Book a train from {origin} to {city}.
I need a train from {origin} to {city}.
--
Get me a seat from {origin} to {city}.""",
        "send_message": """
Write {name} the message {text}.
Send {text} to {name}.
--
Let {name} know this: {text}.""",
        "call_person": """
Call {name} at {hour}.
I want to talk to {name} at {hour}.
--
Ring up {name} when it is {hour}.""",
        "set_timer": """
Set a timer for {minutes} minutes.
Wake me in {minutes} minutes.
--
Ring a bell after {minutes} minutes.""",
        "find_item": """
Find my {thing}.
Where did I leave my {thing}?
--
I have lost my {thing}.""",
        "order_item": """
Order {count} of the {thing}.
Buy the {thing}, {count} times.
--
Have {count} of the {thing} sent to me.""",
        "set_light": """
Make the light in the {place} {color}.
I want {color} light in the {place}.
--
Turn the lamps of the {place} to {color}.""",
        "open_door": """
Open the door of the {place} for {minutes} minutes.
Let me into the {place} for {minutes} minutes.
--
Unlock the {place} and wait {minutes} minutes.""",
        "price": """
What does the {thing} cost?
Tell me the price of the {thing}.
--
How expensive is the {thing}?""",
        "add": """
Add {a} and {b}.
What is {a} plus {b}?
--
How much are {a} and {b} together?""",
        "multiply": """
Multiply {a} by {b}.
What is {a} times {b}?
--
How much are {a} rows of {b}?""",
        "chain": """
What do {count} of the {thing} cost?
How much must I pay for {count} of the {thing}?
--
I take {count} of the {thing}. What is the sum?""",
        # long_context
        "lookup": """
{text} Where is {name}'s {thing}?
{text} In which place is {name}'s {thing}?
Where is {name}'s {thing}? Read: {text}
--
{text} Can you find {name}'s {thing}?
Look for {name}'s {thing} in this text. {text}""",
        "owner": """
{text} Who has something in the {place}?
{text} Whose thing is in the {place}?
Whose thing is in the {place}? Read: {text}
--
{text} Who left something in the {place}?
Find out who has a thing in the {place}. {text}""",
        "count": """
{text} How many people have something in the {place}?
{text} Count the people with something in the {place}.
How many have a thing in the {place}? Read: {text}
--
{text} What is the number of people with a thing in the {place}?
Count who has something in the {place} by this text. {text}""",
        "moved": """
{text} Where is the {thing} now?
{text} In which place is the {thing} at last?
Where is the {thing} after all this? Read: {text}
--
{text} Where do I find the {thing} today?
Where did the {thing} end up? The text: {text}""",
        "hops": """
{text} In which city is the {thing}?
{text} Name the city where the {thing} is.
In which city is the {thing} now? Read: {text}
--
{text} To which city did the {thing} go?
Find the city of the {thing}. {text}""",
        # problem_solving
        "tally": """
{story} How many {thing}s does {name} have now?
{story} Count the {thing}s of {name} now.
How many {thing}s are {name}'s after this? {story}
--
{story} What is the number of {thing}s that {name} has in the end?
How many {thing}s does {name} end up with? {story}""",
        "boxes": """
The {place} has {count} boxes with {each} {thing}s each, and {tail}. How many {thing}s are there?
In the {place} are {count} boxes of {each} {thing}s, and {tail}. How many {thing}s is that?
A count of the {place}: {count} boxes of {each} {thing}s, and {tail}. Say how many {thing}s.
--
There are {count} boxes in the {place}. Each holds {each} {thing}s, and {tail}. How many in all?
Somebody looks into the {place}: {count} boxes, {each} {thing}s in each, and {tail}. The sum?""",
        "clock": """
{event} {start} and takes {minutes} minutes. When is the end?
{event} {start}. It lasts {minutes} minutes. When is it over?
When does it end? {event} {start} and takes {minutes} minutes.
--
{event} {start}, and {minutes} minutes later it stops. What time is that?
It needs {minutes} minutes. {event} {start}. At what time is it done?""",
        "coins": """
Coins are worth {coins}. What is the fewest coins that make {amount}?
With coins of {coins}, how few coins make {amount}?
Pay {amount} with coins of {coins}, as few as you can. How many are they?
--
There are coins of {coins}. Which smallest number of them pays {amount}?
What is the least count of coins for {amount}, if there are {coins}?""",
        "route": """
Roads: {roads}. What is the shortest way from {start} to {goal}?
These are the roads with their miles: {roads}. Go from {start} to {goal} by the shortest way.
Which way is shortest from {start} to {goal}? The roads: {roads}.
--
A map says: {roads}. Find the way of fewest miles from {start} to {goal}.
How do I get from {start} to {goal} in the fewest miles? On the map: {roads}.""",
        "plan": """
Jobs: {jobs}. {rules} In which order can they be done?
{rules} Plan the jobs {jobs}.
Order the jobs {jobs} so that all of this holds: {rules}
--
I have to {jobs}. {rules} What do I do one after another?
Make a list of {jobs}, minding this: {rules}""",
        # instruction
        "edit": """
{verb} these words{case}: {words}.
Take {words} and {verb} them{case}.
{words}: {verb} these{case}.
--
Here are some words: {words}. Please {verb} them{case}.
What do you get if you {verb} {words}{case}?""",
        "numbers": """
Sort the numbers {values} {how}.
Put {values} in order {how}.
Write the numbers {values} {how}.
--
Arrange {values} so that they go {how}.
Order, {how}, these numbers: {values}.""",
        "extreme": """
Which is the {how} number of {values}?
Of the numbers {values}, which is the {how}?
Find the {how} of {values}.
--
Look at {values}: what is the {how} number?
Say which number is the {how} one: {values}.""",
        "pick": """
Answer with the {ordinal} word{style}: {words}.
Give me the {ordinal} word of {words}{style}.
{words}. Which is the {ordinal} word{style}?
--
From the list {words} take the {ordinal} word and write it{style}.
Write only the {ordinal} of these words{style}: {words}.""",
        "swap": """
Replace {old} by {new}: {text}.
Write {new} for {old}: {text}.
In the words {text}, put {new} where {old} stands.
--
Change {old} to {new} in this: {text}.
Take {text}, but with {new} instead of {old}.""",
        "format": """
Write {words} as {form}.
Give me {words} as {form}.
Make {form} of {words}.
--
Turn {words} into {form}.
I want {form} with {words}.""",
        # roleplay
        "seek": """
Where is the {thing}?
I am looking for the {thing}.
Have you seen the {thing}?
--
Do you know where the {thing} went?
Tell me the place of the {thing}, please.""",
        "greet": """
I am {name}, a {job} from {city}.
My name is {name}. I am a {job} in {city}.
Hello, {name} here, {job} in {city}.
--
They call me {name}, the {job} of {city}.
You speak with {name}. My work: {job}. My home: {city}.""",
        "recall": """
What is my name, and what do I have?
Do you remember my name and my animal?
Who am I, and what do I have?
--
Say my name and my animal again.
Can you repeat what I have, and my name?""",
        "card": """
What is your {fact}?
Tell me your {fact}.
I would like to know your {fact}.
--
And your {fact}, what is it?
May I ask about your {fact}?""",
    }.items()
}


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """Return what a turn of `template` looks like: its fixed words, and something in each slot."""
    parts = []
    for one in template.split("+"):
        name, _, place = one.rpartition(".")
        if not re.fullmatch(r"[th]\d{1,3}", place):
            raise ValueError(f"no template {one[:40]!r}")
        both = WORDINGS[name]
        texts = both.held_out if place.startswith("h") else both.train
        pieces = re.split(r"\{(\w+)\}", texts[int(place[1:])])
        slots = [r"(?:.*?)" if name in ("case", "style", "rule") else r"(?:.+?)"
                 for name in pieces[1::2]]  # fmt: skip
        fixed = [re.escape(piece) for piece in pieces[::2]]
        parts.append("".join(f + s for f, s in zip(fixed, [*slots, ""], strict=True)))
    return re.compile(" ".join(parts), re.DOTALL)


def fits(template: str, turn: str) -> bool:
    """Return whether `turn` may be worded by `template`; False for an unknown template too."""
    try:
        return _pattern(template).fullmatch(turn) is not None
    except (KeyError, IndexError, ValueError):
        return False


def templates_of(name: str, *, held_out: bool) -> list[str]:
    """Return the identities of all wordings of `name` on one side."""
    both = WORDINGS[name]
    letter, texts = ("h", both.held_out) if held_out else ("t", both.train)
    return [f"{name}.{letter}{number}" for number in range(len(texts))]
