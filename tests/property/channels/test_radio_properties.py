import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from channels.channel import Channel
from channels.link import sinr_linear
from channels.pathloss import los_probability, path_loss_db
from channels.rounds import slot_fading
from channels.scheduling import plan
from channels.settings import RadioSettings
from channels.tables import PATH_LOSS, SCHEDULERS
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::channels.pathloss.ValidityWarning")
UNTOLD = ("csma", "sidelink_mode2")
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


def _groups(table, *columns):
    """Rows of the table that agree in the columns, as indices."""
    key = table[list(columns)].to_numpy()
    number = np.unique(key, axis=0, return_inverse=True)[1].reshape(-1)
    return [np.flatnonzero(number == one) for one in range(number.max(initial=-1) + 1)]


def _recompute(table, gains, power_w, noise_w):
    source, target, power = (table[name].to_numpy() for name in ("source", "destination", "power_w"))
    deaf = np.zeros(len(table), dtype=bool)
    for rows in _groups(table, "slot"):
        deaf[rows] = np.isin(target[rows], source[rows])
    for rows in _groups(table, "slot", "subchannel"):
        senders, first = np.unique(source[rows], return_index=True)
        level = power[rows][first][:, None] * gains[np.ix_(senders, target[rows])]
        level[senders[:, None] == source[rows]] = 0.0
        sinr = power[rows] * gains[source[rows], target[rows]] / (level.sum(axis=0) + noise_w)
        sinr[deaf[rows]] = 1e-300
        claimed = np.maximum(table.sinr_db.to_numpy()[rows], -3000.0)
        np.testing.assert_allclose(claimed, 10 * np.log10(sinr), rtol=0, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    SEEDS,
    st.sampled_from(sorted(SCHEDULERS)),
    st.integers(2, 14),
    st.integers(1, 25),
    st.sampled_from([1, 2, 4]),
    st.sampled_from(["fixed", "foschini_miljanic"]),
)
@example(13, "sidelink_mode2", 9, 5, 1, "fixed")
@example(71, "local_greedy", 13, 5, 1, "fixed")
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
    once = table.drop_duplicates("transmission")
    for rows, sent in ((table[table.slot == slot], once[once.slot == slot]) for slot in table.slot.unique()):
        # Where nobody is told, two may address one receiver at once; a reservation does not spare senders either.
        heard = rows.destination.unique() if name in UNTOLD else rows.destination
        if name == "sidelink_mode2":
            assert not rows.decoded[rows.destination.isin(sent.source)].any()
            heard = heard[~np.isin(heard, sent.source)]
        roles = sent.source.tolist() + heard.tolist()
        assert len(set(roles)) == len(roles)
    carried, clear = np.zeros(wanted), table.sinr_db >= 3 - 1e-6
    # A reservation's rate is chosen before anybody knows who else is on air: it may need more than the threshold.
    came = clear & table.decoded if name == "sidelink_mode2" else clear
    np.add.at(carried, table.transfer[came], table.payload_bytes[came])
    assert np.array_equal(carried[schedule.delivered], transfers.payload_bytes[schedule.delivered])
    assert np.all(table.sinr_db[table.delivered] >= 3.0 - 1e-6)
    snr = 0.1 * gains[source, target] / (1e-11 / bands)
    # What a device does not hear is left to the retries under `local_greedy`, and here there are none.
    if name not in ("fplinq", "aloha", "local_greedy", *UNTOLD):
        assert np.array_equal(schedule.delivered, snr >= 10**0.3)


@settings(max_examples=9, deadline=None)
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


@settings(max_examples=16, deadline=None)
@given(SEEDS, st.sampled_from(sorted(SCHEDULERS)), st.sampled_from([1, 3]))
def test_a_schedule_does_not_depend_on_the_order_of_its_input(seed, scheduler, bands):
    random = np.random.default_rng(seed)
    source = random.integers(0, 9, 14)
    target = (source + random.integers(1, 9, 14)) % 9
    links = np.unique(np.stack([source, target], 1), axis=0)
    order = random.permutation(len(links))
    bands = 1 if scheduler == "csma" else bands
    fields = RadioSettings(scheduler=scheduler, subchannels=bands, deadline_s=0.3)
    positions = random.random((9, 2)) * 200
    found = []
    for one in (links, links[order]):
        wanted = Transfers.build(one[:, 0], one[:, 1], 2000 + 500 * one[:, 0], message=one[:, 0])
        channel = Channel(fields, positions, seed=seed % 1000)
        tables = [channel.plan_round(number, wanted).table for number in range(2)]
        keys = ["start_s", "source", "destination"]
        found.append([t.drop(columns="transfer").sort_values(keys, ignore_index=True) for t in tables])
    assert all(a.equals(b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_alike_hops_of_different_chains_do_not_depend_on_the_order_of_the_input(scheduler):
    # The first two send the same bytes over the same link; each is forwarded to another device. So are the last two,
    # but of different chains.
    source, target = [0, 0, 1, 1, 4, 5, 2, 2], [1, 1, 2, 3, 2, 2, 3, 3]
    after, size = [-1, -1, 0, 1, -1, -1, 4, 5], [5000, 5000, 800, 800, 900, 900, 700, 700]
    wanted = Transfers.build(source, target, size, [7] * 8, after)
    place = np.random.default_rng(1).random((6, 2)) * 90
    found = []
    for order in ([0, 1, 2, 3, 4, 5, 6, 7], [1, 0, 3, 2, 5, 4, 7, 6], [7, 6, 5, 4, 3, 2, 1, 0]):
        channel = Channel(RadioSettings(scheduler=scheduler, tx_power_dbm=0.0), place, seed=2)
        done = channel.plan_round(0, wanted.permuted(np.array(order))).finished_s
        found.append(done[np.argsort(order)])
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_packet_errors_of_fixed_gains_are_drawn_from_the_seed():
    gains = np.array([[0, 1e-10], [1e-10, 0]])
    options = {"errors": "chen", "sinr_min_db": -5.0, "fade_margin_db": 0.0}
    lost = [plan("tdma", [(0, 1, 1000)], gains, 0.1, 1e-11, seed=seed, **options) for seed in range(20)]
    assert 0 < sum(bool(one.delivered[0]) for one in lost) < 20


def test_every_stream_is_keyed_by_all_it_belongs_to(monkeypatch):
    from channels import channel as channel_module
    from channels import rounds as rounds_module
    from channels.scheduling import aloha

    drawn: dict[str, list[tuple[int, ...]]] = {}
    original = channel_module.stream_key

    def spy(seed, stream, *counters):
        drawn.setdefault(stream, []).append(counters)
        return original(seed, stream, *counters)

    monkeypatch.setattr(channel_module, "stream_key", spy)
    monkeypatch.setattr(rounds_module, "stream_key", spy)
    monkeypatch.setattr(aloha, "stream_key", spy)
    positions = np.random.default_rng(0).random((8, 2)) * 150
    fields = RadioSettings(scheduler="aloha", aloha_probability=0.4, errors="chen")
    channel = Channel(fields, positions, seed=1)
    for number in range(4):
        channel.plan_round(number, Transfers.build(np.arange(8), (np.arange(8) + 1) % 8, 4000))
    # Each attempt has a slot of its own, so (round, slot) tells attempts apart; no key comes twice.
    for stream, words in (("fading", 2), ("packet", 2), ("aloha", 2), ("transfer-order", 1)):
        keys = drawn[stream]
        assert {len(key) for key in keys} == {words} and len(set(keys)) == len(keys)
        assert {key[0] for key in keys} == set(range(4))
    # What belongs to places, and fading in time, must not change with round or slot.
    still = Channel(RadioSettings(speed_mps=1.0), positions, seed=1)
    law = (still.settings, still.seed, still._fading_table)
    assert slot_fading(*law, 0, 0).key == slot_fading(*law, 3, 9).key


@quick
@given(SEEDS, st.integers(0, 50), st.integers(0, 50))
def test_draws_differ_between_rounds_slots_and_links(seed, round_index, slot):
    from channels.draws import keyed_uniform, stream_key

    keys = [stream_key(seed, "fading", *words) for words in ((round_index, slot), (round_index + 1, slot))]
    keys += [stream_key(seed, "fading", round_index, slot + 1), stream_key(seed, "packet", round_index, slot)]
    draws = [float(keyed_uniform(key, one, other)) for key in keys for one, other in ((0, 1), (0, 2), (1, 2))]
    assert len(set(draws)) == len(draws)
