"""Slotted random access against its textbook throughput, with and without capture."""

import numpy as np
import pytest

from channels.channel import Channel
from channels.settings import RadioSettings
from channels.transfers import Transfers

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
CELLS, LINKS, PAYLOAD_BYTES = 30, 20, 1500
SNR_DB, MARGIN_DB = 35.0, 29.0


def served(load, rounds, **fields):
    """Decoded transmissions a slot and cell, and the SINR that the rate needs.

    Cells of 20 links of one length lie 30 km apart; in each, all receivers are where all senders are as strong. Of
    a round the first slot counts; its deadline leaves time for no other whole frame.
    """
    settings = RadioSettings(
        path_loss="log_distance", path_loss_exponent=4.0, shadowing=False, scheduler="aloha",
        scheduler_options={"blind": True}, aloha_probability=load / LINKS, rate_margin_db=MARGIN_DB,
        max_attempts=1, slot_s=1.0, dense_devices=10_000, **fields,
    )  # fmt: skip
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(5)), -1).reshape(-1, 2) * 30e3
    senders = np.repeat(grid, LINKS, axis=0) + 1e-3 * np.random.default_rng(0).random((CELLS * LINKS, 2))
    positions = np.concatenate([senders, senders + np.array([100.0, 0.0])])
    channel = Channel(settings, positions, seed=3)
    more_db = SNR_DB - float(channel.mean_snr_db(0, CELLS * LINKS))
    settings = RadioSettings(**{**vars(settings), "tx_power_dbm": settings.tx_power_dbm + more_db})
    probe = Channel(settings, positions, seed=3)
    source = np.arange(CELLS * LINKS)
    wanted = Transfers.build(source, source + CELLS * LINKS, PAYLOAD_BYTES)
    rate = float(probe.plan_round(0, wanted).table.rate_bps.iloc[0])
    frame_s = 8 * PAYLOAD_BYTES / rate * (1 + 1e-6)
    settings = RadioSettings(**{**vars(settings), "slot_s": frame_s, "deadline_s": frame_s})
    channel = Channel(settings, positions, seed=3)
    tables = [channel.plan_round(k, wanted).table for k in range(rounds)]
    tables = [table[table.slot == 0] for table in tables]
    needed = 10**0.3 * (2 ** (rate / 5e6) - 1)
    return sum(int(table.decoded.sum()) for table in tables) / (rounds * CELLS), needed


@pytest.mark.parametrize("load", [0.5, 1.0, 2.0])
def test_without_fading_it_is_g_times_e_to_the_minus_g(load):
    rounds = 60
    found, needed = served(load, rounds, fading="none")
    assert needed > 1
    p = load / LINKS
    finite = load * (1 - p) ** (LINKS - 1)
    error = np.sqrt(finite * (1 - finite) / (rounds * CELLS))
    assert abs(found - finite) < 3.5 * error
    # Twenty senders are nearly as many as any: G·exp(-G) within their difference from it and the error.
    assert abs(found - load * np.exp(-load)) < 3.5 * error + abs(finite - load * np.exp(-load))


def test_with_rayleigh_fading_the_stronger_survive():
    """One interferer of equal mean leaves 1/(1 + T); the noise exp(-T/SNR)."""
    load, rounds = 1.0, 60
    found, needed = served(load, rounds)
    assert needed == pytest.approx(10 ** ((SNR_DB - MARGIN_DB) / 10), rel=0.02)
    p = load / LINKS
    alone = np.exp(-needed / 10 ** (SNR_DB / 10))
    expected = alone * load * (1 - p * needed / (1 + needed)) ** (LINKS - 1)
    assert abs(found - expected) < 3.5 * np.sqrt(expected / (rounds * CELLS))
    assert found > 1.1 * load * np.exp(-load)


def test_senders_that_know_their_slot_are_todays_default():
    positions = np.random.default_rng(1).random((20, 2)) * 200
    source = np.arange(20)
    wanted = Transfers.build(source, (source + 1) % 20, PAYLOAD_BYTES)

    def table(**options):
        settings = RadioSettings(scheduler="aloha", scheduler_options=options)
        return Channel(settings, positions, seed=2).plan_round(0, wanted).table

    assert table().equals(table(blind=False)) and not table().equals(table(blind=True))
    assert table(blind=True).decoded.mean() < table().decoded.mean()
