"""Numbers outside what the radio is computed in, binary files, and overrides of one another: refused by name."""

from __future__ import annotations

import pytest

from dfl_ray.cli import main
from tests.conftest import SMALL_RUN


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["radio.tx_power_dbm=5000"], "`radio.tx_power_dbm`"),
        (["radio.bandwidth_hz=1e-300"], "`radio.bandwidth_hz`"),
        (["radio.carrier_hz=1e-300"], "`radio.carrier_hz`"),
        (["radio.near_neighbours=0"], "`radio.near_neighbours`"),
        (["devices.area_m=[1e300,1e300]"], "`devices.area_m`"),
        (["devices.area_m=[0,5]"], "`devices.area_m`"),
        (["runtime.threads=100000"], "`runtime.threads`"),
        (["method=3", "method.local_steps=1"], "`method` holds no keys"),
    ],
)
def test_the_key_is_named(words, expected, capfd):
    small = [w for w in SMALL_RUN if w.split("=")[0] not in {x.split("=")[0] for x in words}]
    assert main(["config", *small, *words]) == 2
    assert expected in capfd.readouterr().err


def test_a_binary_placement_file_is_named(tmp_path, capfd):
    path = tmp_path / "bytes.csv"
    path.write_bytes(bytes(range(256)))
    assert main(["plan", *SMALL_RUN, "devices.placement=file", f"devices.placement.path={path}"]) == 2
    assert str(path) in capfd.readouterr().err
