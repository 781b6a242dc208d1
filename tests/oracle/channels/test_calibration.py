"""The geometry of a hexagonal network beside the results that 3GPP's companies handed in, and what it is made of."""

import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import radio_calibration
from benchmarks.radio_calibration import GEOMETRY_DB, LAYOUTS, PERCENTILES, geometry_db, sector_gain_db
from channels.pathloss import los_probability


@pytest.mark.parametrize(("model", "carrier_ghz"), [("umi", 6), ("uma", 6)])
def test_geometry_has_the_published_percentiles(model, carrier_ghz):
    ours = np.percentile(geometry_db(model, carrier_ghz, terminals=3000), PERCENTILES)
    np.testing.assert_allclose(ours, GEOMETRY_DB[model, carrier_ghz], atol=1.2)
    assert np.abs(ours - GEOMETRY_DB[model, carrier_ghz]).mean() < 0.7


def test_the_network_has_19_sites_and_terminals_nearest_to_the_middle_one():
    sites = LAYOUTS["uma"].sites_m()
    apart = np.sort(np.hypot(*(sites[:, None] - sites).transpose(2, 0, 1)), axis=1)
    assert sites.shape == (19, 2) and apart[:, 1] == pytest.approx(np.full(19, 500.0))
    place = LAYOUTS["uma"].terminals_m(500, np.random.default_rng(1))
    own = np.hypot(*place.T)
    assert own.min() >= 35 and own.max() <= 500 / math.sqrt(3) + 1e-9


def test_a_sector_has_the_gain_of_its_column_at_its_tilt():
    # Ten elements in phase: 10 dB over the element, whose own pattern has 12·(12/65)² dB less there.
    at_tilt = sector_gain_db(np.array(0.0), np.array(102.0))
    assert at_tilt == pytest.approx(8 - 12 * (12 / 65) ** 2 + 10)
    assert sector_gain_db(np.array(180.0), np.array(102.0)) == pytest.approx(8 - 30 + 10)


def test_terminals_on_floors_are_in_sight_more_often_under_uma():
    """Table 7.4.2-1 by hand: C' = ((22.5 - 13)/10)^1.5 at 22.5 m."""
    tall = 0.95**1.5
    for distance in (18.0, 100.0, 300.0):
        street = 18 / distance + math.exp(-distance / 63) * (1 - 18 / distance)
        expected = min(street * (1 + tall * 1.25 * (distance / 100) ** 3 * math.exp(-distance / 150)), 1.0)
        assert los_probability("uma", distance, 22.5) == pytest.approx(1.0 if distance == 18 else expected)
        assert los_probability("uma", distance, 13.0) == los_probability("uma", distance)
    # The search for strong pairs takes it to fall with distance.
    assert (np.diff(los_probability("uma", np.geomspace(1, 5000, 2000), 22.5)) <= 1e-12).all()


def test_the_documentation_has_the_published_figures():
    text = (Path(radio_calibration.__file__).parents[1] / "docs" / "radio.md").read_text()
    for model, carrier in GEOMETRY_DB:
        theirs = GEOMETRY_DB[model, carrier]
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{model}` | {carrier} GHz |")]
        assert f"({theirs[9]:.1f})" in row
