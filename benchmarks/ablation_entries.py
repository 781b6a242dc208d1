"""The ablations: which settings are run, what is drawn over what. `benchmarks.ablations` runs them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

OURS = "sparse_orthogonal"
DLORA = "dlora"
WITH_FILTER = "evaluate.rules=[oracle,filter]"
"""Every run of ours is also asked by the true task's expert and by the linear filter."""

PINNED = ("exchange_every=1", "density=0.5", "prune_end=0.6", "prune_steps=5", "replicas_every=5")
"""The base run of ours, whatever the defaults: everything is exchanged often, so that each saving can show alone."""

Kind = Literal["value", "log", "names", "bytes", "curve"]


@dataclass(frozen=True)
class Point:
    """One setting.

    Attributes:
        x: Its place: a number, or the name of a place on an axis of names.
        label: The method and its settings, as `benchmarks.methods` takes them.
    """

    x: float | str
    label: str


@dataclass(frozen=True)
class Series:
    """One line.

    Attributes:
        name: What it is called.
        points: Its settings.
        figure: What is read: a final figure (`accuracy`, `routed_right`, ...), `rule:NAME` for the accuracy by an
            inference rule, or `routing_by_chance` (see `ablations.value_of`).
    """

    name: str
    points: tuple[Point, ...]
    figure: str = "accuracy"


@dataclass(frozen=True)
class Ablation:
    """One figure.

    Attributes:
        title: Its title.
        x: Title of the horizontal axis.
        kind: `value` or `log` (numbers), `names`, `bytes` (what each run sent in all), or `curve` (each run's
            accuracy over the bytes it had sent at each evaluation).
        series: Its lines.
    """

    title: str
    x: str
    kind: Kind
    series: tuple[Series, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The runs it needs."""
        return tuple(dict.fromkeys(p.label for s in self.series for p in s.points))


def ours(*settings: str) -> str:
    """A run of sparse-and-orthogonal LoRA with settings of its own."""
    return ":".join((OURS, WITH_FILTER, *PINNED, *settings))


def dlora(*settings: str) -> str:
    """A run of traditional LoRA with settings of its own."""
    return ":".join((DLORA, *settings))


Make = Callable[..., str]


def swept(
    name: str, key: str, values: Sequence[object], base: object, make: Make = ours, *more: str,
    figure: str = "accuracy",
) -> Series:  # fmt: skip
    """One setting over its values; the base value is the base run, so that it is not run twice."""
    points = [Point(_x(v), make(*more) if v == base else make(f"{key}={v}", *more)) for v in values]
    return Series(name, tuple(points), figure)


def _x(value: object) -> float | str:
    return float(value) if isinstance(value, int | float) else str(value)


EARLY = ("prune_start=0", "prune_end=0.17", "prune_steps=1")
DENSITIES = (0.1, 0.25, 0.5, 1.0)


def _masked(name: str, mask: str, *schedule: str) -> Series:
    settings = [f"mask={mask}"] if mask != "element" else []
    points = [
        Point(
            k, ours(*([] if k == 0.5 else [f"density={k:g}"]), *(settings + list(schedule) if k < 1 else []))
        )
        for k in DENSITIES
    ]
    return Series(name, tuple(points))


def _steps(name: str, make: Make) -> Series:
    """As many local steps in all, in more or fewer rounds; replicas and evaluations as often in steps."""
    points = [Point(10, make())]
    for steps, rounds, evaluate, refresh in ((4, 30, 10, 12), (20, 6, 2, 2), (40, 3, 1, 1)):
        more = [f"replicas_every={refresh}"] if make is ours else []
        label = make(f"local_steps={steps}", f"rounds={rounds}", f"evaluate.every={evaluate}", *more)
        points.append(Point(steps, label))
    return Series(name, tuple(sorted(points, key=lambda p: float(p.x))))


def _mixtures(name: str, make: Make) -> Series:
    points = [
        Point(f"{k}", make() if k == 2 else make(f"devices.tasks_per_device={k}", "devices.min_holders=1"))
        for k in (1, 2, 3)
    ]
    points += [
        Point(f"Dirichlet {a}", make("devices.partition=dirichlet", f"devices.dirichlet_alpha={a}"))
        for a in (1.0, 0.3)
    ]
    return Series(name, tuple(points))


CUES = ("strong", "weak", "none")
RULES = (
    "likelihood",
    "likelihood_soft",
    "filter",
    "filter_full",
    "arrow",
    "ties",
    "sum",
    "average",
    "oracle",
)


def _cues() -> tuple[Series, ...]:
    points = tuple(Point(c, ours("evaluate.rules=[all]", f"tasks.cue={c}")) for c in CUES)
    rules = [Series(rule, points, f"rule:{rule}") for rule in RULES]
    routed = Series("prompts routed right", points, "routed_right")
    return (*rules, routed, Series("routed right by chance", points, "routing_by_chance"))


PAIR = "tasks.names=[clan_asked,clan_told]"
REPLICAS = (1, 2, 5, 12)
PROJECTIONS = ("exact", "gaussian", "per_device")
LAMBDAS = (1e-4, 1e-3, 0.01, 0.1, 1.0)

ABLATIONS: dict[str, Ablation] = {
    "projection": Ablation("Projection A_t", "how A is drawn", "names", (
        swept("likelihood", "projection", PROJECTIONS, "exact"),
        swept("oracle", "projection", PROJECTIONS, "exact", figure="rule:oracle"),
        swept("filter", "projection", PROJECTIONS, "exact", figure="rule:filter"),
    )),
    "masks": Ablation("Masks and ranks at equal bytes", "MB on air", "bytes", (
        _masked("entries, gradual", "element"), _masked("rows, gradual", "row"),
        _masked("entries, early", "element", *EARLY), _masked("rows, early", "row", *EARLY),
        Series("lower rank, dense", tuple(Point(r, ours("density=1", *([f"rank={r}"] if r < 8 else [])))
                                          for r in (1, 2, 4, 8))),
    )),
    "budgets": Ablation("How the density is spread over layers", "density", "log", tuple(
        swept(b, "density", (0.1, 0.25, 0.5), 0.5, ours, *([] if b == "uniform" else [f"budget={b}"]))
        for b in ("uniform", "global", "effective_rank")
    )),
    "codec": Ablation("Numbers on air", "number format", "names", (
        Series("ours", (
            *(Point(p, ours(f"precision={p}")) for p in ("float32", "bfloat16", "float16")),
            Point("int8", ours()), Point("int8, no feedback", ours("error_feedback=false")),
        )),
    )),
    "router": Ablation("Inference rules and how far prompts betray their task", "cue", "names", _cues()),
    "filter_lambda": Ablation("Ridge of the linear filter", "lambda", "log", (
        swept("filter", "filter_lambda", LAMBDAS, 0.01, figure="rule:filter"),
        swept("likelihood", "filter_lambda", LAMBDAS, 0.01),
    )),
    "rank": Ablation("Rank", "rank r", "log", (
        swept("ours", "rank", (2, 4, 8, 10), 8), swept("dlora", "rank", (2, 4, 8, 16), 8, dlora),
    )),
    "local_steps": Ablation("Local steps in a round, 120 in all", "local steps H", "log", (
        _steps("ours", ours), _steps("dlora", dlora),
    )),
    "mixture": Ablation("Tasks on a device", "tasks a device", "names", (
        _mixtures("ours", ours), _mixtures("dlora", dlora),
    )),
    "replicas": Ablation("Rounds between refreshes of foreign experts", "MB on air", "curve", tuple(
        Series(f"every {e}", (Point(e, ours(f"replicas_every={e}", "evaluate.every=1")),)) for e in REPLICAS
    )),
    "related_pair": Ablation("Two surfaces of one rule, scarce rows", "MB on air", "curve", tuple(
        Series(m, (Point(0, label),)) for m, label in (
            ("ours", ours(PAIR)), ("dlora", dlora(PAIR)), ("ffa", f"ffa:{PAIR}"), ("local", f"local:{PAIR}"),
        )
    )),
    "economies": Ablation("Sending seldom and coarsely, both methods", "MB on air", "bytes", (
        Series("ours, int8", tuple(
            Point(e, ours(*([] if e == 1 else [f"exchange_every={e}"]))) for e in (1, 4, 12))),
        Series("ours, as by default", (Point("default", f"{OURS}:{WITH_FILTER}"),)),
        Series("dlora, int8", tuple(
            Point(e, dlora("precision=int8", *([] if e == 1 else [f"exchange_every={e}"]))) for e in (1, 4, 12))),
        Series("dlora, float16", tuple(
            Point(e, dlora(*([] if e == 1 else [f"exchange_every={e}"]))) for e in (1, 4, 12))),
    )),
}  # fmt: skip
"""Name -> ablation."""
