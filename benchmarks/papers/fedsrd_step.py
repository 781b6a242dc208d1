"""Why is FedSRD behind dense averaging where everything is sent? Its server's step, one thing changed at a time.

`python -m benchmarks.papers.fedsrd_step --seeds 3` runs the arms of the claim `fedsrd_100` and variants of FedSRD, one
after the other in this process, and prints of each the accuracy, the difference to dense averaging paired by seed, and
what its server's steps did, with P the mean of the trained products and B A the common product before:

    left = |P - (B A after the step)| / |P - B A|,      stretch = |dA| / |mean_i A_i - A|,

the first as a mean over layers and cycles, apart for the turns of B and of A, the second at its largest. A variant
takes the place of functions of `dfl_ray.methods.fedsrd` while its runs last. `--json` prints one JSON object as the
last line; runs are made anew each time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from benchmarks.claim import markdown
from benchmarks.comparison import Interval, curve_of
from benchmarks.kept_runs import carry_out_here
from benchmarks.methods import told
from benchmarks.papers.run import HERE, job, read_claim
from dfl_ray.lora.layout import Factor
from dfl_ray.methods import fedsrd
from dfl_ray.methods.modules import Pair, joined, products
from dfl_ray.methods.star_law import answered_factor

LEAST_SINGULAR = 0.1
"""Singular values below this share of the largest count as 0 in the variant `cutoff`."""
Answer = Callable[[Pair, Sequence[Pair], int, Factor], np.ndarray]
_pinv = np.linalg.pinv


def changed(common: Pair, change: np.ndarray, factor: Factor) -> Pair:
    """B and A of a layer after one of them has changed."""
    b, a = common
    return (b + change, a) if factor == "b" else (b, a + change)


def mean_change(common: Pair, uploads: Sequence[Pair], rank: int, factor: Factor) -> np.ndarray:
    """The factor's own mean change, as averaging has it; arguments are those of `fedsrd.answer`."""
    at = 0 if factor == "b" else 1
    return np.mean([pair[at] for pair in uploads], axis=0) - common[at]


def both(common: Pair, uploads: Sequence[Pair], rank: int, factor: Factor) -> Pair:
    """The changes of B and of A: first of the factor whose turn it is, then of the other, to what is left."""
    first = fedsrd.answer(common, uploads, rank, factor)
    other: Factor = "a" if factor == "b" else "b"
    second = fedsrd.answer(changed(common, first, factor), uploads, rank, other)
    return (first, second) if factor == "b" else (second, first)


def form_both(
    self: fedsrd.Fedsrd, device: Any, round_index: int, uploads: Sequence[np.ndarray]
) -> fedsrd.Said:
    """`Fedsrd.form` that answers with both factors, all of their entries."""
    common, rank = self.start_of(device), self.layout.rank
    trained = [products(self, common + change) for change in uploads]
    factor = answered_factor(self.config, round_index + 1)
    layers = zip(products(self, common), zip(*trained, strict=True), strict=True)
    full = joined(self.layout, [both(of, new, rank, factor) for of, new in layers])
    return np.ones(self.layout.size, bool), full.astype(np.float32)


def keep_active(self: fedsrd.Fedsrd, device: Any, round_index: int) -> Any:
    """Let devices train the factor alone whose turn is next, in place of `Fedsrd.keep`."""
    import torch

    answered = round_index + self.config.exchange_every - self.star.phase(round_index)
    return torch.from_numpy(self.places(answered)).unsqueeze(0)


@dataclass(frozen=True)
class Variant:
    """FedSRD with one thing changed.

    Attributes:
        text: What is changed.
        patches: Dotted name of a function -> what takes its place.
        settings: Settings beside those of the claim.
    """

    text: str
    patches: Mapping[str, Any] = field(default_factory=dict)
    settings: Sequence[str] = ()


_CUTOFF = {"numpy.linalg.pinv": lambda x, rcond: _pinv(x, rcond=max(rcond, LEAST_SINGULAR))}
_BOTH = {
    "dfl_ray.methods.fedsrd.Fedsrd.form": form_both,
    "dfl_ray.methods.fedsrd.Fedsrd.places": lambda self, round_index: None,
    "dfl_ray.methods.star_law.factor_size": lambda layout, factor: layout.size,
}
_HALF = ["method.upload_share=0.5", "method.download_share=0.5"]
VARIANTS = {
    "ours": Variant("FedSRD as it is"),
    "fresh_optimizer": Variant("moments of AdamW are 0 after each exchange", {}, ["method.fresh_optimizer=true"]),
    "no_svd": Variant(
        "the mean product is not cut to rank r (FedSRD-e)",
        {"dfl_ray.methods.fedsrd.truncated_svd": lambda b, a, rank: (b, a)},
    ),
    "mean_factor": Variant(
        "the factor whose turn it is becomes its mean: no products, no inverse",
        {"dfl_ray.methods.fedsrd.answer": mean_change},
    ),
    "active": Variant("devices train that factor alone", {"dfl_ray.methods.fedsrd.Fedsrd.keep": keep_active}),
    "cutoff": Variant(f"singular values below {LEAST_SINGULAR:g} of the largest are no inverse's", _CUTOFF),
    "both": Variant("both factors are answered with, the second to what the first leaves", _BOTH),
    "both_cutoff": Variant("both of these", {**_BOTH, **_CUTOFF}),
    "half": Variant("half of the entries up and down", {}, _HALF),
    "half_cutoff": Variant("half of the entries, and `cutoff`", _CUTOFF, _HALF),
    "twice": Variant("twice the rounds", {}, ["rounds=48", "evaluate.every=48"]),
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """What the server's step did in one layer.

    Attributes:
        factor: "a" or "b".
        left: Share of the mean product's change that is not in the common product after the step.
        stretch: The change of the factor over the mean of its changes on the devices, in Frobenius norms.
        size: Norm of the factor after the step.
    """

    factor: Factor
    left: float
    stretch: float
    size: float


def recorded(answer: Answer, steps: list[Step]) -> Answer:
    """An `answer` that also notes what it does."""

    def noted(common: Pair, uploads: Sequence[Pair], rank: int, factor: Factor) -> np.ndarray:
        change = answer(common, uploads, rank, factor)
        wanted = np.mean([b @ a for b, a in uploads], axis=0)
        before, after = common[0] @ common[1], np.matmul(*changed(common, change, factor))
        meant = np.linalg.norm(mean_change(common, uploads, rank, factor))
        left = np.linalg.norm(wanted - after) / max(float(np.linalg.norm(wanted - before)), 1e-30)
        new = changed(common, change, factor)[0 if factor == "b" else 1]
        stretch = np.linalg.norm(change) / max(float(meant), 1e-30)
        steps.append(Step(factor, float(left), float(stretch), float(np.linalg.norm(new))))
        return change

    return noted


def carry_out(name: str, seed: int, folder: Path, overrides: Sequence[str] = ()) -> tuple[float, list[Step]]:
    """Make one run.

    Args:
        name: A variant, or `dense`.
        seed: Seed.
        folder: Where runs are made.
        overrides: Settings of all runs.

    Returns:
        Accuracy over all devices and tasks, and the server's steps.
    """
    arms, steps = read_claim(HERE / "fedsrd_100").arms, list[Step]()
    variant = VARIANTS.get(name, Variant(""))
    arm = arms["dense" if name == "dense" else "fedsrd"]
    work = job(arm, seed, [*overrides, *variant.settings], folder / name)
    shutil.rmtree(work.path, ignore_errors=True)
    with ExitStack() as stack:
        for target, function in variant.patches.items():
            stack.enter_context(patch(target, function))
        stack.enter_context(patch("dfl_ray.methods.fedsrd.answer", recorded(fedsrd.answer, steps)))
        carry_out_here(work)
    return float(curve_of(work.path, name).figures["accuracy"]), steps


def summary(steps: Sequence[Step]) -> dict[str, float]:
    """What the steps of some runs did: see the module's text.

    Args:
        steps: All of them.

    Returns:
        `left_b`, `left_a`: means; `stretch`: the largest of A's turns; `size_a`: the largest norm of A. Each is NaN
        without a step of its kind.
    """
    of_a, of_b = ([s for s in steps if s.factor == f] for f in ("a", "b"))
    return {
        "left_b": float(np.mean([s.left for s in of_b])) if of_b else float("nan"),
        "left_a": float(np.mean([s.left for s in of_a])) if of_a else float("nan"),
        "stretch": max((s.stretch for s in of_a), default=float("nan")),
        "size_a": max((s.size for s in of_a), default=float("nan")),
    }


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The variants as a markdown table, accuracies in percent."""
    head = (
        "variant",
        "accuracy, %",
        "minus dense, points",
        "left by B",
        "left by A",
        "largest stretch",
        "largest norm of A",
    )
    rows: list[list[str]] = []
    for name, row in found.items():
        text = f"`{name}`: {VARIANTS[name].text}" if name in VARIANTS else name
        figures = [
            f"{row['left_b']:.2f}",
            f"{row['left_a']:.2f}",
            f"{row['stretch']:.0f}",
            f"{row['size_a']:.0f}",
        ]
        figures = [f if f != "nan" else "" for f in figures]
        rows.append([text, row["accuracy"].text(100), row["difference"].text(100), *figures])
    return markdown(head, rows)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print, return the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--variants", default=",".join(VARIANTS), help="comma separated; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/fedsrd_step"), help="where runs are made"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    asked = parser.parse_intermixed_args(arguments)
    unknown = [name for name in asked.variants.split(",") if name not in VARIANTS]
    if unknown:
        raise SystemExit(f"No variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}.")
    seeds, found = range(asked.seeds), dict[str, dict[str, Any]]()
    dense = [carry_out("dense", seed, asked.folder.resolve(), asked.overrides)[0] for seed in seeds]
    for name in ("dense", *asked.variants.split(",")):
        runs = [(x, []) for x in dense]
        if name != "dense":
            runs = [carry_out(name, seed, asked.folder.resolve(), asked.overrides) for seed in seeds]
        difference = [x - base for (x, _), base in zip(runs, dense, strict=True)]
        found[name] = {
            "accuracy": Interval.of([x for x, _ in runs]), "difference": Interval.of(difference),
            "by_seed": [x for x, _ in runs], **summary([s for _, steps in runs for s in steps]),
        }  # fmt: skip
    print(table(found))
    plain = {
        n: {k: asdict(v) if isinstance(v, Interval) else v for k, v in row.items()}
        for n, row in found.items()
    }
    return told({"variants": plain}, asked)


if __name__ == "__main__":
    main()
