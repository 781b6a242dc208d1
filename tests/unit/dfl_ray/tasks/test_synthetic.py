"""The synthetic suite's promises: determinism, disjoint splits, balanced and right answers, cues."""

from collections import Counter

import pytest

from dfl_ray.tasks.data import Row, Task
from dfl_ray.tasks.synthetic import ALL_TASKS, DEFAULT_TASKS, RELATED_PAIR, make_tasks
from dfl_ray.tasks.synthetic import words as w

CUES = ("strong", "weak", "none")


def test_six_default_tasks_and_a_pair():
    assert len(DEFAULT_TASKS) == 6 and len(RELATED_PAIR) == 2
    assert set(DEFAULT_TASKS) | set(RELATED_PAIR) == set(ALL_TASKS)


@pytest.mark.parametrize("cue", CUES)
def test_rows_depend_on_seed_and_task_only(cue):
    whole = make_tasks(ALL_TASKS, seed=3, train_rows=40, test_rows=20, cue=cue)
    alone = make_tasks(["add"], seed=3, train_rows=40, test_rows=20, cue=cue)
    assert whole[ALL_TASKS.index("add")] == alone[0]
    assert make_tasks(["add"], seed=4, train_rows=40, test_rows=20, cue=cue) != alone
    longer = make_tasks(["add"], seed=3, train_rows=60, test_rows=20, cue=cue)
    assert longer[0].test == alone[0].test


@pytest.mark.parametrize("cue", CUES)
def test_splits_are_disjoint_full_and_balanced(cue):
    for task in make_tasks(ALL_TASKS, seed=0, cue=cue):
        prompts = [row.prompt for row in task.train + task.test]
        assert len(set(prompts)) == len(prompts)
        assert len(task.test) == 256
        assert len(task.train) == (64 if task.name in RELATED_PAIR else 2000)
        assert task.choices is not None
        counts = Counter(row.answer for row in task.test)
        assert set(counts) == set(task.choices)
        assert max(counts.values()) <= -(-256 // len(task.choices))
        assert task.chance == max(counts.values()) / 256


def test_all_tasks_answer_in_one_alphabet():
    tasks = make_tasks(seed=0)
    pairs = [(x, y) for i, x in enumerate(tasks) for y in tasks[:i]]
    assert all(set(x.choices or ()) <= set(w.ANSWERS) for x in tasks)
    assert all(len(set(x.choices or ()) & set(y.choices or ())) >= 2 for x, y in pairs)


def _answer(name: str, words: list[str]) -> str:
    """Each rule again, from the words alone and with its letters spelt out."""
    if name == "topic":
        counts = Counter(i for word in words for i, topic in enumerate(w.TOPICS) if word in topic)
        return "caefdb"[counts.most_common(1)[0][0]]
    if name == "review":
        judged = [(i, x in w.GOOD) for i, x in enumerate(words) if x in w.GOOD + w.BAD]
        return "ebdaf"[sum(good != (words[i - 1] == "not") for i, good in judged)]
    if name == "lookup":
        asked = words[words.index("of") + 1]
        return dict(zip(w.COLOURS, "dfbeca", strict=True))[words[words.index(asked) + 1]]
    if name == "add":
        return "becafd"[sum(w.NUMBERS.index(x) for x in words if x in w.NUMBERS) % 6]
    if name == "agree":
        head = next(x for x in words if any(x in nouns for nouns in w.NOUNS))
        return "bfcdea"[next(i for i, nouns in enumerate(w.NOUNS) if head in nouns)]
    if name == "largest":
        return "fadbec"[max(int(x) for x in words if x.isdigit()) - 1]
    beast = words[words.index("of") + 1] if "of" in words else next(x for x in words if x in w.ANIMALS)
    return "eacbfd"[w.CLANS[w.ANIMALS.index(beast)]]


@pytest.mark.parametrize("cue", CUES)
@pytest.mark.parametrize("name", ALL_TASKS)
def test_answers_follow_the_rule(name, cue):
    (task,) = make_tasks([name], seed=1, train_rows=60, test_rows=60, cue=cue)
    for row in task.train + task.test:
        assert row.answer == _answer(name, row.prompt.split()), row


def test_every_word_is_in_the_vocabulary_and_markers_are_not_content():
    known = set(w.vocabulary())
    for cue in CUES:
        for task in make_tasks(ALL_TASKS, seed=0, train_rows=50, test_rows=50, cue=cue):
            for row in task.train + task.test:
                assert set(row.prompt.split()) <= known and row.answer in known
    markers = [m for group in w.MARKERS.values() for m in group] + list(w.COMMON_MARKERS)
    content = {x for group in (*w.TOPICS, w.GOOD, w.BAD, w.COLOURS, w.ANIMALS, w.DIGITS, w.NUMBERS, *w.NOUNS)
               for x in group}  # fmt: skip
    assert len(set(markers)) == len(markers)
    assert not set(markers) & (content | set(w.QUESTIONS) | set(w.ANSWERS))


def test_cue_strong_names_the_task_and_none_does_not():
    strong = make_tasks(seed=0, train_rows=200, test_rows=50)
    for task in strong:
        own = set(w.MARKERS[task.name])
        assert all(len(set(row.prompt.split()) & own) == 3 for row in task.train)
    lengths = {}
    for task in make_tasks(seed=0, train_rows=1000, test_rows=50, cue="none"):
        kinds = [frozenset(row.prompt.split()) & (set(w.MARKERS["topic"]) | set(w.MARKERS["add"]))
                 for row in task.train]  # fmt: skip
        assert not any(kinds)
        lengths[task.name] = sum(len(row.prompt.split()) for row in task.train) / len(task.train)
    assert max(lengths.values()) - min(lengths.values()) < 0.25


def test_related_pair_trains_on_different_animals_and_is_tested_on_all():
    for task, (low, high) in zip(make_tasks(RELATED_PAIR, seed=0), ((0, 16), (8, 24)), strict=True):

        def beasts(rows):
            return {x for row in rows for x in row.prompt.split() if x in w.ANIMALS}

        assert beasts(task.train) <= set(w.ANIMALS[low:high])
        assert beasts(task.test) == set(w.ANIMALS)


def test_questions_have_an_answer_for_every_class_and_clans_are_even():
    assert Counter(w.CLANS) == dict.fromkeys(range(6), 4)
    assert len(w.CLANS) == len(w.ANIMALS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"names": ["tpoic"], "seed": 0}, ["tpoic", "topic", "tasks.names"]),
        ({"names": ["add", "add"], "seed": 0}, ["add", "once"]),
        ({"names": ["add"], "seed": 0, "cue": "loud"}, ["loud", "strong", "tasks.cue"]),
        ({"names": ["add"], "seed": 0, "train_rows": 0}, ["tasks.train_rows", ">= 1"]),
        ({"names": ["add"], "seed": -1}, ["seed", "-1"]),
        ({"names": ["clan_told"], "seed": 0, "train_rows": 100_000}, ["clan_told", "tasks.train_rows"]),
    ],
)
def test_bad_input_says_what_to_change(arguments, words):
    with pytest.raises(ValueError) as error:
        make_tasks(**arguments)
    assert all(word in str(error.value) for word in words)


def test_chance_of_open_and_closed_answers():
    rows = tuple(Row(str(i), "x" if i < 3 else str(i)) for i in range(6))
    assert Task("t", (), rows, None).chance == 0.5
    assert Task("t", (), rows, ("x", "3", "4", "5")).chance == 0.5
    assert Task("t", (), (), ("x", "y", "z", "v")).chance == 0.25
    assert Task("t", (), (), None).chance == 0.0
