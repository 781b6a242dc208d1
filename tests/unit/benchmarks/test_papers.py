"""Claims of papers: every file reads and configures a run, and the verdict is what the interval says."""

from __future__ import annotations

import pytest

from benchmarks.comparison import Interval
from benchmarks.papers.run import HERE, Bytes, Claim, common_settings, job, judge, read_claim, table, verdict

NAMES = sorted(path.parent.name for path in HERE.glob("*/claim.yaml"))
CLAIM = Claim("x", "paper", "words", "figure", {"a": [], "b": []}, {"a": 1, "b": -1}, more_than=0.1)


class Run:
    """What `judge` reads of a run."""

    def __init__(self, accuracy, spent):
        self.figures, self._spent = {"accuracy": accuracy}, spent

    def total(self, axis):
        return {"payload_bytes": self._spent}[axis]


@pytest.mark.parametrize("name", NAMES)
def test_a_claim_reads_and_each_arm_is_a_configuration(name, tmp_path):
    from dfl_ray.config.load import load_config
    from dfl_ray.network.deployment import dealt_tasks

    claim = read_claim(HERE / name)
    assert claim.paper and claim.claim and claim.figure and sum(claim.contrast.values()) == 0
    for settings in claim.arms.values():
        made = job(settings, 2, [], tmp_path)
        config = load_config(None, made.arguments)
        assert config.seed == 2 and config.tasks.test_rows == 60
        assert dealt_tasks(config, 6).shape == (10, 6)
        assert made.path == job(list(reversed(settings)), 2, [], tmp_path).path
        assert made.path != job(settings, 1, [], tmp_path).path
    assert common_settings()


def test_the_verdict_is_the_intervals():
    for mean, half, said in (
        (0.3, 0.1, "held"),
        (0.15, 0.1, "open"),
        (-0.1, 0.1, "not held"),
        (0.05, 0.1, "open"),
    ):
        assert verdict(CLAIM, Interval(mean, half, 3), None) == said
    assert verdict(CLAIM, Interval.of([0.9]), None) == "open", "one seed has no interval"


def test_differences_are_paired_and_bytes_count():
    curves = {
        "a": {0: Run(0.5, 10), 1: Run(0.9, 10), 2: Run(0.7, 10)},
        "b": {0: Run(0.2, 100), 1: Run(0.6, 100), 2: Run(0.41, 50)},
    }
    found = judge(CLAIM, curves)
    assert found.contrast.mean == pytest.approx(0.8900 / 3) and found.contrast.half_width < 0.02
    assert found.verdict == "held" and found.share is None
    dear = Claim(**{**vars(CLAIM), "bytes": Bytes("a", "b", 0.1)})
    found = judge(dear, curves)
    assert found.share.mean == pytest.approx(0.4 / 3) and found.verdict == "not held"
    assert "29.7" in table({"x": found}, {"x": dear})


def test_a_claim_about_an_arm_that_is_not_there_is_refused(tmp_path):
    text = "paper: p\nclaim: c\nfigure: f\narms: {a: []}\ncontrast: {a: 1, z: -1}\n"
    (tmp_path / "claim.yaml").write_text(text)
    with pytest.raises(SystemExit, match="no arm z"):
        read_claim(tmp_path)
    (tmp_path / "claim.yaml").write_text(text + "wrong: 1\n")
    with pytest.raises(SystemExit, match="wrong"):
        read_claim(tmp_path)
