"""docs/methods.md, made of what the methods' entries say (`dfl_ray.methods.about`)."""

from __future__ import annotations

from dfl_ray.methods.about import About
from dfl_ray.methods.entries import method_entry
from dfl_ray.methods.table import METHODS

_HEAD = """# The methods

Made by `dfl-ray methods --page > docs/methods.md` from what the methods themselves say; `dfl-ray methods [CONFIG]
[key=value …]` prints the same with the bytes that each would put on air in a round of that configuration, or why it
cannot have it. Choose one with `method=NAME`. The equations and every departure from the paper stand at the top of its
file in `dfl_ray/methods/`; what `sparse_orthogonal` does is in [The learning method](method.md), how to add one in
[Adding a method](extending.md).

| method | what it is | source | trained | sent | mixed |
|---|---|---|---|---|---|
"""
_NOTES = "\n## To bear in mind\n\n"
_OPTIONS = """
## Options of all methods

- `method.proximal` is FedProx (Li et al. 2020, arXiv 1812.06127): mu/2 |x - x0|² is added to the local loss, where
  x0 is what the device began the round with.
- `method.control_variates` is SCAFFOLD's correction of local steps (Karimireddy et al. 2020, arXiv 1910.06378) without
  a server, for the methods that average parts of the one adapter of a device: `dlora`, `dec_lora`, `ffa`, `fed_sb`,
  `rolora`, `adf_lora`, `tad_lora`, `fedsa`. Messages are twice as long (`dfl_ray/methods/variates.py`). Made for
  small gradient steps: under AdamW and under SGD they were measured to harm (docs/papers.md).
- `method.optimizer=sgd` makes the local steps plain gradient steps, as most federated papers write them; AdamW is the
  default. Learning rates of the two do not compare.
- `method.fresh_optimizer` sets the moments of AdamW to 0 after every exchange, as the clients of federated papers do.
  One rule for all: without it moments stay on the device under every method. Where an exchange replaces the adapter by
  other factors (`flora`, `flexlora`, `decaf`, `random_walk`) its old moments mean nothing and are always set to 0.
- `method.aggregation` (push-sum, robust rules) is there for the methods that average parts of adapters by gossip.
"""


def about(name: str) -> About:
    """What is said of a method.

    Args:
        name: Its name.

    Returns:
        What its entry says; of a method without words the first line of its section's text, and of one whose package
        cannot be used that.
    """
    try:
        entry = method_entry(name)
    except ValueError:
        return About("not to be used", "an installed package", trained="", sent="", mixed="")
    if entry.about.line:
        return entry.about
    first = (entry.section.__doc__ or name).strip().splitlines()[0]
    return About(first.rstrip("."), "an installed package", trained="", sent="", mixed="")


def methods_page() -> str:
    """Write the page.

    Returns:
        Markdown of the project's own methods.
    """
    rows, notes = [], []
    for name in METHODS.own:
        a = about(name)
        rows.append(f"| `{name}` | {a.line} | {a.source} | {a.trained} | {a.sent} | {a.mixed} |\n")
        if a.note:
            notes.append(f"- `{name}`: {a.note}\n")
    return _HEAD + "".join(rows) + _NOTES + "".join(notes) + _OPTIONS
