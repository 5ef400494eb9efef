"""The facts of the invented world and a few of the real one, and how they are asked."""

from __future__ import annotations

from dataclasses import dataclass

from tools.tiny.corpus.base import wordings


@dataclass(frozen=True, slots=True)
class Relation:
    """How one kind of fact is asked and told; `{s}` is its subject and `{v}` its value."""

    noun: str
    answer: str
    asked: tuple[str, ...]
    held_out: tuple[str, ...]


PEOPLE = {
    # name: city, job, pet, pet's name, colour, food
    "Mira": "Lomar baker fox Pip green soup",
    "Tobin": "Karst miner owl Juno blue bread",
    "Selka": "Veldin sailor cat Bramble red fish",
    "Orin": "Lomar teacher dog Rusty yellow rice",
    "Dalia": "Pellam doctor rabbit Nim white plums",
    "Kesh": "Tarn painter goat Moss purple cheese",
    "Yara": "Veldin pilot parrot Echo orange mango",
    "Bruno": "Karst judge turtle Slate brown beans",
    "Ilse": "Osk writer mouse Dot pink honey",
    "Fenn": "Tarn farmer horse Barley black corn",
    "Nadia": "Pellam singer duck Puddle gold pears",
    "Hob": "Osk tailor hen Button grey cake",
}
CITIES = {
    # name: river, product, animal on the flag
    "Lomar": "Brell lamps lion",
    "Karst": "Dun copper bear",
    "Veldin": "Sarn boats whale",
    "Pellam": "Ives silk swan",
    "Tarn": "Quill wool ram",
    "Osk": "Merrow clocks crow",
}
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "England": "London",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "China": "Beijing",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Poland": "Warsaw",
    "Canada": "Ottawa",
    "Switzerland": "Bern",
}
CITY = Relation(
    "city",
    "{s} lives in {v}.",
    wordings("""
        Where does {s} live? | In which city does {s} live? | What city does {s} live in? | Where is
        {s}'s home? | What is {s}'s city? | Which city is {s}'s home? | Tell me where {s} lives. |
        Tell me the city of {s}. | Do you know where {s} lives? | {s} lives in which city? | What is
        the home town of {s}? | Where is the home of {s}? | Where can I find {s}? | What town is {s}
        from? | Where is {s} from?
    """),
    wordings("""
        Which city does {s} live in? | In what city is {s}'s home? | Do you know the city of {s}? |
        Tell me which city {s} is from.
    """),
)
JOB = Relation(
    "job",
    "{s} is a {v}.",
    wordings("""
        What is {s}'s job? | What does {s} do? | What is the job of {s}? | What work does {s} do? |
        What does {s} do for a living? | What does {s} work as? | Tell me {s}'s job. | Tell me what
        {s} works as. | Which job does {s} have? | Do you know what job {s} has? | How does {s} earn
        a living? | What is {s}'s profession? | Name the profession of {s}.
    """),
    wordings("""
        What job does {s} have? | Tell me the job of {s}. | Do you know {s}'s profession? | What
        kind of work does {s} do?
    """),
)
PET = Relation(
    "pet",
    "{s} has a {v}.",
    wordings("""
        What pet does {s} have? | Which animal does {s} have? | What kind of pet does {s} have? |
        What animal is {s}'s pet? | What is {s}'s pet? | Tell me what pet {s} has. | Tell me about
        {s}'s pet. | Which pet does {s} keep? | Do you know what animal {s} keeps? | What animal
        lives with {s}? | What animal does {s} own? | Does {s} have a pet?
    """),
    wordings("""
        What kind of animal does {s} have? | Which pet does {s} own? | Do you know what pet {s} has?
        | Tell me which animal {s} keeps.
    """),
)
PET_NAME = Relation(
    "pet's name",
    "{s}'s pet is called {v}.",
    wordings("""
        What is the name of {s}'s pet? | What is {s}'s pet called? | What is {s}'s pet's name? | How
        is {s}'s pet called? | What does {s} call the pet? | Tell me the name of {s}'s pet. | Name
        {s}'s pet. | Which name does {s}'s pet have? | Do you know the name of {s}'s pet? | What
        name did {s} give the pet? | Tell me what {s}'s pet is called.
    """),
    wordings("""
        Do you know what {s}'s pet is called? | What name does {s}'s pet have? | Tell me {s}'s pet's
        name.
    """),
)
COLOUR = Relation(
    "favourite colour",
    "{s}'s favourite colour is {v}.",
    wordings("""
        What is {s}'s favourite colour? | Which colour does {s} like best? | What colour does {s}
        like? | What colour does {s} like most? | Tell me {s}'s favourite colour. | Do you know
        {s}'s favourite colour? | What is the favourite colour of {s}? | What is {s}'s favorite
        color? | Which color does {s} like? | Which colour is {s}'s favourite? | {s} likes which
        colour best?
    """),
    wordings("""
        What colour does {s} like best? | Tell me the favourite colour of {s}. | Which colour does
        {s} like most? | Tell me which colour {s} likes.
    """),
)
FOOD = Relation(
    "favourite food",
    "{s} likes to eat {v}.",
    wordings("""
        What is {s}'s favourite food? | What does {s} like to eat? | What does {s} eat? | Which food
        does {s} like best? | What food does {s} like? | Tell me {s}'s favourite food. | Do you know
        what {s} eats? | What is the favourite food of {s}? | Tell me what {s} likes to eat. | What
        does {s} like eating most? | Which food is {s}'s favourite?
    """),
    wordings("""
        What food does {s} like best? | Do you know {s}'s favourite food? | Which food does {s} like
        to eat? | Tell me what food {s} likes.
    """),
)
RIVER = Relation(
    "river",
    "The river of {s} is the {v}.",
    wordings("""
        Which river flows through {s}? | What river is in {s}? | What is the river of {s}? | Name
        the river of {s}. | What is the name of {s}'s river? | Tell me the river of {s}. | Which
        river runs through {s}? | On which river is {s}? | What river does {s} lie on? | What is
        {s}'s river called?
    """),
    wordings("""
        What river flows through {s}? | Tell me which river runs through {s}. | Which river is {s}
        on? | What is the river of {s} called?
    """),
)
PRODUCT = Relation(
    "product",
    "{s} is known for its {v}.",
    wordings("""
        What is {s} known for? | What is {s} famous for? | What does {s} make? | What do they make
        in {s}? | Tell me what {s} is known for. | For what is {s} known? | What is made in {s}? |
        What do people make in {s}? | What does the city of {s} sell? | What can I buy in {s}?
    """),
    wordings("""
        What is the city of {s} known for? | Tell me what {s} is famous for. | What does the city of
        {s} make? | Do you know what {s} makes?
    """),
)
FLAG = Relation(
    "flag",
    "The flag of {s} shows a {v}.",
    wordings("""
        What is on the flag of {s}? | Which animal is on the flag of {s}? | What animal does the
        flag of {s} show? | What does the flag of {s} show? | What is on {s}'s flag? | Which animal
        is on {s}'s flag? | Tell me what is on the flag of {s}. | What does {s}'s flag look like? |
        Describe the flag of {s}.
    """),
    wordings("""
        What animal is on the flag of {s}? | Which animal does {s}'s flag show? | Tell me which
        animal is on {s}'s flag.
    """),
)
CAPITAL = Relation(
    "capital",
    "The capital of {s} is {v}.",
    wordings("""
        What is the capital of {s}? | What is {s}'s capital? | What's the capital of {s}? | Which
        city is the capital of {s}? | Name the capital of {s}. | Tell me the capital of {s}. | The
        capital of {s}? | The capital of {s} is | Do you know the capital of {s}? | What is the
        capital city of {s}? | Capital of {s}?
    """),
    wordings("""
        Tell me {s}'s capital. | What city is the capital of {s}? | Do you know {s}'s capital city?
        | Name the capital city of {s}.
    """),
)
SINGLE = {
    # real facts with their own wordings: answer, key, wordings asked in training
    "How many days are in a week?": (
        "A week has 7 days.",
        "7",
        ("How many days does a week have?",),
    ),
    "How many months are in a year?": (
        "A year has 12 months.",
        "12",
        ("How many months does a year have?",),
    ),
    "What colour is the sky?": (
        "The sky is blue.",
        "blue",
        ("Which colour is the sky?", "Why is the sky blue?", "What color is the sky?"),
    ),
    "What colour is grass?": ("Grass is green.", "green", ("Which colour does grass have?",)),
    "What is the largest planet?": (
        "The largest planet is Jupiter.",
        "Jupiter",
        ("Which planet is the largest?", "What is the biggest planet?"),
    ),
    "How many legs does a spider have?": (
        "A spider has 8 legs.",
        "8",
        ("A spider has how many legs?",),
    ),
    "How many legs does a dog have?": ("A dog has 4 legs.", "4", ("A dog has how many legs?",)),
    "What is the opposite of hot?": ("The opposite of hot is cold.", "cold", ("Hot's opposite?",)),
    "What do bees make?": ("Bees make honey.", "honey", ("Tell me what bees make.",)),
    "What is water made of?": (
        "Water is made of hydrogen and oxygen.",
        "oxygen",
        ("What is in water?",),
    ),
}


def _facts() -> tuple[tuple[Relation, str, str], ...]:
    """Return every (relation, subject, value) of the world."""
    found: list[tuple[Relation, str, str]] = []
    for person, values in PEOPLE.items():
        kinds = (CITY, JOB, PET, PET_NAME, COLOUR, FOOD)
        found += [(k, person, v) for k, v in zip(kinds, values.split(), strict=True)]
    for city, values in CITIES.items():
        found += [(k, city, v) for k, v in zip((RIVER, PRODUCT, FLAG), values.split(), strict=True)]
    return (*found, *((CAPITAL, land, city) for land, city in CAPITALS.items()))


FACTS = _facts()
