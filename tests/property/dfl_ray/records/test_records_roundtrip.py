"""Any sequence of appends, truncations and re-openings leaves exactly the rows it should."""

from __future__ import annotations

import tempfile

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from dfl_ray.records import RunFolder, load_run, parts
from dfl_ray.records.schema import TABLES

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 4)),
        st.tuples(st.just("truncate"), st.integers(0, 12)),
        st.tuples(st.just("reopen"), st.just(0)),
        st.tuples(st.just("compact"), st.just(0)),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_rows_on_disk_equal_a_plain_list(steps):
    with tempfile.TemporaryDirectory() as runs:
        folder = RunFolder.create(runs, "r", {})
        expected: list[tuple[int, int]] = []
        done = 0
        for step, number in steps:
            if step == "append":
                done += 1
                core = {"simulated_s": [float(done)], "payload_bytes": [1], "airtime_s": [0.0]}
                core |= {"energy_j": [0.0], "wall_s": [0.0]}
                devices = pd.DataFrame({"device": range(number), "loss": [0.5] * number})
                folder.append({"rounds": core, "devices": devices}, done)
                expected += [(done, device) for device in range(number)]
            elif step == "truncate":
                folder.truncate(number)
                done = min(done, number)
                expected = [row for row in expected if row[0] <= number]
            elif step == "compact":
                parts.compact(folder.path / "devices.parquet", TABLES["devices"])
            else:
                folder.close()
                folder = RunFolder.open(folder.path)
        run = load_run(folder.path)
        assert list(zip(run.devices["round"], run.devices["device"], strict=True)) == expected
        assert run.rounds["round"].tolist() == list(range(1, done + 1))
        folder.close()
