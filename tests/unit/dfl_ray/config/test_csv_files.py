"""The CSV files that a configuration names, as spreadsheets save them."""

from pathlib import Path

import numpy as np
import pytest

from dfl_ray.config.availability import AvailabilityConfig
from dfl_ray.config.class_table import classes_of
from dfl_ray.network.availability import presence_of
from topology.files import read_edges
from topology.mobility.trace_files import read_trace
from topology.partition import task_mixture
from topology.placement import place

AREA = (100.0, 100.0)


def read_placement(path):
    return place("file", 2, area_m=AREA, rng=np.random.default_rng(0), path=path)


def read_mixture(path):
    return task_mixture("file", 2, 1, rng=np.random.default_rng(0), path=path, min_holders=1)


def read_presence(path):
    found = presence_of(AvailabilityConfig(path=str(path)), 2)
    return np.array([found.on_at(second) for second in (0.0, 2.0)])


READERS = {
    "links": (lambda path: read_edges(path, 2), "source,target\r\n0,1\r\n"),
    "places": (read_placement, "x_m,y_m\r\n1,2\r\n3,4\r\n"),
    "tasks": (read_mixture, "device,task,weight\r\n0,0,1\r\n1,0,1\r\n"),
    "trace": (
        lambda path: read_trace(path, 1, AREA, (0.0, 0.0)),
        "device,t_s,x_m,y_m\r\n0,0,1,2\r\n0,1,3,4\r\n",
    ),
    "classes": (lambda path: classes_of(str(path)), "name,flops_per_s\r\nphone,2e12\r\n"),
    "availability": (read_presence, "device,t_s,on\r\n1,1,0\r\n"),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_byte_order_mark_changes_nothing(kind, tmp_path):
    read, text = READERS[kind]
    found = []
    for encoding in ("utf-8", "utf-8-sig"):
        path = tmp_path / f"{encoding}.csv"
        path.write_bytes(text.encode(encoding))
        found.append(read(path))
    np.testing.assert_array_equal(*map(np.asarray, found))


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    ("encoding", "word"), [("utf-16", "UTF-16"), ("latin-1", "0xfc"), ("utf-8", "quotes")]
)
def test_another_encoding_is_refused_by_name(kind, encoding, word, tmp_path):
    read, text = READERS[kind]
    text = text.replace("\r\n", ',"ü\r\n' if encoding == "utf-8" else ",ü\r\n")
    path = Path(tmp_path) / "spreadsheet.csv"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(ValueError, match="no CSV in UTF-8") as told:
        read(path)
    assert word in str(told.value) and str(told.value).count("spreadsheet.csv") == 1
