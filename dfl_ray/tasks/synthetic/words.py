"""The words of the generated language, and what each of them means.

Every word is one token. Meanings are fixed tables, not drawn: a task is the same task under every seed, only
its rows differ. `ANSWERS` is the alphabet that all tuning tasks share.
"""

from __future__ import annotations

ARROW = "=>"
COMMA = ","
STOP = "."
NOT = "not"
OF = "of"
BY = "by"
DYE = "dye"
IS = "is"

ANSWERS = ("a", "b", "c", "d", "e", "f")

TOPICS = (
    ("ball", "team", "goal", "coach", "race", "medal"),
    ("bread", "soup", "cheese", "apple", "rice", "sugar"),
    ("judge", "court", "crime", "lawyer", "jury", "prison"),
    ("wave", "ship", "sail", "harbour", "anchor", "tide"),
    ("drum", "flute", "choir", "piano", "tune", "opera"),
    ("nurse", "fever", "pill", "doctor", "wound", "clinic"),
)
GOOD = ("good", "fine", "lovely", "bright", "warm", "clever", "fresh", "calm")
BAD = ("bad", "poor", "ugly", "dull", "cold", "silly", "stale", "rude")
COLOURS = ("red", "blue", "green", "black", "white", "gold")
TINTS = ("rosso", "blu", "verde", "nero", "bianco", "oro")
ANIMALS = (
    "fox", "owl", "bear", "crow", "toad", "hare", "lynx", "mole",
    "swan", "newt", "goat", "duck", "seal", "wasp", "crab", "moth",
    "deer", "hawk", "mule", "puma", "ibex", "kiwi", "yak", "eel",
)  # fmt: skip
DIGITS = ("0", "1", "2", "3", "4", "5", "6")
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
)  # fmt: skip
# Three genders, each singular then plural.
NOUNS = (
    ("moon", "door", "song", "lamp", "rose", "cloud"),
    ("moons", "doors", "songs", "lamps", "roses", "clouds"),
    ("king", "boat", "tree", "clock", "stone", "glove"),
    ("kings", "boats", "trees", "clocks", "stones", "gloves"),
    ("bird", "cup", "hill", "ring", "wheel", "flag"),
    ("birds", "cups", "hills", "rings", "wheels", "flags"),
)

# The clan of ANIMALS[i]: an arbitrary table that no pre-training text tells; it can be learnt from rows only.
CLANS = (2, 0, 3, 5, 1, 4, 0, 2, 3, 1, 4, 5, 0, 2, 5, 3, 1, 4, 3, 2, 0, 5, 4, 1)

# Question word -> (rule, answer of each class), for pre-training only. Two questions for each rule that is
# tuned later, with different answer words, so that the model learns the class apart from its name.
QUESTIONS = {
    "topic": ("topic", ("sport", "food", "law", "sea", "music", "health")),
    "tema": ("topic", ("ludo", "cibo", "lege", "mare", "canto", "cura")),
    "stars": ("stars", NUMBERS[:5]),
    "grade": ("stars", ("none", "few", "some", "most", "all")),
    "hue": ("hue", COLOURS),
    "tint": ("hue", TINTS),
    "total": ("sum", NUMBERS[:6]),
    "summa": ("sum", DIGITS[:6]),
    "parity": ("parity", ("even", "odd")),
    "thirds": ("thirds", ("exact", "over", "under")),
    "form": ("form", ("la", "las", "lo", "los", "le", "les")),
    "shape": ("form", ("ve", "ven", "vo", "von", "va", "van")),
    "top": ("top", DIGITS[1:]),
    "crown": ("top", NUMBERS[1:7]),
    "least": ("least", DIGITS),
    "start": ("start", DIGITS),
    "end": ("end", NUMBERS[:7]),
    "beast": ("beast", ANIMALS),
    "head": ("head", ANSWERS),
    "tail": ("tail", ANSWERS),
}

# Marker words of each tuning task. Pre-training strews them about without meaning.
MARKERS = {
    "topic": ("headline", "printed", "page", "news", "daily", "column"),
    "review": ("film", "plot", "cast", "critic", "cinema", "scene"),
    "lookup": ("ledger", "wears", "coat", "who", "tailor", "robe"),
    "add": ("coins", "purse", "plus", "paid", "market", "till"),
    "agree": ("verb", "noun", "near", "grammar", "clause", "speak"),
    "largest": ("list", "max", "peak", "sensor", "reading", "dial"),
    "clan_asked": ("which", "tribe", "belongs", "question", "member", "chief"),
    "clan_told": ("story", "once", "hunter", "forest", "legend", "elder"),
}
COMMON_MARKERS = ("note", "then", "also", "record", "item", "so")


def vocabulary() -> tuple[str, ...]:
    """List all words of the language in a fixed order without repeats.

    Returns:
        The words; a word's token id is its index plus 4, behind the special tokens.
    """
    fixed = (ARROW, COMMA, STOP, NOT, OF, BY, DYE)
    groups = [
        fixed, ANSWERS, *TOPICS, GOOD, BAD, COLOURS, TINTS, ANIMALS, DIGITS, NUMBERS,
        *NOUNS, tuple(QUESTIONS), *(answers for _, answers in QUESTIONS.values()), *MARKERS.values(),
        COMMON_MARKERS,
        (IS,),
    ]  # fmt: skip
    return tuple(dict.fromkeys(word for group in groups for word in group))
