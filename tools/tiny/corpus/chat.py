"""Second turns: remembering what the user said, and ordinary questions after an earlier turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tools.tiny.corpus import arithmetic, greetings, instructions, world
from tools.tiny.corpus.base import (
    Dice,
    Exchange,
    Message,
    Sample,
    assistant,
    exact,
    system,
    user,
    words,
)
from tools.tiny.corpus.facts import FACTS, PEOPLE

TOLD = {
    # thing: (told, the reply, asked, asked only in tests, the answer)
    "name": (
        ("My name is {v}.", "I am {v}.", "Hi, I am {v}.", "Hello, my name is {v}.", "I'm {v}."),
        "Nice to meet you, {v}!",
        ("What is my name?", "What's my name?", "Who am I?", "Do you know my name?", "My name?"),
        ("Do you remember my name?", "Tell me my name.", "So what is my name?"),
        "Your name is {v}.",
    ),
    "city": (
        ("I live in {v}.", "I am from {v}.", "My home is {v}.", "I live in the city of {v}."),
        "I will remember that you live in {v}.",
        ("Where do I live?", "What city do I live in?", "Where am I from?", "Where is my home?"),
        ("Tell me where I live.", "Do you know where I live?", "In what city do I live?"),
        "You live in {v}.",
    ),
    "pet": (
        ("My pet is called {v}.", "I have a pet called {v}.", "My pet's name is {v}."),
        "{v} is a nice name for a pet.",
        ("What is my pet called?", "What is the name of my pet?", "What is my pet's name?"),
        ("Tell me my pet's name.", "Do you know what my pet is called?"),
        "Your pet is called {v}.",
    ),
    "thing": (
        ("Remember the word {v}.", "Remember this word: {v}.", "Keep the word {v} in mind."),
        "I will remember {v}.",
        ("What was the word?", "Which word did I tell you?", "What is the word?"),
        ("What word did I tell you?", "Tell me the word.", "Which word was it?"),
        "The word was {v}.",
    ),
}
LIKES = (
    ("My favourite {k} is {v}.", "I like the {k} {v} best."),
    "{v} is a good {k}.",
    ("What is my favourite {k}?", "Which {k} do I like best?", "Tell me my favourite {k}."),
    ("What {k} do I like best?", "Do you know my favourite {k}?"),
    "Your favourite {k} is {v}.",
)
KINDS = ("colour", "food", "animal", "song", "book", "city", "game", "drink", "number", "word")


def _between(dice: Dice) -> list[Message]:
    """Return one unrelated question with its answer."""
    asks = (world.question, arithmetic.question, greetings.question)
    text, answer, _, _ = dice.pick(asks)(Dice(dice.rng.getrandbits(32)))
    return [user(text), assistant(answer)]


def _memory(dice: Dice) -> tuple[list[Message], str, str, str]:
    """Return the turns that tell one thing, the question for it, the answer and the value."""
    kind = dice.pick(("name", "name", "city", "pet", "thing", "likes", "likes"))
    value = dice.word() if kind in ("thing", "likes") else dice.name()
    told, reply, asked, held_out, answer = LIKES if kind == "likes" else TOLD[kind]
    noun = dice.pick(KINDS)
    history = [user(dice.pick(told).format(v=value, k=noun))]
    history.append(assistant(reply.format(v=value, k=noun)))
    question = dice.phrase(asked, held_out).format(k=noun)
    return history, question, answer.format(v=value, k=noun), value


def make(dice: Dice) -> Sample:
    """Draw a conversation about what the user told before, or its first turn."""
    history, question, answer, value = _memory(dice)
    if not dice.held_out and dice.chance(0.25):
        reply = history[1]["content"]
        return Sample("memory", (history[0],), reply, words(value), "The user tells me something.")
    for _ in range(dice.pick((0, 0, 1, 1, 2))):
        history += _between(dice)
    thought = f"The user said it before: {value}."
    return Sample("memory", (*history, user(question)), answer, words(value), thought)


def _about_the_same(dice: Dice, subject: str, forms: Sequence[str]) -> str:
    """Ask one of `forms` with the pronoun for `subject`; women and men alternate in the world."""
    which = list(PEOPLE).index(subject) % 2
    form = dice.pick([f for f in forms if "of {s}" not in f and not f.startswith("{s}")])
    form = form.replace("{s}'s", ("her", "his")[which])
    return form.replace("{s}", ("she", "he")[which])


def make_again(dice: Dice) -> Sample:
    """Draw questions about one person, the later ones with a pronoun, maybe under a rule."""
    subject = dice.pick(tuple(PEOPLE))
    known = dice.sample([fact for fact in FACTS if fact[1] == subject], 4)
    rule, shape = instructions.shape(dice) if dice.chance(0.45) else ("", str)
    answers = [shape(world.say(*fact)) for fact in known]
    asked = [dice.phrase(fact[0].asked, fact[0].held_out) for fact in known]
    first = asked[0].format(s=subject)
    later = [
        _about_the_same(dice, subject, fact[0].held_out if dice.held_out else fact[0].asked)
        for fact in known[1:]
    ]
    thoughts = [f"The question is about {subject}: the {f[0].noun}. It is {f[2]}." for f in known]
    opening = (system(rule),) if rule else ()
    messages = (*opening, user(first), assistant(answers[0]), user(later[0]))
    follow = (
        ()
        if dice.held_out
        else tuple(
            Exchange(user(q), a, t)
            for q, a, t in zip(later[1:], answers[2:], thoughts[2:], strict=True)
        )
    )
    check = exact(answers[1]) if rule else words(known[1][2])
    return Sample("again", messages, answers[1], check, thoughts[1], follow=follow)


def after_a_turn(dice: Dice, sample: Sample) -> Sample:
    """Return the sample with an unrelated turn before its first user turn."""
    split = 1 if sample.messages[0]["role"] == "system" else 0
    messages = (*sample.messages[:split], *_between(dice), *sample.messages[split:])
    return replace(sample, messages=messages)
