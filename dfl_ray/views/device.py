"""One device: where it is and was, its neighbours and links, its accuracy, what it holds, its energy and its time."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dfl_ray.records import Run
from dfl_ray.records.results import holders, method_rule
from dfl_ray.records.schema import STATE_ENERGY_COLUMNS
from dfl_ray.views.learning import radio_parts
from dfl_ray.views.maps import draw_links, link_sinr_db, one_scale
from dfl_ray.views.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    SKY,
    VERMILION,
    colour,
    curve_look,
    dash,
    empty,
    figure,
    scaled,
    whole_rounds,
)

MOST_NEIGHBOURS = 12
MOST_BARS = 120


def device_place(run: Run, device: int, round: int | None = None) -> go.Figure:
    """Draw where a device is, where it has been, and its neighbours with the SINR of their links.

    Args:
        run: The run.
        device: Index of the device.
        round: Round whose topology is drawn; none = the last.

    Returns:
        The picture, axes in metres; an empty one where no topology was recorded.
    """
    title = f"Device {device} and its neighbours"
    number = run.last_round if round is None else round
    nodes, edges = run.topology_at(number)
    if device not in set(nodes["device"]):
        return empty(title, "No position of this device was recorded.")
    mine = edges[(edges["source"] == device) | (edges["destination"] == device)]
    links = link_sinr_db(run, mine, number)
    near = nodes[nodes["device"].isin({*links["source"], *links["destination"]} - {device})]
    note = f"round {number}; {len(near):,} neighbours, link colour: median SINR of up to ten rounds"
    picture = figure(title, x="x (m)", y="y (m)", note=note, height=560)
    draw_links(picture, links, nodes)
    path = run.of_device("devices", device, ["round", "x_m", "y_m"]).dropna()
    moved = len(path[["x_m", "y_m"]].drop_duplicates()) > 1
    if moved:
        picture.add_scatter(
            x=path["x_m"], y=path["y_m"], name="way so far", mode="lines",
            line={"color": ORANGE, "width": 2, "dash": "dot"},
        )  # fmt: skip
    for rows, name, shade, size in (
        (near, "neighbours", GREY, 11),
        (nodes[nodes["device"] == device], f"device {device}", VERMILION, 17),
    ):
        picture.add_scatter(
            x=rows["x_m"], y=rows["y_m"], name=name, mode="markers+text", textposition="top center",
            text=[str(number) for number in rows["device"]], customdata=rows["device"].to_numpy(np.int32),
            marker={"size": size, "color": shade, "line": {"width": 1, "color": "#FFFFFF"}},
            hovertext=[f"device {row.device}<br>tasks: {escape(str(row.tasks))}" for row in rows.itertuples()],
            hoverinfo="text",
        )  # fmt: skip
    one_scale(picture, pd.concat([nodes[nodes["device"] == device], near, *([path] if moved else [])]))
    return picture


def device_links(run: Run, device: int) -> go.Figure:
    """Draw the SINR of a device's links over rounds, the median of each round's attempts in both directions.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        The picture, in dB, a line a neighbour: the twelve with most attempts; an empty one where nothing was on air.
    """
    title = f"Links of device {device}"
    rows = run.of_device("attempts", device, ["round", "source", "destination", "sinr_db"])
    rows = rows[np.isfinite(rows["sinr_db"])]
    if not len(rows):
        return empty(title, "No attempt of this device was recorded.")
    other = rows["source"].where(rows["source"] != device, rows["destination"]).rename("neighbour")
    counts = other.value_counts()
    kept = sorted(counts.index[:MOST_NEIGHBOURS])
    note = f"median SINR of a round's attempts, both directions; {len(rows):,} attempts"
    if len(kept) < len(counts):
        note += f"; drawn: {len(kept)} of {len(counts)} neighbours, those with most attempts"
    medians = rows["sinr_db"].groupby([other, rows["round"]]).median()
    picture = figure(title, x="communication round", y="SINR (dB)", note=note)
    for index, neighbour in enumerate(kept):
        line = medians[neighbour]
        picture.add_scatter(
            x=line.index, y=line.to_numpy(float), name=f"device {neighbour}", mode="lines+markers",
            **curve_look(index, width=2, size=6),
        )  # fmt: skip
    whole_rounds(picture, run.last_round)
    return picture


def device_accuracy(run: Run, device: int) -> go.Figure:
    """Draw a device's accuracy on every task over rounds, by the method's rule; its own tasks as thick lines.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        The picture; an empty one before the first evaluation.
    """
    title = f"Accuracy of device {device}"
    rows = run.of_device("evaluation", device, ["round", "task", "rule", "accuracy"])
    first = rows["rule"][rows["round"] == 0].iloc[:1]
    rows = rows[(rows["rule"] == method_rule(run)) | ((rows["round"] == 0) & rows["rule"].isin(first))]
    if not len(rows):
        return empty(title, "This device has not been evaluated yet.")
    tasks = list(dict.fromkeys(rows["task"]))
    table = rows.pivot_table(index="round", columns="task", values="accuracy")[tasks]
    own = {task for owner, task in holders(run) if owner == device}
    note = "held-out rows, by the method's rule; thick: the tasks it holds"
    picture = figure(title, x="communication round", y="accuracy (share right)", note=note)
    for index, task in enumerate(tasks):
        picture.add_scatter(
            x=table.index, y=table[task], name=escape(str(task)), mode="lines+markers",
            **curve_look(index, width=4 if task in own else 1.5, size=9 if task in own else 6),
        )  # fmt: skip
    mean = table.mean(axis=1)
    line = {"color": BLACK, "width": 2, "dash": "dot"}
    picture.add_scatter(x=mean.index, y=mean, name="<b>mean</b>", mode="lines", line=line)
    picture.update_yaxes(range=[0, 1.02])
    whole_rounds(picture, run.last_round)
    return picture


def received_models(run: Run, device: int) -> pd.DataFrame:
    """Find the newest expert of each task, or adapter of each sender, that reached a device.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        Columns `what`, `origin` (device that made it), `round` (of its arrival) and `age_rounds`, the rounds since; the
        device's own tasks have age 0 and itself as origin. Experts where any has reached it, else adapters by sender.
    """
    columns = ["round", "kind", "task", "origin", "receiver", "source"]
    rows = run.of_device(
        "transfers", device, columns, where=[("destination", "==", device), ("delivered", "==", True)]
    )
    rows = rows[rows["receiver"].fillna(device) == device]
    origin = rows["origin"].fillna(rows["source"]).astype(int)
    experts = rows["kind"] == "expert"
    own = {task for owner, task in holders(run) if owner == device}
    found = [(f"{task} (own)", device, run.last_round) for task in sorted(own)]
    if experts.any():
        chosen = rows[experts]
        what = chosen["task"].fillna("expert").astype(str)
    else:
        chosen = rows[rows["kind"] == "adapter"]
        what = "adapter of device " + origin[chosen.index].astype(str)
    newest = chosen.assign(what=what, maker=origin[chosen.index]).sort_values("round", kind="stable")
    for name, row in newest.drop_duplicates("what", keep="last").set_index("what").sort_index().iterrows():
        if name not in own:
            found.append((str(name), int(row["maker"]), int(row["round"])))
    table = pd.DataFrame(found, columns=["what", "origin", "round"])
    return table.assign(age_rounds=run.last_round - table["round"])


def device_experts(run: Run, device: int) -> go.Figure:
    """Draw which expert a device answers each task with, and its age; of methods without experts, what reached it.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        The picture. Of methods with replicas: every task at the last evaluation, with the age of its expert, rounds
        since its author published it. Of others, and before the first evaluation: the newest adapter or expert of each
        sender, with the rounds since it arrived. An empty one where it holds no task and nothing has arrived.
    """
    title = f"What device {device} holds"
    held = held_experts(run, device)
    if (held["holding"] != "own").any():
        number = int(held["round"].iloc[0])
        note = (
            f"at the evaluation after round {number}; age: rounds since the author published the version held"
        )
        bars = [_held_bar(row) for row in held.itertuples()]
    else:
        table = received_models(run, device)
        note = f"after round {run.last_round}; age: rounds since the newest version arrived, by the record of transfers"
        bars = [_arrived_bar(row, device) for row in table.itertuples()]
    if not bars:
        return empty(title, "It holds no task, and no message has reached it yet.")
    ages = [age for _, age, _ in bars]
    picture = figure(title, x="age (rounds)", note=note, height=190 + 28 * max(3, len(bars)))
    picture.add_bar(
        y=[escape(str(name)) for name, _, _ in bars], x=ages, orientation="h", width=0.6,
        marker={"color": [BLUE if name.endswith("(own)") else SKY for name, _, _ in bars]},
        text=[words for _, _, words in bars], textposition="outside", cliponaxis=False,
    )  # fmt: skip
    picture.update_xaxes(range=[0, 1.5 * max(4, *ages)], rangemode="tozero")
    picture.update_yaxes(autorange="reversed", automargin=True, type="category")
    return picture


def held_experts(run: Run, device: int) -> pd.DataFrame:
    """Read with which experts a device answered at the last evaluation.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        Its rows of `experts` of the last round that has any; none for runs that were recorded before there was such a
        table.
    """
    rows = run.of_device("experts", device, ["round", "task", "holding", "author", "version", "age_rounds"])
    return rows[rows["round"] == rows["round"].max()]


def _arrival(row, device: int) -> str:
    return "its own" if row.origin == device else f"{row.age_rounds}, from device {row.origin}"


def _arrived_bar(row: Any, device: int) -> tuple[str, int, str]:
    return str(row.what), int(row.age_rounds), _arrival(row, device)


def _held_bar(row: Any) -> tuple[str, int, str]:
    """Label, age in rounds and words of an expert held."""
    if row.holding == "none":
        return str(row.task), 0, "none has arrived"
    if row.holding == "own":
        return f"{row.task} (own)", 0, "its own"
    return str(row.task), int(row.age_rounds), f"{int(row.age_rounds)}, from device {int(row.author)}"


def device_energy(run: Run, device: int) -> go.Figure:
    """Draw what a device has spent by radio (or its states) and computing, summed, and what its battery has left.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        The picture, in joules; an empty one before the first round. The charge is drawn where `devices.battery_j` gives
        the same battery to all devices; with batteries by class the record does not tell which it has.
    """
    title = f"Energy of device {device}"
    columns = ["round", "energy_j", "radio_energy_j", "compute_energy_j", "alive", *STATE_ENERGY_COLUMNS]
    rows = run.of_device("devices", device, columns)
    if not len(rows):
        return empty(title, "No round is complete yet.")
    section = run.config.get("devices", {})
    battery = section.get("battery_j") if not section.get("class_figures") else None
    split = (("compute_energy_j", "computing"), *radio_parts(rows))
    parts = [(f"{name}, so far", rows[column].fillna(0).cumsum()) for column, name in split]
    if rows["radio_energy_j"].isna().all():
        parts = [("radio and computing, so far", rows["energy_j"].fillna(0).cumsum())]
    total = rows["energy_j"].fillna(0).cumsum()
    values, unit = scaled([float(battery or 0.0), float(total.max())], "J")
    largest = max(float(battery or 0.0), float(total.max()))
    factor = max(values) / largest if largest else 1.0
    note = f"battery of {battery:g} J at the start" if battery else "no battery of its own: mains power"
    dead = rows["round"][rows["alive"] == False]  # noqa: E712 - null is neither
    note += f"; empty after round {int(dead.min())}" if len(dead) else ""
    picture = figure(title, x="communication round", y=f"energy ({unit})", note=note, height=400)
    for index, (name, values) in enumerate(parts):
        line = {"color": colour(index), "width": 2, "dash": dash(index)}
        picture.add_scatter(
            x=rows["round"], y=values * factor, name=name, mode="lines", line=line, stackgroup="energy"
        )
    if battery:
        left = (battery - total).clip(lower=0) * factor
        line = {"color": BLACK, "width": 3}
        picture.add_scatter(x=rows["round"], y=left, name="battery left", mode="lines", line=line)
    picture.update_yaxes(rangemode="tozero")
    whole_rounds(picture, run.last_round)
    return picture


def device_times(run: Run, device: int) -> pd.DataFrame:
    """Split each round's simulated time of a device into computing, sending and waiting.

    Sending is the union of its transmissions; waiting is what is left of the round, receiving with it.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        Columns `round`, `compute_s`, `send_s`, `wait_s`, in seconds, that add up to the round's length; a training
        that runs on into the next round counts up to the round's end.
    """
    clock = run.rounds[["round", "simulated_s"]]
    length = clock["simulated_s"].diff().fillna(clock["simulated_s"]).set_axis(clock["round"])
    rows = run.of_device("devices", device, ["round", "compute_s"]).set_index("round")
    air = run.of_device("attempts", device, ["round", "start_s", "end_s"], where=[("source", "==", device)])
    send = {
        number: _union_s(part[["start_s", "end_s"]].to_numpy(float)) for number, part in air.groupby("round")
    }
    length = length.reindex(rows.index).fillna(0.0)
    compute = np.minimum(rows["compute_s"].fillna(0.0), length)
    sending = np.minimum(pd.Series(send, dtype=float).reindex(rows.index).fillna(0.0), length - compute)
    found = {"compute_s": compute, "send_s": sending, "wait_s": length - compute - sending}
    return pd.DataFrame(found).rename_axis("round").reset_index()


def _union_s(spans: np.ndarray) -> float:
    """Length of the union of time spans (spans, 2) in seconds."""
    spans = spans[np.argsort(spans[:, 0], kind="stable")]
    before = np.maximum.accumulate(np.concatenate([[-np.inf], spans[:-1, 1]]))
    return float(np.maximum(spans[:, 1] - np.maximum(spans[:, 0], before), 0.0).sum())


def device_time(run: Run, device: int) -> go.Figure:
    """Draw how a device spends the simulated time of each round: computing, sending, waiting.

    Args:
        run: The run.
        device: Index of the device.

    Returns:
        The picture; above 120 rounds neighbouring rounds are averaged. An empty one before the first round.
    """
    title = f"Time of device {device}: computing, sending, waiting"
    table = device_times(run, device)
    if not len(table):
        return empty(title, "No round is complete yet.")
    group = np.arange(len(table)) * min(MOST_BARS, len(table)) // len(table)
    means = table.groupby(group).mean()
    _, unit = scaled([float(means[["compute_s", "send_s", "wait_s"]].sum(axis=1).max())], "s")
    note = "waiting: for its turn on the air, for others, and while it receives"
    if len(means) < len(table):
        note += f"; means over {len(table) / len(means):.1f} rounds a bar"
    picture = figure(title, x="communication round", y=f"simulated time ({unit})", note=note, height=420)
    factor = {"h": 1 / 3600, "min": 1 / 60, "ms": 1e3, "µs": 1e6}.get(unit, 1.0)
    kinds = (
        ("compute_s", "computing", BLUE, ""),
        ("send_s", "sending", ORANGE, "/"),
        ("wait_s", "waiting", "#BBBBBB", ""),
    )
    for column, name, fill, shape in kinds:
        picture.add_bar(
            x=means["round"], y=means[column] * factor, name=name, marker={"color": fill, "pattern": {"shape": shape}}
        )  # fmt: skip
    picture.update_layout(barmode="stack", bargap=0.15)
    whole_rounds(picture, len(table))
    return picture
