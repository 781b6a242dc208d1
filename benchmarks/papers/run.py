"""Do papers' own claims hold here?

`python -m benchmarks.papers.run --seeds 3` runs every `benchmarks/papers/<name>/claim.yaml`, or those that `--claims`
names, in this process, one run after the other, and prints a table: what a paper says, ours with 95 % intervals over
paired seeds, and whether it is held. `--json` prints one JSON object as the last line. Finished runs are kept in the
folder and read again.

A claim is a weighted sum over its arms of one figure of a run (`measure`; accuracy over all devices and tasks unless it
says otherwise), seed by seed, and what that sum exceeds according to the paper. It is `held` where the whole interval
lies above, `not held` where it lies below, else `open`: these seeds cannot tell. A claim on cost needs its bytes too.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.claim import markdown
from benchmarks.comparison import Curve, Interval, curve_of
from benchmarks.kept_runs import BASE, Job, carry_out_here, say
from benchmarks.methods import told

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Bytes:
    """What a claim says of cost.

    Attributes:
        of: The arm that is cheap.
        over: The arm it is compared with.
        at_most: Largest share of the other's bytes.
    """

    of: str
    over: str
    at_most: float


@dataclass(frozen=True)
class Claim:
    """One claim of a paper.

    Attributes:
        name: Its folder's name.
        paper: Citation.
        claim: What is claimed, in words.
        figure: Where the paper shows it, and what of that was checked.
        arms: Arm -> its settings.
        contrast: Arm -> weight in the sum.
        more_than: What the sum exceeds according to the claim, as a fraction.
        measure: The figure of a run: a key of `Curve.figures`.
        bytes: What is said of bytes; None = nothing.
    """

    name: str
    paper: str
    claim: str
    figure: str
    arms: Mapping[str, Sequence[str]]
    contrast: Mapping[str, float]
    more_than: float = 0.0
    measure: str = "accuracy"
    bytes: Bytes | None = None


@dataclass(frozen=True)
class Finding:
    """What became of a claim.

    Attributes:
        arms: Arm -> its figure over the seeds.
        contrast: The weighted sum over the seeds, paired.
        share: Bytes of the cheap arm over the other's; None where the claim says nothing of them.
        verdict: `held`, `not held` or `open`.
    """

    arms: Mapping[str, Interval]
    contrast: Interval
    share: Interval | None
    verdict: str


def read_claim(folder: Path) -> Claim:
    """Read `claim.yaml` of a folder.

    Raises:
        SystemExit: A key is unknown or missing, or the contrast names no arm of the claim.
    """
    import yaml

    said = yaml.safe_load((folder / "claim.yaml").read_text(encoding="utf-8"))
    try:
        cost = said.pop("bytes", None)
        claim = Claim(folder.name, **said, bytes=None if cost is None else Bytes(**cost))
    except TypeError as error:
        raise SystemExit(f"{folder / 'claim.yaml'}: {error}") from error
    named = {*claim.contrast, *(() if claim.bytes is None else (claim.bytes.of, claim.bytes.over))}
    if named - set(claim.arms):
        raise SystemExit(f"{folder / 'claim.yaml'} has no arm {', '.join(sorted(named - set(claim.arms)))}")
    return claim


def common_settings() -> list[str]:
    """Settings that all claims are run with."""
    import yaml

    return yaml.safe_load((HERE / "settings.yaml").read_text(encoding="utf-8"))


def job(settings: Sequence[str], seed: int, overrides: Sequence[str], folder: Path) -> Job:
    """The run of one arm and seed; arms of two claims with the same settings share it."""
    arguments = (*BASE, *common_settings(), *sorted(settings), *overrides, f"seed={seed}")
    digest = hashlib.blake2b("\n".join(arguments).encode(), digest_size=6).hexdigest()
    method = next(s.split("=")[1] for s in settings if s.startswith("method="))
    return Job(" ".join(settings), seed, arguments, folder / f"{method}-s{seed}-{digest}")


def judge(claim: Claim, curves: Mapping[str, Mapping[int, Curve]]) -> Finding:
    """Compare a claim with what was measured.

    Args:
        claim: The claim.
        curves: Arm -> seed -> run; all arms with the same seeds.

    Returns:
        The finding.
    """
    seeds = sorted(next(iter(curves.values())))
    arms = {a: Interval.of([runs[s].figures[claim.measure] for s in seeds]) for a, runs in curves.items()}
    sums = [sum(w * curves[a][s].figures[claim.measure] for a, w in claim.contrast.items()) for s in seeds]
    contrast = Interval.of(sums)
    share = None
    if claim.bytes is not None:
        cheap, dear = curves[claim.bytes.of], curves[claim.bytes.over]
        share = Interval.of([cheap[s].total("payload_bytes") / dear[s].total("payload_bytes") for s in seeds])
    return Finding(arms, contrast, share, verdict(claim, contrast, share))


def verdict(claim: Claim, contrast: Interval, share: Interval | None) -> str:
    """Say whether a claim is held: by the whole interval, and by the mean share of bytes where it speaks of them."""
    if share is not None and claim.bytes is not None and share.mean > claim.bytes.at_most:
        return "not held"
    if contrast.mean - contrast.half_width > claim.more_than:
        return "held"
    return "not held" if contrast.mean + contrast.half_width < claim.more_than else "open"


def table(findings: Mapping[str, Finding], claims: Mapping[str, Claim]) -> str:
    """The findings as a markdown table, accuracies in percent."""
    head = ("claim", "of", "ours, %", "difference, points", "claimed: above", "bytes", "verdict")
    rows: list[list[str]] = []
    for name, found in findings.items():
        claim = claims[name]
        ours = ", ".join(f"{arm} {value.text(100)}" for arm, value in found.arms.items())
        share = "" if found.share is None else found.share.text(1, 3)
        above = f"{100 * claim.more_than:g}"
        rows.append([claim.claim, claim.paper, ours, found.contrast.text(100), above, share, found.verdict])
    return markdown(head, rows)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--claims", help="comma separated; default: all")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds, from 0")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmarks/papers"), help="where runs are kept"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("overrides", nargs="*", help="key=value for every run")
    return parser.parse_intermixed_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run, print, return the result."""
    asked = parse(arguments)
    every = sorted(path.parent.name for path in HERE.glob("*/claim.yaml"))
    names = asked.claims.split(",") if asked.claims else every
    unknown = [name for name in names if name not in every]
    if unknown:
        raise SystemExit(f"No claim {', '.join(unknown)}; there are {', '.join(every)}.")
    claims = {name: read_claim(HERE / name) for name in names}
    folder = asked.folder.resolve()
    findings: dict[str, Finding] = {}
    for name, claim in claims.items():
        curves: dict[str, dict[int, Curve]] = {}
        for arm, settings in claim.arms.items():
            for seed in range(asked.seeds):
                work = job(settings, seed, asked.overrides, folder)
                carry_out_here(work)
                curves.setdefault(arm, {})[seed] = curve_of(work.path, arm)
        findings[name] = judge(claim, curves)
        say(f"{name}: {findings[name].verdict}")
    print(table(findings, claims))
    return told({"claims": {n: {**asdict(claims[n]), **asdict(f)} for n, f in findings.items()}}, asked)


if __name__ == "__main__":
    main()
