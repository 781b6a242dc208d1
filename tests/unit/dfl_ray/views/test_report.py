"""The report: what its page holds, that it asks nothing of the network, unfinished runs, and names with markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dfl_ray import views
from dfl_ray.errors import InputError
from dfl_ray.records import Run, load_run
from dfl_ray.records.words import size
from tests.fake_run import TASKS, Fake, write_fake_run


def body(path: Path) -> str:
    return path.read_text(encoding="utf-8").split("</script></head>", 1)[1]


def test_report_of_one_run_holds_its_table_and_all_pictures(run: Run, tmp_path: Path):
    page = body(views.write_report([run.path], tmp_path / "sub" / "report.html"))
    assert page.count('class="figure"') == len(views.FIGURES) and "could not be drawn" not in page
    assert size(run.rounds["payload_bytes"].sum()) in page
    for task in TASKS:
        assert f"<td>{task}</td>" in page


def test_report_asks_nothing_of_the_network(run: Run, tmp_path: Path):
    text = views.write_report([run.path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]*(src|href)=", text)
    assert text.count("</html>") == 1 and "plotly.js (cartesian" in text
    assert len(text) < 3_000_000


def test_plotly_js_is_of_the_version_that_the_package_ships():
    from plotly.offline import get_plotlyjs

    from dfl_ray.views.page import plotly_script

    own, whole = (re.search(r"v(\d+\.\d+\.\d+)", text[:200]) for text in (plotly_script(), get_plotlyjs()))
    assert own is not None and whole is not None
    assert own.group(1) == whole.group(1), "npm pack plotly.js-cartesian-dist-min@VERSION has the right one"


def test_report_of_several_runs_compares_them(run: Run, dlora: Run, tmp_path: Path):
    page = body(views.write_report([run.path, dlora.path], tmp_path / "r.html"))
    several = [name for name, entry in views.FIGURES.items() if entry.several]
    assert "2 runs compared" in page and "could not be drawn" not in page
    assert page.count('class="figure"') == len(several) + 4 and "sparse_orthogonal − dlora" in page.replace(
        "<wbr>", ""
    )


def test_report_of_an_unfinished_run_says_how_far_it_is(tmp_path: Path):
    path = write_fake_run(tmp_path, fake=Fake(rounds=3, state="running"))
    page = body(views.write_report([path], tmp_path / "r.html"))
    assert "is in state <b>running</b>: 3 of 3 rounds" in page and "could not be drawn" not in page


def test_names_cannot_smuggle_markup_into_the_report(tmp_path: Path):
    evil = "</script><b onload=x>"
    path = write_fake_run(tmp_path, fake=Fake(rounds=2, tasks=(evil, "plain", "third")))
    page = body(views.write_report([path], tmp_path / "r.html"))
    assert evil not in page and "<b onload" not in page


def test_report_needs_a_readable_run(tmp_path: Path):
    with pytest.raises(InputError, match="at least one run"):
        views.write_report([], tmp_path / "r.html")
    with pytest.raises(InputError, match="no run folder"):
        views.write_report([tmp_path / "x"], tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_figure_can_be_had_alone(run: Run, dlora: Run, tmp_path: Path):
    from dfl_ray.cli import main

    out = tmp_path / "x.json"
    assert (
        main(["plot", str(run.path), str(dlora.path), "accuracy_over_bytes", "-o", str(out), "--dark"]) == 0
    )
    assert len(json.loads(out.read_text(encoding="utf-8"))["data"]) == 2
    assert main(["plot", str(run.path), "accuracy_over_bites", "-o", str(out)]) == 2
    assert main(["plot", str(run.path), "sinr", "-o", str(tmp_path / "x.bmp")]) == 2
    assert main(["plot", "sinr"]) == 2


def test_a_seed_counts_once_however_often_it_was_run(tmp_path: Path):
    fakes = {"a": Fake(seed=0, final=0.9), "b": Fake(seed=1, final=0.8), "again": Fake(seed=0, final=0.9)}
    paths = [write_fake_run(tmp_path, name, fake) for name, fake in fakes.items()]
    whole, two = (body(views.write_report(some, tmp_path / "r.html")) for some in (paths, paths[:2]))
    assert "Run again is of the same configuration and seed as a and does not count" in whole

    def means(text: str) -> list[str]:
        return re.findall(r"[\d.]+ % ± [\d.]+ %", text)

    assert means(whole) == means(two) and means(two)
    broken = write_fake_run(tmp_path, "broken", Fake(seed=0, final=0.1, state="failed"))
    after = body(views.write_report([broken, *paths[:2]], tmp_path / "r.html"))
    assert "Run broken is of the same configuration and seed as a" in after and set(means(two)) <= set(
        means(after)
    )
    with pytest.raises(InputError, match="is named twice"):
        views.write_report([paths[0], paths[1], tmp_path / "b" / ".." / "a"], tmp_path / "r.html")


@pytest.mark.parametrize("state", ["running", "interrupted", "failed"])
def test_runs_that_are_not_done_are_named_and_count_in_no_mean(tmp_path: Path, state: str):
    """In the report and in the dashboard's tables alike, also where a pair of theirs would be done."""
    from dfl_ray.dashboard.library import Library
    from dfl_ray.dashboard.pages import compared_tables

    fakes = {"a": Fake(rounds=2), "b": Fake(rounds=2, seed=1), "d": Fake(rounds=2, method="dlora")}
    whole = [write_fake_run(tmp_path, name, fake) for name, fake in fakes.items()]
    part = write_fake_run(tmp_path, "part", Fake(rounds=2, seed=2, final=0.1, state=state))
    beside = write_fake_run(tmp_path, "beside", Fake(rounds=2, seed=2, method="dlora"))
    page = body(views.write_report([*whole, beside, part], tmp_path / "r.html"))
    table = compared_tables(Library(tmp_path), ["a", "b", "d", "beside", "part"])
    without = compared_tables(Library(tmp_path), ["a", "b", "d", "beside"])
    for text in (page, table):
        assert f"Run part is in state <b>{state}</b>: 2 of 2 rounds are recorded" in text
        assert "Run part is not done and counts in no mean and no difference" in text
    means = re.findall(r"[−+\d.]+ (?:%|points)(?: ± [\d.]+ (?:%|points))?", without.split("Single runs")[0])
    assert means and all(mean in page for mean in means) and "counts in no mean" not in without
    assert means == re.findall(
        r"[−+\d.]+ (?:%|points)(?: ± [\d.]+ (?:%|points))?", table.split("Single runs")[0]
    )


def test_runs_none_of_which_is_done_are_compared_without_means(tmp_path: Path):
    going = [
        write_fake_run(tmp_path, method, Fake(rounds=2, method=method, state="running"))
        for method in ("dlora", "ffa")
    ]
    page = body(views.write_report(going, tmp_path / "r.html"))
    assert "could not be drawn" not in page and "so nothing can be paired" in page
    assert page.count("counts in no mean") == 2
    assert [trace.name for trace in views.accuracy_of_runs(list(map(load_run, going))).data] == [
        "dlora, not done",
        "ffa, not done",
    ]
