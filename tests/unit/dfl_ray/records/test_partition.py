"""Who holds which rows, as a file."""

from pathlib import Path

import numpy as np
import pytest

from dfl_ray.errors import InputError
from dfl_ray.records.partition import read_partition, write_partition


def test_a_partition_is_read_back_as_it_was_dealt(tmp_path: Path) -> None:
    held = {0: (0, 1), 1: (1,)}
    rows = {0: (np.array([2, 0]), np.array([1])), 1: (np.array([0, 2]),)}
    write_partition(tmp_path, ["x", "y"], held, rows)
    found = read_partition(tmp_path)
    assert found.values.tolist() == [
        [0, "x", 0, "train"], [0, "x", 2, "train"], [0, "y", 1, "train"], [1, "y", 0, "train"], [1, "y", 2, "train"],
    ]  # fmt: skip
    assert read_partition(tmp_path / "partition.parquet").equals(found)


def test_no_partition_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no partition"):
        read_partition(tmp_path)
    import pandas as pd

    pd.DataFrame({"device": [0]}).to_parquet(tmp_path / "partition.parquet")
    with pytest.raises(InputError, match="no column `task`"):
        read_partition(tmp_path)


def test_a_run_takes_up_the_partition_of_another_row_by_row(tmp_path: Path) -> None:
    from dfl_ray.simulation.experiment import build_experiment
    from tests.conftest import small_config

    first = build_experiment(small_config(tmp_path, "runtime.backend=local", "devices.sizes=lognormal"))
    s = first.setup
    path = write_partition(tmp_path, [t.name for t in s.tasks], s.held, s.rows)
    own = f"devices.partition={{type: file, path: {path}, min_holders: 0}}"
    second = build_experiment(small_config(tmp_path, "runtime.backend=local", own, "seed=7")).setup
    assert second.held == s.held
    for device in s.held:
        for mine, theirs in zip(second.rows[device], s.rows[device], strict=True):
            np.testing.assert_array_equal(mine, np.sort(theirs))


def test_the_tasks_of_a_file_are_found_by_name(tmp_path: Path) -> None:
    from dfl_ray.errors import InputError
    from dfl_ray.simulation.experiment import build_experiment
    from tests.conftest import small_config

    s = build_experiment(small_config(tmp_path, "runtime.backend=local", "tasks.names=[topic,add]")).setup
    path = write_partition(tmp_path, [t.name for t in s.tasks], s.held, s.rows)
    own = f"devices.partition={{type: file, path: {path}, min_holders: 0}}"
    other = build_experiment(
        small_config(tmp_path, "runtime.backend=local", own, "tasks.names=[add,topic]")
    ).setup
    for device, held in s.held.items():
        assert {s.tasks[t].name for t in held} == {other.tasks[t].name for t in other.held[device]}
    with pytest.raises(InputError, match="rows of the tasks add, topic, got a run of agree, largest"):
        build_experiment(small_config(tmp_path, "runtime.backend=local", own, "tasks.names=[agree,largest]"))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([(0, 0, 1), (1, 0, 1)], "dealt twice"),
        ([(0, 2, 1)], "do not fit 2 devices and 2 tasks"),
        ([(0, "x", 1)], "rows of the tasks x, got a run of no names"),
        ([(0, 0)], "no Parquet file with columns"),
    ],
)
def test_a_partition_that_fits_nothing_is_refused(tmp_path: Path, rows: list, said: str) -> None:
    import pandas as pd

    from topology.row_file import read_row_file

    names = ["device", "task", "row"][: len(rows[0])]
    pd.DataFrame(rows, columns=names).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(ValueError, match=said):
        read_row_file(tmp_path / "p.parquet", 2, 2)
