"""Following the system turn: a small family of instructions with payloads never seen."""

from __future__ import annotations

from collections.abc import Callable

from tools.tiny.corpus import arithmetic, greetings, world
from tools.tiny.corpus.base import Check, Dice, Sample, exact, system, turns, user, words

Question = Callable[[Dice], tuple[str, str, str, str]]
QUESTIONS: tuple[Question, ...] = (world.question, arithmetic.question, greetings.question)

ONLY = (
    "Reply only with {p}.",
    "Reply only with the word {p}.",
    "Always answer with {p}.",
    'Always reply "{p}".',
    "Whatever the user says, answer {p}.",
    "Always reply only with {p}.",
    "Reply with only {p}.",
    "Reply with {p}, nothing else.",
    "Answer every question with {p}.",
    "Answer only with the word {p} and nothing else.",
    "Your only answer is {p}.",
    "Say {p} and nothing else.",
)
ONLY_HELD_OUT = (
    "Always reply with the word {p}.",
    "Reply with {p} and nothing else.",
    "Answer every question only with {p}.",
)
CAPITALS = (
    "Answer in capital letters.",
    "Reply in capital letters only.",
    "Write everything in capitals.",
    "Always answer in upper case.",
    "Use only capital letters.",
    "Answer in ALL CAPS.",
    "Shout: write in capital letters.",
    "Always answer in capitals.",
    "Reply in upper case.",
    "Always write in capital letters.",
    "Write in capitals only.",
    "Always respond in capital letters.",
    "Reply in capital letters.",
    "Always reply in upper case.",
    "Always reply using capitals.",
)
CAPITALS_HELD_OUT = (
    "Always reply in capital letters.",
    "Write in upper case.",
    "Reply in capitals.",
)
END = (
    "End every answer with {p}.",
    "End each reply with {p}.",
    "Finish every answer with the word {p}.",
    "Always end with {p}.",
    "Always finish your answer with {p}.",
    "End all your answers with {p}.",
    "You always close your reply with {p}.",
    "Close each answer with {p}.",
    'End your answers with "{p}".',
    "The last word of every answer must be {p}.",
    "Answer, and always end with the word {p}.",
    "Always end every reply with {p}.",
    "Let every answer end with {p}.",
    "Always end what you say with {p}.",
)
END_HELD_OUT = (
    "Always end your answer with {p}.",
    "Finish each reply with {p}.",
    "End every reply with the word {p}.",
)
START = (
    "Start every answer with {p}.",
    "Begin each reply with {p}.",
    "Start each answer with the word {p}.",
    "Always begin with {p}.",
    "Always open your answer with {p}.",
    "Start all your answers with {p}.",
    "You always begin your reply with {p}.",
    'Begin your answers with "{p}".',
    "The first word of every answer must be {p}.",
    "Always start every reply with {p}.",
    "Let every answer begin with the word {p}.",
    "Always begin what you say with {p}.",
)
START_HELD_OUT = (
    "Always start your answer with {p}.",
    "Begin every answer with {p}.",
    "Start every reply with the word {p}.",
)
PERSONA = (
    "You are {p}.",
    "Your name is {p}.",
    "You are called {p}.",
    "You are {p}, a helpful assistant.",
    "Your name is {p}. Be kind.",
    "You are an assistant called {p}.",
)
PERSONA_HELD_OUT = ("You are an assistant. Your name is {p}.", "You are called {p}. Be helpful.")
BRACKETS = (
    "Put every answer in square brackets.",
    "Answer in square brackets.",
    "Write your reply between [ and ].",
    "Always reply in square brackets.",
)
BRACKETS_HELD_OUT = ("Put each reply in square brackets.", "Write every answer between [ and ].")
LOWER = (
    "Answer in lower case.",
    "Use only small letters.",
    "Write everything in lower case.",
    "Always answer in lower case.",
    "Reply in lower case only.",
    "Always write in lower case.",
    "Always use small letters.",
    "Reply in small letters.",
    "Write in lower case letters.",
    "Reply in lower case.",
    "Always respond in lower case.",
    "Only lower case, please.",
    "Always reply using lower case.",
    "Always reply in small letters.",
    "Write only in small letters.",
)
LOWER_HELD_OUT = ("Always reply in lower case.", "Write in small letters only.")

PLAIN = (
    "You are a helpful assistant.",
    "You are helpful.",
    "Be brief.",
    "Answer the question.",
    "You are an assistant.",
    "Be kind and short.",
    "Help the user.",
    "You are a helpful AI assistant.",
    "You are a concise assistant.",
)


def payload(dice: Dice) -> str:
    """Return a word or two for the instruction."""
    word = dice.word()
    roll = dice.rng.random()
    if roll < 0.25:
        word = word.capitalize()
    elif roll < 0.35:
        word = f"{word} {dice.word()}"
    return word


def _shaped(dice: Dice, kind: str, answer: str) -> tuple[str, str]:
    """Return the instruction's text and the answer under it."""
    word = payload(dice)
    if kind == "only":
        return dice.phrase(ONLY, ONLY_HELD_OUT).format(p=word), word
    if kind == "end":
        return dice.phrase(END, END_HELD_OUT).format(p=word), f"{answer} {word}"
    if kind == "start":
        return dice.phrase(START, START_HELD_OUT).format(p=word), f"{word} {answer}"
    if kind == "capitals":
        return dice.phrase(CAPITALS, CAPITALS_HELD_OUT), answer.upper()
    if kind == "brackets":
        return dice.phrase(BRACKETS, BRACKETS_HELD_OUT), f"[{answer}]"
    return dice.phrase(LOWER, LOWER_HELD_OUT), answer.lower()


THOUGHTS = {
    "only": "The system says to answer only {w}.",
    "end": "I answer and end with {w}.",
    "start": "I start with {w} and answer.",
    "capitals": "I answer in capital letters.",
    "brackets": "I answer in square brackets.",
    "lower": "I answer in lower case.",
}
KINDS = tuple("only only end end end start start capitals capitals brackets lower lower".split())


def _persona(dice: Dice) -> Sample:
    """Draw a system turn that gives the model another name."""
    name = dice.name()
    text = dice.phrase(PERSONA, PERSONA_HELD_OUT).format(p=name)
    ask = dice.pick(greetings.TOPICS[1].asked + greetings.TOPICS[2].asked)
    turns_ = turns(system(text), user(dice.vary(ask)))
    thought = f"The system says my name is {name}."
    return Sample("instructions", turns_, f"I am {name}.", words(name), thought)


def make(dice: Dice) -> Sample:
    """Draw a system instruction and a question to answer under it."""
    if dice.chance(0.12):
        return _persona(dice)
    kind = dice.pick(KINDS)
    ask = dice.pick(QUESTIONS)
    text, answer, thought, _ = ask(dice)
    if dice.held_out and ask is not arithmetic.question:
        text, answer, thought, _ = ask(Dice(dice.rng.getrandbits(32)))
    rule, shaped = _shaped(dice, kind, answer)
    check = exact(shaped)
    reason = THOUGHTS[kind].format(
        w=shaped if kind == "only" else _payload_of(kind, shaped, answer)
    )
    if kind != "only":
        reason = f"{thought} {reason}"
    if dice.chance(0.12):
        rule = f"{dice.pick(PLAIN)} {rule}"
    asked = user(dice.vary(text) if not text[0].isdigit() else text)
    return Sample("instructions", turns(system(rule), asked), shaped, check, reason)


def _payload_of(kind: str, shaped: str, answer: str) -> str:
    """Return the payload that `shaped` adds to `answer`."""
    if kind == "end":
        return shaped[len(answer) + 1 :]
    return shaped[: -len(answer) - 1] if kind == "start" else ""


def shape(dice: Dice) -> tuple[str, Callable[[str], str]]:
    """Return a rule and what it does to any answer."""
    kind = dice.pick(("end", "start", "capitals", "capitals", "brackets", "lower"))
    rule, mark = _shaped(dice, kind, "|")
    if kind == "capitals":
        return rule, str.upper
    if kind == "lower":
        return rule, str.lower
    before, after = mark.split("|")
    return rule, lambda answer: before + answer + after


def plain_rule(dice: Dice) -> str:
    """Return a system turn that changes nothing."""
    return dice.pick(PLAIN)


__all__ = ["Check", "make", "payload", "plain_rule"]
