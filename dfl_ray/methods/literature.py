"""The entries of further methods of the literature. Importing this needs no torch."""

from __future__ import annotations

from dfl_ray.config import literature
from dfl_ray.methods.about import About
from dfl_ray.methods.entries import MethodEntry
from dfl_ray.methods.laws import neighbour_values
from dfl_ray.methods.spec import PRODUCTS_HEARD, MethodSpec
from dfl_ray.methods.star_law import important_star, sparse_star, whole_star
from dfl_ray.methods.walk_law import WalkLaw

_HERE = "dfl_ray.methods"
_IN_STEP = "all devices train the same factor, A or B, at a time"
_SERVER = "all devices wait for the server's answer"

DEC_LORA = MethodEntry(
    literature.DecLoraConfig,
    f"{_HERE}.dlora:Dlora",
    about=About(
        "Dec-LoRA: another name for dlora",
        "Ghiasvand et al. 2025, arXiv 2501.15361",
        mixed="each by gossip over all neighbours",
        note="The same update as dlora, bit for bit; the paper's local steps are SGD's.",
    ),
)
ADF_LORA = MethodEntry(
    literature.AdfLoraConfig,
    f"{_HERE}.adf_lora:AdfLora",
    MethodSpec(barrier=_IN_STEP),
    About(
        "one factor trained a round, both mixed",
        "Wang et al. 2025, arXiv 2511.18291",
        trained="A and B in turn",
        mixed="each by gossip",
        note="Which factor the paper trains first was not checked; B here.",
    ),
)
TAD_LORA = MethodEntry(
    literature.TadLoraConfig,
    f"{_HERE}.tad_lora:TadLora",
    MethodSpec(barrier=_IN_STEP),
    About(
        "one factor trained for `switch_every` rounds, both mixed",
        "Wang et al. 2026, arXiv 2602.00451",
        trained="A and B in turn",
        mixed="each by gossip",
        note="The paper's rule for the interval was not checked; it is a setting.",
    ),
)
FEDEX = MethodEntry(
    literature.FedexConfig,
    f"{_HERE}.fedex:Fedex",
    MethodSpec(feedback=False, own_base=True, heard=PRODUCTS_HEARD),
    About(
        "FedEx-LoRA: averaged factors, the rest of the mean product in the base",
        "Singhal et al. 2024, arXiv 2410.09432",
        mixed="each by gossip; the residual merged into the own base",
        note="A residual reaches direct neighbours only, so that bases drift apart without a server.",
    ),
)
FLORA_NA = MethodEntry(
    literature.FloraNaConfig,
    f"{_HERE}.flora_na:FloraNa",
    MethodSpec(feedback=False, heard=PRODUCTS_HEARD),
    About(
        "FLoRA-NA: weighted sums of factors nearest to the mean product",
        "Nguyen et al. 2025, arXiv 2509.26399",
        mixed="sums of factors with weights found by least squares",
        note="How the paper finds the weights was not checked; alternating least squares here.",
    ),
)
LORA_FAIR = MethodEntry(
    literature.LoraFairConfig,
    f"{_HERE}.lora_fair:LoraFair",
    MethodSpec(feedback=False, heard=PRODUCTS_HEARD),
    About(
        "LoRA-FAIR: averaged factors, B corrected towards the mean product",
        "Bian et al. 2025, arXiv 2411.14961",
        mixed="each by gossip, then a ridge correction of B",
        note="The paper's distance and penalty were not checked; squared here, in closed form.",
    ),
)
FED_SB = MethodEntry(
    literature.FedSbConfig,
    f"{_HERE}.fed_sb:FedSb",
    MethodSpec(trains=("c",)),
    About(
        "Fed-SB: an r x r core between two frozen bases",
        "Singhal et al. 2025, arXiv 2502.15436",
        trained="the core C of B C A",
        sent="the core",
        mixed="gossip, exact",
        note="Bases drawn from the seed by default; the paper's are `method.bases: gradient`, not charged.",
    ),
)
DECAF = MethodEntry(
    literature.DecafConfig,
    f"{_HERE}.decaf:Decaf",
    MethodSpec(feedback=False, heard=PRODUCTS_HEARD),
    About(
        "DeCAF: consensus on the product, factors by truncated SVD",
        "Saadati et al. 2025, arXiv 2505.21382",
        mixed="mean product, cut to rank r by SVD, balanced factors",
        note="How the paper shares the singular values was not checked; evenly here.",
    ),
)
GRADIENT_TRACKING = MethodEntry(
    literature.GradientTrackingConfig,
    f"{_HERE}.gradient_tracking:GradientTracking",
    MethodSpec(
        neighbour_values(2),
        feedback=False,
        arrays=5,
        heard=2.0,
        barrier="the trackers' sum is that of the updates only if all devices exchange at once",
    ),
    About(
        "adapters and an estimate of everybody's mean update, both averaged",
        "Nedic et al. 2017, arXiv 1607.03218",
        sent="A, B and the tracker of both",
        mixed="all by gossip",
    ),
)
EXACT_DIFFUSION = MethodEntry(
    literature.ExactDiffusionConfig,
    f"{_HERE}.exact_diffusion:ExactDiffusion",
    MethodSpec(
        feedback=False,
        arrays=2,
        barrier="what a device corrects by is of the exchange before, the same for all",
    ),
    About(
        "gossip corrected for data that differ, at gossip's bytes",
        "Yuan et al. 2019, IEEE TSP 67(3)",
        mixed="corrected adapters by lazy gossip, (I + W) / 2",
    ),
)
RANDOM_WALK = MethodEntry(
    literature.RandomWalkConfig,
    f"{_HERE}.random_walk:RandomWalk",
    MethodSpec(WalkLaw, feedback=False, heard=0.0, barrier="one device at a time has the adapter"),
    About(
        "one adapter walks the graph; who has it trains",
        "Liu et al. 2026, arXiv 2604.12260, without its jumps",
        trained="A, B, on one device at a time",
        sent="A, B to one neighbour",
        mixed="not at all",
        note="One device trains a round: compare at equal bytes or joules, not at equal rounds.",
    ),
)
FEDAVG_STAR = MethodEntry(
    literature.FedavgStarConfig,
    f"{_HERE}.fedavg_star:FedavgStar",
    MethodSpec(whole_star, feedback=False, heard=0.5, barrier=_SERVER),
    About(
        "FedAvg with a server at one device, over its multi-hop tree",
        "McMahan et al. 2017, arXiv 1602.05629; FedIT, arXiv 2305.05644",
        sent="A, B up to the server and down again",
        mixed="mean over all devices",
        note="With a server: its cost on the same radio, not a rival without one. A cycle takes a round more.",
    ),
)
FLASC = MethodEntry(
    literature.FlascConfig,
    f"{_HERE}.flasc:Flasc",
    MethodSpec(sparse_star, feedback=False, arrays=1, heard=0.5, barrier=_SERVER),
    About(
        "FLASC: a server, the largest entries down, the largest changes up",
        "Kuo et al. 2024, arXiv 2406.05233",
        sent="top-k of the change up, top-k of the adapter down",
        mixed="mean change added at the server",
        note="With a server, as fedavg_star. The server's step is the mean, not Adam.",
    ),
)
FEDSRD = MethodEntry(
    literature.FedsrdConfig,
    f"{_HERE}.fedsrd:Fedsrd",
    MethodSpec(important_star, feedback=False, arrays=1, heard=2.0, barrier=_SERVER),
    About(
        "FedSRD: a server, the important changes up, one factor's answer down",
        "Yan et al. 2025, arXiv 2510.04601",
        sent="important entries of the change up, random entries of one factor's change down",
        mixed="mean product at the server, cut to rank r, one factor's share of it",
        note="With a server, as fedavg_star. Its upload share is a setting; the paper takes it from the kurtosis. The "
        "inverse of a B with small singular values blows A up, as in the paper's own algorithm (docs/papers.md).",
    ),
)
