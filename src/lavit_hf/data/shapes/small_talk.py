# Copyright 2026 The lavit_hf authors. Licensed under the Apache License, Version 2.0.
"""Small talk around requests, other spellings and abbreviations, none of which changes what is asked for."""

import re
from random import Random


GREETINGS = (
    "hi",
    "hello",
    "hey",
    "hi there",
    "hello there",
    "good morning",
    "good evening",
    "dear computer",
    "ok",
    "hmm",
)
PEOPLE = (
    *(
        "i",
        "we",
        "my daughter",
        "my son",
        "my mother",
        "my father",
        "my brother",
        "my sister",
        "my grandma",
        "my friend",
    ),
    *(
        "the children",
        "our teacher",
        "my boss",
        "a client",
        "my class",
        "the team",
        "my wife",
        "my husband",
        "he",
        "she",
    ),
)
ACTS = (
    *("like shapes", "want a picture for {}", "need this for {}", "work on {}", "will use it for {}", "play with {}"),
    *(
        "think about {}",
        "am trying this for {}",
        "have to finish {}",
        "wait for {}",
        "asked me for this",
        "am curious",
    ),
    *("make {}", "paint {}", "am bored", "found this page today", "study for {}", "have fun with {}", "print {}"),
)
USES = (
    *("a poster", "a game", "school", "the wall", "a website", "a logo", "a present", "a lesson", "a quiz", "a book"),
    *("homework", "a test", "my phone", "a flag", "a puzzle", "a story", "the kitchen", "a sign", "a party", "work"),
)
OPENINGS = (
    *(
        "here is what i need",
        "next one",
        "one more try",
        "let's see",
        "my idea",
        "the picture",
        "what i want",
        "request",
    ),
    *("let me try this", "listen", "now this", "task", "please do this", "a small wish", "i have a question for you"),
)
CLOSINGS = (
    *("thanks", "thank you", "thanks a lot", "thank you very much", "cheers", "please"),
    *("if you can",),
    *(
        "if possible",
        "as soon as possible",
        "take your time",
        "make it nice",
        "you are great",
    ),
    *(
        "do you understand?",
        "is that possible?",
        "can you do that?",
        "i hope that works",
        "lol",
        "haha",
        "that would be nice",
    ),
)
ABBREVIATIONS = {"please": ("pls", "plz"), "you": ("u",), "and": ("&", "n"), "with": ("w/",), "thanks": ("thx",)}


# Only for requests to draw: in an edit, all other objects stay.
LAST_WORDS = (
    *("that's all", "that is it", "nothing else", "nothing more", "no more than that", "no other shapes"),
    *("nothing else in the picture", "and that's everything"),
)


def add_talk(text: str, rng: Random, asks_to_draw: bool = True) -> str:
    """Adds small talk before or after a request, one time in six."""
    share = rng.random()
    if share > 0.16:
        return text
    if share < 0.03:
        return f"{rng.choice(GREETINGS)}{rng.choice(('! ', ', ', '. ', ' '))}{text}"
    if share < 0.06:
        return f"{rng.choice(OPENINGS)}{rng.choice((': ', '. ', ', ', ' - '))}{text}"
    if share < 0.11:
        person, act = rng.choice(PEOPLE), rng.choice(ACTS).format(rng.choice(USES))
        greeting = f"{rng.choice(GREETINGS)}{rng.choice(('! ', ', '))}" if rng.random() < 0.3 else ""
        said = f"{greeting}{person} {_inflect(person, act)}"
        if rng.random() < 0.7:
            return f"{said}{rng.choice(('. ', ', so ', ': ', '! '))}{text}"
        return f"{_end(text)} {said}"
    return f"{_end(text)} {rng.choice((*CLOSINGS, *LAST_WORDS) if asks_to_draw else CLOSINGS)}"


def respell(text: str, rng: Random) -> str:
    """Spells a text as in Britain or with abbreviations, one time in eight."""
    share = rng.random()
    if share < 0.08:
        for american, british in ((r"center\b", "centre"), ("color", "colour"), ("gray", "grey")):
            text = re.sub(american, british, text)
    elif share < 0.12:
        for word, shorter in ABBREVIATIONS.items():
            text = re.sub(rf"\b{word}\b", rng.choice(shorter), text)
    return text


def _end(text: str) -> str:
    """Returns a text with a mark at its end."""
    return text if text[-1] in ".?!" else f"{text}."


def _inflect(person: str, act: str) -> str:
    """Returns the verb in the form that goes with a person: "i am bored", "my son is bored"."""
    verb, _, rest = act.partition(" ")
    if verb in ("asked", "found", "will"):
        return act
    if person == "i":
        return act
    if person in ("we", "the children"):
        return f"{'are' if verb == 'am' else verb} {rest}"
    third = {"am": "is", "have": "has"}.get(verb, f"{verb}es" if verb.endswith(("s", "sh", "ch")) else f"{verb}s")
    third = "studies" if verb == "study" else third
    return f"{third} {rest}"
