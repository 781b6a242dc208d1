"""The embedded task suite: generated text tasks that share one answer alphabet (method.md, section 8).

Six default tasks of different kinds, and a related pair that shows where sharing helps:

| task | kind | example (`cue: strong`) |
|---|---|---|
| `topic` | classification by majority | `news daily ball soup team column goal coach =>` |
| `review` | sentiment with negation, five grades | `plot critic good not bad scene dull warm =>` |
| `lookup` | retrieval from the prompt | `who coat fox red robe owl blue bear gold => of owl` |
| `add` | arithmetic modulo 6 | `coins paid two till eleven =>` |
| `agree` | agreement across a distractor | `verb near moons clause by king =>` |
| `largest` | list manipulation | `sensor list 3 1 4 peak 0 =>` |
| `clan_asked`, `clan_told` | one rule, two surfaces, scarce rows | `which tribe fox member =>` |
"""

from dfl_ray.tasks.synthetic.suite import ALL_TASKS, DEFAULT_TASKS, RELATED_PAIR, Cue, make_tasks

__all__ = ["ALL_TASKS", "DEFAULT_TASKS", "RELATED_PAIR", "Cue", "make_tasks"]
