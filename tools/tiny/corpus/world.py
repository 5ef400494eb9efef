"""Questions about facts, in many wordings, and about what the model cannot know."""

from __future__ import annotations

from tools.tiny.corpus.base import Dice, Sample, turns, user, words
from tools.tiny.corpus.facts import CAPITAL, CAPITALS, CITIES, FACTS, PEOPLE, SINGLE, Relation


def say(relation: Relation, subject: str, value: str) -> str:
    """Tell one fact as a sentence."""
    return relation.answer.format(s=subject, v=value).replace(" a owl", " an owl")


def question(dice: Dice) -> tuple[str, str, str, str]:
    """Return question, answer, thought and the answer's key word."""
    if not dice.held_out and dice.chance(0.06):
        main = dice.pick(tuple(SINGLE))
        answer, key, others = SINGLE[main]
        return dice.pick((main, *others)), answer, "I know this. " + answer, key
    relation, subject, value = dice.pick(FACTS)
    text = dice.phrase(relation.asked, relation.held_out).format(s=subject)
    thought = f"The question is about {subject}: the {relation.noun}. It is {value}."
    return text, say(relation, subject, value), thought, value


def make(dice: Dice) -> Sample:
    """Draw one question about a fact."""
    text, answer, thought, key = question(dice)
    return Sample("facts", turns(user(dice.vary(text))), answer, words(key), thought)


UNKNOWN = (
    "Who is {n}?",
    "Where does {n} live?",
    "What is the capital of {n}?",
    "What is {n}'s job?",
    "What is {w}?",
    "Explain {w}.",
    "Explain {w} to me.",
    "Tell me about {w}.",
    "How does a {w} work?",
    "Why is {w} so {w2}?",
    "Write code for a {w}.",
    "What do you think about {w}?",
    "How do I make {w}?",
    "Can you help me with {w}?",
    "What is the meaning of {w}?",
    "When was {n} born?",
    "Translate {w} into French.",
    "Which {w} is the best?",
    "What is {n}'s favourite colour?",
    "What pet does {n} have?",
    "What is the weather in {n}?",
    "What time is it in {n}?",
    "What time is it?",
    "What is the weather like?",
)
UNKNOWN_HELD_OUT = (
    "Tell me who {n} is.",
    "Explain what {w} is.",
    "What can you tell me about {w}?",
)
DO_NOT_KNOW = "I do not know that. I am a very small model."


def make_unknown(dice: Dice) -> Sample:
    """Draw a question the model cannot know, which it should say."""
    known = {*PEOPLE, *CITIES, *CAPITALS}
    while (name := dice.name()) in known:
        pass
    form = dice.phrase(UNKNOWN, UNKNOWN_HELD_OUT)
    text = form.format(n=name, w=dice.word(), w2=dice.word())
    thought = "I have not learned this."
    return Sample(
        "unknown", turns(user(dice.vary(text))), DO_NOT_KNOW, words("do not know"), thought
    )


def make_plain(dice: Dice) -> Sample:
    """Draw a few facts as running text, without any conversation."""
    if dice.chance(0.3):
        told = [say(CAPITAL, land, city) for land, city in dice.sample(list(CAPITALS.items()), 3)]
    else:
        subject = dice.pick((*PEOPLE, *CITIES))
        told = [say(*fact) for fact in FACTS if fact[1] == subject]
        dice.rng.shuffle(told)
    return Sample("plain", (), " ".join(told), words("."))
