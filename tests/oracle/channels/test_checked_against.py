"""Our numbers beside those of other simulators' tests, and the table of them in docs/radio.md."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks import radio_against
from channels.channel import Channel
from channels.largescale import settings_model
from channels.pathloss import get_model, path_loss_db
from channels.settings import RadioSettings

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_losses_and_sizes_are_those_of_other_tests():
    rows = [*radio_against.losses(), *radio_against.links()]
    assert len(rows) == 40
    for row in rows:
        # Theirs are printed with four decimals; the published rate with three.
        assert row.ours == pytest.approx(row.theirs, abs=5e-4 if "bit a use" in row.condition else 6e-5), row


def test_real_codes_are_told_to_be_worse_than_the_default_gap():
    for row in radio_against.codes():
        assert 0.5 < row.theirs - row.ours < 2.5


def test_a_sidelink_loses_what_the_models_of_mode_4_say():
    """Within 3 points, at every distance: as many by half duplex and by collisions."""
    rows = list(radio_against.sidelink())
    assert len(rows) == 5 and max(row.theirs for row in rows) > 15
    for row in rows:
        assert row.ours == pytest.approx(row.theirs, abs=3.0), row


def test_the_documentation_has_the_table_that_is_printed(capsys):
    radio_against.main([])
    printed = capsys.readouterr().out.strip()
    assert printed in (Path(__file__).parents[3] / "docs" / "radio.md").read_text(encoding="utf-8")


def test_streets_and_buildings_shift_the_rural_loss_as_the_table_says():
    plain = float(path_loss_db("rma", 800.0, 2e9, los=False))
    narrow = float(path_loss_db("rma", 800.0, 2e9, los=False, street_width_m=5.0))
    assert narrow - plain == pytest.approx(7.1 * np.log10(20 / 5))
    for options, name in (
        ({"street_width_m": 4.0}, "street_width_m"),
        ({"building_height_m": 60.0}, "building_h"),
    ):
        with pytest.raises(ValueError, match=name):
            RadioSettings(path_loss="rma", path_loss_options=options)


@pytest.mark.parametrize("model", ["v2x_urban", "v2x_highway"])
def test_the_loss_behind_a_vehicle_spreads_by_its_own_4_db(model):
    """3 dB of shadowing and 4 dB of blockage, independent, make 5 dB; in sight nothing changes."""
    assert settings_model(RadioSettings(path_loss=model)).sigma_db == (3.0, 3.0)
    place = np.random.default_rng(0).random((90, 2)) * 4000
    first, second = np.triu_indices(90, 1)
    for sight, spread_db in (("never", 5.0), ("always", 3.0)):
        fields = {"path_loss": model, "path_loss_options": {"spread": True}, "line_of_sight": sight}
        drawn, mean = (Channel(RadioSettings(**fields, shadowing=on), place, seed=2).mean_snr_db(first, second)
                       for on in (True, False))  # fmt: skip
        assert np.std(drawn - mean) == pytest.approx(spread_db, rel=0.05)
        assert abs(np.mean(drawn - mean)) < 0.05 * spread_db + 0.1
    with pytest.raises(ValueError, match="spread is true"):
        get_model("v2x_urban", {"blocked": "building", "spread": True})
