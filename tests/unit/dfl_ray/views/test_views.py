"""Pictures: numbers against plain pandas, words, thinning, and empty runs."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from dfl_ray import views
from dfl_ray.errors import InputError
from dfl_ray.records import Run, RunFolder, load_run
from dfl_ray.views.accuracy import cost_at, mean_curve
from dfl_ray.views.groups import cost_to_target, differing_keys, find_groups, group_curve, interval, paired
from dfl_ray.views.learning import collision, cosine
from dfl_ray.views.maps import MOST_LINKS, link_sinr_db
from dfl_ray.views.radio import MOST_SENDERS, transmission_table
from dfl_ray.views.style import OKABE_ITO, evenly, scaled
from tests.fake_run import TASKS, Fake, write_fake_run

SINGLE = {
    "over rounds": lambda run: views.accuracy_by_task(run),
    "over bytes": lambda run: views.accuracy_by_task(run, "bytes"),
    "over airtime": lambda run: views.accuracy_by_task(run, "airtime"),
    "over simulated time": lambda run: views.accuracy_by_task(run, "simulated"),
    "heatmap": views.accuracy_heatmap,
    "map": views.device_map,
    "schedule": views.schedule,
    "sinr": lambda run: views.sinr_distribution([run]),
    "rate": lambda run: views.rate_distribution([run]),
    "wall": views.wall_split,
    "loss": views.loss_and_delivery,
    "costs": lambda run: views.cost_bars([run]),
}


@pytest.mark.parametrize("name", SINGLE)
def test_every_picture_has_a_title_and_names_its_axes_with_units(run: Run, name: str):
    picture = SINGLE[name](run)
    assert isinstance(picture, go.Figure) and picture.data and picture.layout.title.text
    titles = [axis.title.text for axis in picture.select_xaxes() if axis.title.text]
    assert titles
    quantities = ("bytes", "airtime", "simulated", "time in", "SINR", "rate", "x (", "energy")
    for title in titles:
        assert not title.startswith(quantities) or re.search(r"\(.+\)$", title), title


@pytest.mark.parametrize("name", SINGLE)
def test_every_picture_of_a_run_without_rounds_says_that_there_is_nothing(runs_dir: Path, name: str):
    path = runs_dir / "nothing"
    if not path.exists():
        RunFolder.create(runs_dir, "nothing", {"method": {"type": "dlora"}}).close()
    picture = SINGLE[name](load_run(path))
    assert name == "costs" or picture.layout.annotations[0].text


@pytest.mark.parametrize("name", SINGLE)
def test_every_picture_of_ten_thousand_devices_stays_small(large: Run, name: str):
    assert len(SINGLE[name](large).to_json()) < 2_000_000


def test_accuracy_curves_are_the_means_over_devices(run: Run):
    picture = views.accuracy_by_task(run)
    rows = run.evaluation
    for trace in picture.data[: len(TASKS)]:
        for number, shown in zip(trace.x, trace.y, strict=True):
            here = (rows["round"] == number) & (rows["task"] == trace.name) & (rows["rule"] == "likelihood")
            assert shown == pytest.approx(np.mean(rows["accuracy"][here]))
    assert list(picture.data[0].x) == [0, 2, 4, 6]
    mean = next(trace for trace in picture.data if "mean" in trace.name)
    assert mean.y[-1] == pytest.approx(np.mean([trace.y[-1] for trace in picture.data[: len(TASKS)]]))


def test_cost_axis_sums_bytes_and_airtime_and_reads_the_clock(run: Run):
    table = run.rounds
    assert cost_at(run, [0, 3], "bytes") == [0, table["payload_bytes"].iloc[:3].sum()]
    assert cost_at(run, [0, 6], "airtime") == pytest.approx([0, table["airtime_s"].sum()])
    assert cost_at(run, [4], "simulated") == [table["simulated_s"].iloc[3]]


def test_runs_are_compared_on_one_scale(run: Run, dlora: Run):
    picture = views.accuracy_of_runs([run, dlora], "bytes")
    ends = [max(trace.x) for trace in picture.data]
    sums = [one.rounds["payload_bytes"].sum() for one in (run, dlora)]
    assert ends[1] / ends[0] == pytest.approx(sums[1] / sums[0])
    assert picture.data[0].line.color != picture.data[1].line.color
    assert mean_curve(dlora, "round")[0] == [0, 3, 6]


def test_more_tasks_than_colours_stay_apart(tmp_path: Path):
    names = tuple(f"task{number}" for number in range(11))
    picture = views.accuracy_by_task(load_run(write_fake_run(tmp_path, fake=Fake(rounds=2, tasks=names))))
    looks = [(trace.line.color, trace.line.dash, trace.marker.symbol) for trace in picture.data[:11]]
    assert len(set(looks)) == 11 and {look[0] for look in looks} <= set(OKABE_ITO)


def test_cost_bars_average_seeds_with_a_student_interval(runs_dir: Path, run: Run, dlora: Run):
    seeds = [load_run(write_fake_run(runs_dir, f"s{seed}", Fake(rounds=2, seed=seed))) for seed in (1, 2, 3)]
    groups = find_groups([*seeds, dlora])
    assert [(g.label, len(g.runs)) for g in groups] == [("sparse_orthogonal", 3), ("dlora", 1)]
    energies = [one.rounds["energy_j"].sum() for one in seeds]
    mean, half = interval(energies)
    assert mean == pytest.approx(np.mean(energies))
    assert half == pytest.approx(4.302653 * np.std(energies, ddof=1) / np.sqrt(3), rel=1e-6)  # t of 2 degrees
    bars = views.cost_bars([*seeds, dlora]).data
    assert bars[3].x[0] == pytest.approx(mean) and bars[3].error_x.array[0] == pytest.approx(half)
    one, other = find_groups(
        [*seeds, load_run(write_fake_run(runs_dir, "d2", Fake(rounds=2, seed=2, method="dlora")))]
    )
    expected = energies[1] - other.runs[0].rounds["energy_j"].sum()
    assert paired(one, other, "energy_j") == pytest.approx([expected])
    curve = group_curve(one, "round")
    means = [
        [run.accuracy_means.query("round == 2 and rule == 'likelihood'")["accuracy"].mean()] for run in seeds
    ]
    assert curve.mean[-1] == pytest.approx(np.mean(means))
    assert curve.half[-1] == pytest.approx(4.302653 * np.std(means, ddof=1) / np.sqrt(3), rel=1e-6)
    assert differing_keys([seeds[0], dlora]) == ["rounds", "method.type", "method.rule"]


def test_how_often_a_run_was_evaluated_sets_no_group_apart_and_the_score_does(tmp_path: Path):
    groups = []
    for words in ("every: 2", "every: 3", "score: exact_match"):
        path = write_fake_run(tmp_path, words.replace(": ", "_"), Fake(rounds=2, seed=len(groups)))
        (path / "config.yaml").write_text(f"{(path / 'config.yaml').read_text()}\nevaluate:\n  {words}\n")
        groups.append(load_run(path))
    assert [len(group.runs) for group in find_groups(groups)] == [2, 1]


def test_cost_to_a_target_is_that_of_the_first_evaluation_that_reaches_it(run: Run):
    x, y = mean_curve(run, "bytes")
    target = (y[1] + y[2]) / 2
    cost = cost_to_target(run, target)
    assert cost is not None and cost["bytes"] == x[2] and cost["round"] == 4
    assert cost_to_target(run, 1.01) is None


def test_a_method_has_one_colour_in_every_figure(run: Run, dlora: Run):
    pairs = [run, dlora]
    for picture in (
        views.accuracy_of_runs(pairs),
        views.sinr_distribution(pairs),
        views.rate_distribution(pairs),
    ):
        assert [trace.line.color for trace in picture.data] == [OKABE_ITO[0], OKABE_ITO[1]]
    assert list(views.cost_bars(pairs).data[0].marker.color) == [OKABE_ITO[0], OKABE_ITO[1]]
    assert views.accuracy_of_runs([dlora]).data[0].line.color == OKABE_ITO[1]


def test_no_line_runs_straight_up_where_the_cost_stands_still():
    from dfl_ray.views.accuracy import unjoined

    curve = unjoined([0.0, 0.0, 5.0], [0.1, 0.2, 0.3])
    assert np.isnan(curve["x"][1]) and [x for x in curve["x"] if x == x] == [0.0, 0.0, 5.0]


def test_tasks_are_compared_by_collisions_and_by_the_cosine_of_their_changes():
    rng = np.random.default_rng(0)
    one, other = ({"layer": (rng.normal(size=(2, 5)), rng.normal(size=(4, 2)))} for _ in range(2))
    other["layer"][1][:2] = 0
    changes = [(part["layer"][1] @ part["layer"][0]).ravel() for part in (one, other)]
    expected = changes[0] @ changes[1] / np.linalg.norm(changes[0]) / np.linalg.norm(changes[1])
    assert cosine(one, other) == pytest.approx(expected) and cosine(one, one) == pytest.approx(1)
    assert collision(one, other) == 0.5 and collision(one, one) == 1


def test_every_figure_of_the_catalogue_draws_one_run_and_goes_dark(run: Run):
    from dfl_ray.views.style import darkened

    for name in views.FIGURES:
        picture = darkened(views.draw(name, [run]))
        assert picture.layout.paper_bgcolor == "#14181D" and picture.layout.title.text, name
    with pytest.raises(InputError, match="no figure"):
        views.draw("acuracy_over_bytes", [run])
    with pytest.raises(InputError, match=r"shows one run.*costs, scaling\."):
        views.draw("schedule", [run, run])


@pytest.mark.parametrize(
    ("name", "runs", "asked", "said"),
    [
        ("accuracy_over_bytes", 1, {"device": 99}, "shows all devices.*device_place"),
        ("accuracy_over_bytes", 2, {"device": 0}, "shows all devices"),
        ("device_map", 1, {"device": 0}, "shows all devices"),
        ("scaling", 2, {"device": 0}, "shows all devices"),
        ("accuracy_over_bytes", 1, {"round": 1}, "shows the whole run.*device_map, schedule"),
        ("accuracy_over_bytes", 2, {"round": 1}, "shows whole runs"),
        ("scaling", 2, {"round": 1}, "shows whole runs"),
        ("device_place", 1, {"round": 1, "device": 0}, "shows the whole run"),
        ("device_map", 2, {"round": 1}, "shows one run"),
        ("device_map", 1, {"round": 99}, "has no round 99"),
        ("device_place", 1, {"device": 99}, "has no device 99"),
        ("device_place", 1, {}, "one device of one run"),
    ],
)
def test_a_round_or_device_that_a_figure_does_not_have_is_refused(
    run: Run, dlora: Run, name: str, runs: int, asked: dict[str, int], said: str
):
    with pytest.raises(InputError, match=said):
        views.draw(name, [run, dlora][:runs], **asked)


def test_scaling_divides_by_rounds_and_devices_and_averages_runs_of_one_size(
    runs_dir: Path, run: Run, dlora: Run
):
    small = [load_run(write_fake_run(runs_dir, f"n{s}", Fake(devices=5, rounds=2, seed=s))) for s in (1, 2)]
    picture = views.draw("scaling", [run, *small])
    drawn = picture.data[2]  # third panel: bytes on air, in kB
    each = [one.rounds["payload_bytes"].sum() / 2 / 5 / 1e3 for one in small]
    assert list(drawn.x) == [5, 10]
    assert list(drawn.y) == pytest.approx([np.mean(each), run.rounds["payload_bytes"].sum() / 6 / 10 / 1e3])
    assert drawn.error_y.array[0] == pytest.approx(12.706205 * np.std(each, ddof=1) / np.sqrt(2))
    assert picture.data[0].y[1] == pytest.approx(run.rounds["wall_s"].mean())
    again = load_run(write_fake_run(runs_dir, "again", Fake(devices=5, rounds=2, seed=1)))
    repeated = views.draw("scaling", [run, *small, again]).data[2]
    assert list(repeated.y) == list(drawn.y) and list(repeated.error_y.array) == list(drawn.error_y.array)
    assert not views.draw("scaling", [run, dlora]).data  # both have ten devices


def test_link_colour_is_the_median_sinr_of_both_directions(run: Run):
    _, edges = run.topology_at(6)
    links = link_sinr_db(run, edges, 6)
    first = links.iloc[0]
    pair = {first["source"], first["destination"]}
    seen = [x for s, d, x in run.attempts[["source", "destination", "sinr_db"]].itertuples(index=False)
            if {s, d} == pair]  # fmt: skip
    assert len(seen) >= 12 and first["sinr_db"] == pytest.approx(np.median(seen))


def test_map_draws_every_device_and_link_once(run: Run):
    picture = views.device_map(run)
    markers = [trace for trace in picture.data if "markers" in trace.mode]
    assert sum(len(trace.x) for trace in markers) == 10
    lines = [trace for trace in picture.data if trace.mode == "lines"]
    assert sum(np.isnan(np.asarray(trace.x, dtype=float)).sum() for trace in lines) == len(run.topology_edges)
    assert picture.layout.yaxis.scaleanchor == "x"


def test_map_thins_links_and_says_so(large: Run):
    picture = views.device_map(large)
    lines = [trace for trace in picture.data if trace.mode == "lines"]
    assert sum(np.isnan(np.asarray(trace.x, dtype=float)).sum() for trace in lines) == MOST_LINKS
    assert f"{MOST_LINKS:,} links drawn" in picture.layout.title.subtitle.text


def bars_of(picture: go.Figure) -> list[tuple[str, float, float]]:
    """(sender, start, end) of every bar, sorted."""
    bars = [trace for trace in picture.data if trace.type == "bar"]
    return sorted(
        (sender, base, base + length)
        for trace in bars
        for sender, base, length in zip(trace.y, trace.base, trace.x, strict=True)
    )


def test_schedule_draws_each_attempt_from_its_start_to_its_end(run: Run, large: Run):
    here = run.attempts[run.attempts["round"] == 3]
    assert (here["attempt"] == 3).any()
    expected = sorted(
        (str(row.source), 1e3 * row.start_s, 1e3 * row.end_s)  # shorter than 2 s, so in ms
        for row in here.itertuples()
    )
    drawn = bars_of(views.schedule(run, 3))
    assert [bar[0] for bar in drawn] == [bar[0] for bar in expected]
    np.testing.assert_allclose([bar[1:] for bar in drawn], [bar[1:] for bar in expected], rtol=1e-12)
    chart = views.schedule(large)
    assert len({device for trace in chart.data for device in trace.y} - {None}) <= MOST_SENDERS
    assert "drawn" in chart.layout.title.subtitle.text


def test_a_broadcast_is_one_bar_that_says_how_many_decoded_it(tmp_path: Path):
    attempts = pd.DataFrame(
        {
            "transfer": [0, 1, 2, 1],
            "attempt": [1, 1, 1, 2],
            "transmission": [0, 0, 1, 2],
            "slot": [0, 0, 0, 1],
            "subchannel": 0,
            "source": [5, 5, 7, 5],
            "destination": [1, 2, 3, 2],
            "sinr_db": [9.0, -1.0, 8.0, 7.0],
            "rate_bps": [1e6, 1e6, 2e6, 3e6],
            "start_s": [0.0, 0.0, 0.0, 0.25],
            "end_s": [0.25, 0.25, 0.125, 0.5],
            "payload_bytes": 1000,
            "decoded": [True, False, True, True],
            "delivered": [True, False, True, True],
            "energy_j": 0.5,
            "power_w": 0.1,
        }
    )
    transfers = attempts.iloc[:3][
        ["transfer", "source", "destination", "payload_bytes", "delivered", "energy_j"]
    ]
    transfers = transfers.assign(kind="adapter", task="sum", attempts=[1, 2, 1])
    table = transmission_table(attempts, transfers)
    assert table["transmission"].tolist() == [0, 1, 2]
    assert table["receivers"].tolist() == [2, 1, 1] and table["decoded_by"].tolist() == [1, 1, 1]
    folder = RunFolder.create(tmp_path, "air", {})
    core = {
        "simulated_s": [1.0],
        "payload_bytes": [3000],
        "airtime_s": [0.6],
        "energy_j": [2.0],
        "wall_s": [1.0],
    }
    folder.append({"rounds": core, "attempts": attempts, "transfers": transfers}, 1)
    picture = views.schedule(load_run(folder.path))
    assert bars_of(picture) == [("5", 0.0, 250.0), ("5", 250.0, 500.0), ("7", 0.0, 125.0)]
    names = {trace.name: list(trace.hovertext) for trace in picture.data}
    assert "5 → 2 receivers, decoded by 1" in names["decoded by some receivers"][0]
    assert "5 → 2, attempt 2" in " ".join(names["decoded"]) and "lost" not in names


def test_distributions_sum_to_one_and_rise(run: Run, dlora: Run):
    bars = views.sinr_distribution([run]).data
    assert sum(np.sum(trace.y) for trace in bars) == pytest.approx(1)
    lost = next(trace for trace in bars if trace.name == "lost")
    assert np.sum(lost.y) == pytest.approx(1 - run.attempts["decoded"].mean())
    for curve in views.rate_distribution([run, dlora]).data:
        assert (np.diff(curve.x) >= 0).all() and curve.y[0] == 0 and curve.y[-1] == 1


def test_heatmap_shows_the_last_evaluation_and_frames_held_tasks(run: Run, large: Run):
    picture = views.accuracy_heatmap(run)
    rows = run.evaluation
    here = (
        (rows["round"] == 6)
        & (rows["rule"] == "likelihood")
        & (rows["device"] == 4)
        & (rows["task"] == "sum")
    )
    assert picture.data[0].z[4][list(TASKS).index("sum")] == pytest.approx(rows["accuracy"][here].iloc[0])
    assert len(picture.layout.shapes) == 20  # two held tasks on each of ten devices
    grouped = views.accuracy_heatmap(large)
    assert len(grouped.data[0].z) == 200 and "averaged" in grouped.layout.title.subtitle.text
    everything = large.evaluation
    last = everything[(everything["round"] == 1) & (everything["rule"] == "likelihood")]
    assert np.mean(grouped.data[0].z) == pytest.approx(last["accuracy"].mean())


def test_the_routers_confusion_is_the_share_of_rows_sent_to_each_expert(run: Run, dlora: Run):
    picture = views.draw("routing", [run])
    counts = run.routing[run.routing["round"] == 6].groupby(["task", "chosen"])["rows"].sum()
    names = list(picture.data[0].x)
    for row, task in zip(picture.data[0].z, picture.data[0].y, strict=True):
        assert [counts.get((task, chosen), 0) / counts[task].sum() for chosen in names] == pytest.approx(
            list(row)
        )
    assert "93.8%" in picture.layout.title.subtitle.text
    assert not views.draw("routing", [dlora]).data


def test_wall_split_of_many_rounds_counts_those_without_an_evaluation(runs_dir: Path):
    long = load_run(write_fake_run(runs_dir, "long", Fake(rounds=240)))
    rounds = long.rounds
    rounds.loc[rounds["round"] % 20 != 0, "evaluate_wall_s"] = np.nan
    bars = {trace.name: np.asarray(trace.y) for trace in views.wall_split(long).data}
    assert 2 * bars["evaluate"].sum() == pytest.approx(rounds["evaluate_wall_s"].sum())


def test_wall_split_adds_up_to_the_round(run: Run):
    bars = views.wall_split(run).data
    assert sum(np.asarray(trace.y) for trace in bars) == pytest.approx(run.rounds["wall_s"].to_numpy())


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([1500.0, 5e6], "B", ([0.0015, 5.0], "MB")),
        ([30.0], "s", ([30.0], "s")),
        ([600.0], "s", ([10.0], "min")),
        ([], "J", ([], "J")),
        ([3e6], "bit/s", ([3.0], "Mbit/s")),
    ],
)
def test_units_get_the_prefix_that_fits(values, unit, expected):
    assert scaled(values, unit) == expected


def test_thinning_is_even_and_repeatable():
    assert evenly(3, 5) == [0, 1, 2] and evenly(10, 5) == [0, 2, 4, 6, 8]
