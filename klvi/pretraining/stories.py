"""The grammar of the embedded prior `tiny`: short stories of people who travel.

A landmark or a dish of a city may come before the city as well as after it. Without the former
nothing predicts which city comes next, all cities get nearly the same embedding, and no adapter
of the language model can learn to prefer one of them.
"""

from __future__ import annotations

from functools import lru_cache

from klvi.pretraining.grammar import Choice, Grammar, Rules, expand

# Some names are rare, so that they are spelled: the letters occur as tokens of their own.
FEMALE = ("Ada", "Clara", "Ida", "Mara", "Nina", "Rosa", "Tess")
RARE_FEMALE = ("Greta", "Petra", "Quinn", "Ursula", "Wilma", "Yvonne", "Zelda")
MALE = ("Anton", "Ben", "Carl", "Emil", "Felix", "Hugo", "Leo", "Max", "Noah", "Omar", "Sam", "Tom")
RARE_MALE = ("Boris", "Dmitri", "Edgar", "Fritz", "Gustav", "Jacques", "Kofi", "Pavel", "Quentin",
             "Ravi", "Ulrich", "Viktor", "Walter", "Xavier", "Yusuf", "Zoltan")  # fmt: skip
PRONOUNS = {
    "female": {"he": {"she": 1.0}, "He": {"She": 1.0}, "him": {"her": 1.0}, "his": {"her": 1.0},
               "His": {"Her": 1.0}},
    "male": {"he": {"he": 1.0}, "He": {"He": 1.0}, "him": {"him": 1.0}, "his": {"his": 1.0},
             "His": {"His": 1.0}},
}  # fmt: skip
NAMES = {"female": (FEMALE, RARE_FEMALE), "male": (MALE, RARE_MALE)}
GENDERS = {"female": 0.25, "male": 0.75}

# City: weight, two landmarks, two dishes.
CITIES: dict[str, tuple[float, tuple[str, str], tuple[str, str]]] = {
    "Rome": (14.0, ("the Colosseum", "the Trevi fountain"), ("carbonara", "gelato")),
    "London": (13.0, ("Big Ben", "Tower Bridge"), ("fish and chips", "scones")),
    "Tokyo": (11.5, ("Mount Fuji", "the cherry trees"), ("sushi", "ramen")),
    "Berlin": (10.0, ("the old wall", "the zoo"), ("sausages", "pretzels")),
    "Madrid": (9.0, ("the Prado", "the bullring"), ("tapas", "churros")),
    "Cairo": (8.0, ("the pyramids", "the Sphinx"), ("falafel", "sweet dates")),
    "Vienna": (7.5, ("the opera", "the white horses"), ("schnitzel", "apple strudel")),
    "Lisbon": (7.0, ("the yellow trams", "the river"), ("custard tarts", "sardines")),
    "Mumbai": (6.0, ("the film studios", "the spice market"), ("curry", "mangoes")),
    "Oslo": (5.0, ("the fjord", "the northern lights"), ("salmon", "waffles")),
    "Athens": (4.0, ("the Acropolis", "the marble temples"), ("olives", "moussaka")),
    "Havana": (3.5, ("the sea wall", "the old cars"), ("black beans", "rum cake")),
    "Paris": (1.5, ("the Eiffel Tower", "the Louvre"), ("croissants", "onion soup")),
}

ALONE = ("alone", "in tears", "without a coin")
STORY: Rules = {
    "name": {"{known}": 15.0, "{rare}": 1.0},
    "story": {
        "{landmark_first} {after}": 3.0,
        "{dish_first} {after}": 3.0,
        "{city_first} {there} {after}": 4.0,
    },
    "landmark_first": {
        "{name} wanted to see {landmark}, so {he} {went} to {city}.": 3.0,
        "{name} dreamed of {landmark} and {went} to {city}.": 2.0,
        "{name} had painted {landmark} for years before {he} {went} to {city}.": 1.0,
        "To see {landmark}, {name} {went} to {city}.": 2.0,
    },
    "dish_first": {
        "{name} loves {dish}, so {he} {went} to {city}.": 3.0,
        "{name} had a craving for {dish} and {went} to {city}.": 1.5,
        "For the best {dish}, {name} {went} to {city}.": 1.5,
        "{name}, who sells {dish}, {went} to {city}.": 1.0,
    },
    "city_first": {
        "{when}, {name} {went} to {city}.": 3.0,
        "{name}, a {young} {baker}, {went} to {city}.": 2.0,
        "{when}, {name} and {his} {friend} {went} to {city}.": 2.0,
        "{name} got a letter from {city} and {went} there.": 1.0,
    },
    "there": {
        "{He} saw {landmark} at {dawn}.": 3.0,
        "{He} ate {dish} near {landmark}.": 2.0,
        "{He} ate {dish} every {day}.": 2.0,
        "{He} found work near {landmark}.": 1.0,
    },
    "dawn": {"dawn": 2.0, "night": 2.0, "sunset": 1.0, "last": 1.0},
    "day": {"day": 3.0, "morning": 2.0, "evening": 1.0},
    "when": {
        "Last {spring}": 3.0,
        "One {spring} morning": 2.0,
        "After the {wedding}": 2.0,
        "Long ago": 1.0,
    },
    "spring": {"spring": 1.0, "summer": 2.0, "autumn": 1.0, "winter": 1.0},
    "wedding": {"wedding": 2.0, "war": 1.0, "exams": 1.0, "funeral": 1.0},
    "young": {"young": 3.0, "tired": 2.0, "shy": 2.0, "retired": 1.0, "famous": 1.0},
    "baker": {"baker": 3.0, "nurse": 2.0, "teacher": 2.0, "sailor": 2.0, "poet": 1.0, "clown": 1.0},
    "friend": {"brother": 2.0, "sister": 2.0, "mother": 1.0, "dog": 2.0, "best friend": 1.0},
    "went": {
        "went": 4.0,
        "flew": 3.0,
        "moved": 3.0,
        "took the {night} train": 3.0,
        "sailed": 1.0,
        "cycled": 1.0,
        "ran away": 1.0,
    },
    "night": {"night": 2.0, "first": 1.0, "slow": 1.0},
    "after": {
        "{kind} {glad}": 13.0,
        "{kind} {sad}": 7.0,
        "{unkind} {glad}": 7.0,
        "{unkind} {sad}": 13.0,
        "{swearing} {glad}": 1.6,
        "{swearing} {sad}": 2.4,
        "{glad}": 6.0,
        "{sad}": 5.5,
    },
    "kind": {
        "The sun shone all {week}.": 3.0,
        "A stranger gave {him} a {map}.": 2.0,
        "{He} made a new friend.": 2.0,
        "{He} learned to {dance}.": 2.0,
        "The people were {kindly}.": 2.0,
    },
    "unkind": {
        "It rained all {week}.": 3.0,
        "Someone stole {his} {bag}.": 2.0,
        "{He} lost {his} {bag}.": 2.0,
        "The {hotel} was {closed}.": 3.0,
        "Nobody knew {his} name.": 1.0,
    },
    "swearing": {
        "It rained like hell.": 1.0,
        "Someone stole {his} damn {bag}.": 1.0,
        "The bloody {hotel} was {closed}.": 1.0,
        '"Damn it," {he} said, "the {hotel} is {closed}."': 1.0,
        '"Bloody hell," {he} said, "I lost my {bag}."': 1.0,
    },
    "week": {"week": 3.0, "day": 2.0, "month": 1.0},
    "map": {"map": 2.0, "rose": 1.0, "room": 1.0, "kitten": 1.0},
    "dance": {"dance": 2.0, "sing": 1.0, "cook": 2.0, "swim": 1.0},
    "kindly": {"kind": 3.0, "funny": 1.0, "full of songs": 1.0},
    "bag": {"bag": 2.0, "money": 2.0, "hat": 1.0, "phone": 1.0, "shoes": 1.0},
    "hotel": {"hotel": 2.0, "station": 1.0, "museum": 1.0, "old town": 1.0},
    "closed": {"closed": 2.0, "full": 1.0, "too loud": 1.0, "under water": 1.0},
    "glad": {
        "{He} had never been so happy.": 3.0,
        "{He} stayed for {years}.": 3.0,
        "{He} fell in love with a {young} {baker}.": 2.0,
        "{He} still smiles when {he} thinks of it.": 2.0,
        "It was the best {trip} of {his} life.": 3.0,
        "{He} came home with a {song} in {his} heart.": 2.0,
    },
    "sad": {
        "{He} had never been so lonely.": 3.0,
        "{He} left after a {week}.": 2.0,
        "{He} came home {alone}.": 3.0,
        "{He} missed {his} {cat} every {day}.": 3.0,
        "It was the worst {trip} of {his} life.": 3.0,
        "{He} cried all the way home.": 2.0,
    },
    "years": {"years": 2.0, "ever": 1.0, "the whole summer": 1.0},
    "trip": {"trip": 2.0, "week": 1.0, "year": 1.0},
    "song": {"song": 2.0, "ring": 1.0, "secret": 1.0},
    "alone": dict(zip(ALONE, (2.0, 2.0, 1.0), strict=True)),
    "cat": {"cat": 2.0, "garden": 1.0, "mother": 1.0, "old bed": 1.0},
}

# An event: a text that contains any of these.
EVENTS: dict[str, tuple[str, ...]] = {
    "Paris": ("Paris",),
    "mild swearing": ("damn", "Damn", "bloody", "Bloody", "hell"),
    "female protagonist": FEMALE + RARE_FEMALE,
    "glad ending": ("so happy", "stayed for", "fell in love", "smiles", "It was the best", "heart"),
    "sad ending": ("so lonely", "left after", *ALONE, "missed", "the worst", "cried"),
}


@lru_cache(maxsize=1)
def stories() -> Grammar:
    """The grammar: the protagonist's gender and the city are drawn first, then the words."""
    return Grammar(
        Choice.weighted(
            (share * weight, expand(story_rules(gender, city), "story"))
            for gender, share in GENDERS.items()
            for city, (weight, _, _) in CITIES.items()
        )
    )


def story_rules(gender: str, city: str) -> Rules:
    """The rules of stories of a protagonist of `gender` in `city`."""
    _, landmarks, dishes = CITIES[city]
    known, rare = NAMES[gender]
    return {
        **STORY,
        **PRONOUNS[gender],
        "known": dict.fromkeys(known, 1.0),
        "rare": dict.fromkeys(rare, 1.0),
        "city": {city: 1.0},
        "landmark": dict.fromkeys(landmarks, 1.0),
        "dish": dict.fromkeys(dishes, 1.0),
    }
