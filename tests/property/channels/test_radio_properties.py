import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from channels.channel import Channel
from channels.link import sinr_linear
from channels.pathloss import los_probability, path_loss_db
from channels.scheduling import plan
from channels.settings import RadioSettings
from channels.tables import PATH_LOSS, SCHEDULERS
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::channels.pathloss.ValidityWarning")
SEEDS = st.integers(0, 2**32 - 1)
quick = settings(max_examples=25, deadline=None)


@quick
@given(st.sampled_from(sorted(PATH_LOSS)), st.booleans(), st.floats(3.0, 4000.0), st.floats(1.001, 3.0))
def test_loss_grows_with_distance(model, los, distance_m, factor):
    near, far = path_loss_db(model, [distance_m, distance_m * factor], 2e9, los=los)
    assert far > near
    assert (
        0
        <= los_probability(model, distance_m * factor)
        <= los_probability(model, distance_m) + 1e-12
        <= 1 + 1e-9
    )


@quick
@given(
    st.sampled_from(["d2d_outdoor", "v2x_urban", "v2x_highway", "log_distance"]),
    st.floats(1.0, 3.0),
    st.floats(1.0, 3.0),
)
def test_device_models_are_reciprocal_in_height(model, one_m, other_m):
    there = path_loss_db(model, 80.0, 2e9, los=[True, False], tx_height_m=one_m, rx_height_m=other_m)
    back = path_loss_db(model, 80.0, 2e9, los=[True, False], tx_height_m=other_m, rx_height_m=one_m)
    np.testing.assert_allclose(there, back)


@quick
@given(SEEDS, st.integers(2, 12))
def test_sinr_falls_when_a_transmitter_is_added(seed, links):
    random = np.random.default_rng(seed)
    gains = 10 ** random.uniform(-12, -5, (links, links))
    active = random.random(links) < 0.5
    extra = random.integers(links)
    active[extra] = False
    more = active.copy()
    more[extra] = True
    one, other = (sinr_linear(gains, 0.1, flags, 1e-12) for flags in (active, more))
    assert np.all(other[active] <= one[active])
    together = sinr_linear(gains, 0.1, np.stack([active, more]), 1e-12)
    np.testing.assert_allclose(together, np.stack([one, other]), rtol=1e-9)


@quick
@given(SEEDS)
def test_a_links_gain_depends_on_nobody_else(seed):
    random = np.random.default_rng(seed)
    positions = random.random((15, 2)) * 400
    some = Channel(RadioSettings(), positions[:6], seed=seed % 1000)
    more = Channel(RadioSettings(), positions, seed=seed % 1000)
    i, j = np.triu_indices(6, 1)
    order = random.permutation(i.size)
    assert np.array_equal(some.mean_snr_db(i, j)[order], more.mean_snr_db(j[order], i[order]))
    one, other = random.choice(15, 2, replace=False)
    assert more.mean_snr_db(one, other) == more.mean_snr_db(other, one)


@quick
@given(SEEDS)
def test_fading_of_a_link_depends_on_nobody_else(seed):
    # Two pairs far apart: what the one sees in a slot is the same with and without the other.
    positions = np.array([[0.0, 0.0], [30.0, 0.0], [0.0, 9e6], [40.0, 9e6]])
    alone, both = (Channel(RadioSettings(), positions, seed=seed % 1000) for _ in range(2))
    first = alone.plan_round(3, Transfers.build([0], [1], [1000])).table
    second = both.plan_round(3, Transfers.build([2, 0], [3, 1], [900, 1000])).table
    same = second[(second.source == 0) & (second.slot < len(first))].reset_index(drop=True)
    assert same.sinr_db.tolist() == pytest.approx(first.sinr_db[: len(same)].tolist(), abs=1e-9)


def _recompute(table, gains, power_w, noise_w):
    for _, rows in table.groupby(["slot", "subchannel"]):
        senders = rows.drop_duplicates("transmission")
        for row in rows.itertuples():
            others = senders[senders.source != row.source]
            level = (others.power_w.to_numpy() * gains[others.source.to_numpy(), row.destination]).sum()
            sinr = row.power_w * gains[row.source, row.destination] / (level + noise_w)
            assert row.sinr_db == pytest.approx(10 * math.log10(sinr), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.sampled_from(sorted(SCHEDULERS)),
    st.integers(2, 14),
    st.integers(1, 25),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["fixed", "foschini_miljanic"]),
)
def test_no_schedule_breaks_half_duplex_or_its_sinr_claim(seed, name, devices, wanted, bands, control):
    random = np.random.default_rng(seed)
    # Gains need not be reciprocal here: the scheduler must read the right direction.
    gains = 10 ** random.uniform(-11, -6, (devices, devices))
    source = random.integers(0, devices, wanted)
    target = (source + random.integers(1, devices, wanted)) % devices
    transfers = Transfers.build(source, target, random.integers(1, 5000, wanted), message=source)
    schedule = plan(
        name,
        transfers,
        gains,
        0.1,
        1e-11,
        sinr_min_db=3.0,
        subchannels=bands,
        power_control=control,
        seed=seed,
    )
    table = schedule.table
    _recompute(table, gains, 0.1, 1e-11 / bands)
    for _, rows in table.groupby("slot"):
        roles = rows.drop_duplicates("transmission").source.tolist() + rows.destination.tolist()
        assert len(set(roles)) == len(roles)
    carried = np.zeros(wanted)
    np.add.at(
        carried, table.transfer[table.sinr_db >= 3 - 1e-6], table.payload_bytes[table.sinr_db >= 3 - 1e-6]
    )
    assert np.array_equal(carried[schedule.delivered], transfers.payload_bytes[schedule.delivered])
    assert np.all(table.sinr_db[table.delivered] >= 3.0 - 1e-6)
    snr = 0.1 * gains[source, target] / (1e-11 / bands)
    if name not in ("fplinq", "aloha"):
        assert np.array_equal(schedule.delivered, snr >= 10**0.3)


@quick
@given(SEEDS, st.sampled_from(["greedy_sinr", "broadcast", "coloring"]))
def test_rounds_are_reproducible_and_survive_a_snapshot(seed, scheduler):
    random = np.random.default_rng(seed)
    positions = random.random((9, 2)) * 200
    transfers = Transfers.build(np.arange(9), (np.arange(9) + 1) % 9, 3000)
    fields = RadioSettings(scheduler=scheduler)
    one, other = Channel(fields, positions, seed=5), Channel(fields, positions, seed=5)
    one.plan_round(0, transfers)
    other.restore(one.snapshot())
    moved = positions + random.normal(size=(9, 2))
    one.move(moved)
    other.move(moved)
    assert one.plan_round(1, transfers).table.equals(other.plan_round(1, transfers).table)
