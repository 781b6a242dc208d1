"""Lengths of rounds against the optimum by dynamic programming, and what is through before a deadline."""

import itertools
import math

import numpy as np
import pytest

from channels.adaptation import MAX_EFFICIENCY
from channels.link import CQI_EFFICIENCIES, CQI_THRESHOLDS_DB, noise_power_dbm
from channels.scheduling import plan
from channels.scheduling.exact import shortest_span


def _drop(seed, side_m, power_dbm, links=10, longest_m=60.0, receivers=1):
    random = np.random.default_rng(seed)
    start = random.random((links, 2)) * side_m
    places = [start]
    for _ in range(receivers):
        length, angle = random.uniform(5, longest_m, links), random.uniform(0, 2 * np.pi, links)
        places.append(start + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1))
    place = np.concatenate(places)
    apart = np.maximum(np.linalg.norm(place[:, None] - place, axis=2), 1.0)
    return apart**-3.5 * 10**-3.85, 10 ** (power_dbm / 10 - 3), random.integers(5000, 50_000, links)


def _slot_times(gains, power_w, noise_w, payload, kind="shannon", receivers=1):
    """Time of every set of links, all receivers of a link served at the rate of the worst one."""
    links = payload.size
    states = (np.arange(1 << links)[:, None] >> np.arange(links)) & 1 > 0
    sinr = np.full(states.shape, np.inf)
    for number in range(1, receivers + 1):
        received = power_w * gains[:links, number * links : (number + 1) * links]
        own = np.diagonal(received)
        sinr = np.minimum(sinr, own / (states @ received - states * own + noise_w))
    rate = 5e6 * np.minimum(np.log2(1 + sinr), MAX_EFFICIENCY)
    if kind == "cqi":
        mode = np.searchsorted(CQI_THRESHOLDS_DB, 10 * np.log10(sinr) + 1e-9, side="right") - 1
        rate = 5e6 * np.array(CQI_EFFICIENCIES)[np.maximum(mode, 0)]
    time_s = np.where(states, payload * 8 / rate, 0.0).max(axis=1)
    return np.where((states & (sinr < 1)).any(axis=1), np.inf, time_s)


def test_spans_against_the_optimum_of_small_rounds():
    noise_w = 10 ** (float(noise_power_dbm(5e6, 9.0)) / 10 - 3)
    ratios = []
    for side_m in (150.0, 400.0, 1000.0):
        for power_dbm in (10.0, 16.0, 23.0):
            for seed in range(8):
                gains, power_w, payload = _drop(seed, side_m, power_dbm)
                best = shortest_span(_slot_times(gains, power_w, noise_w, payload))
                wanted = [(i, i + 10, int(payload[i])) for i in range(10)]
                shared, serial = (
                    plan(name, wanted, gains, power_w, noise_w, sinr_min_db=0.0, bandwidth_hz=5e6)
                    for name in ("greedy_sinr", "tdma")
                )
                assert shared.delivered.all()
                assert shared.end_s <= serial.end_s * (1 + 1e-9)
                ratios.append(shared.end_s / best)
    assert len(ratios) == 72 and min(ratios) >= 1 - 1e-9
    assert np.mean(ratios) <= 1.02 and max(ratios) <= 1.10


@pytest.mark.parametrize(("kind", "receivers"), [("cqi", 1), ("shannon", 2), ("cqi", 2)])
def test_spans_of_broadcasts_and_modes_against_the_optimum(kind, receivers):
    noise_w, links, ratios = 10 ** (float(noise_power_dbm(5e6, 9.0)) / 10 - 3), 8, []
    for side_m, power_dbm in ((120.0, 14.0), (350.0, 5.0), (900.0, 20.0)):
        for seed in range(4):
            gains, power_w, payload = _drop(31 + seed, side_m, power_dbm, links, receivers=receivers)
            best = shortest_span(_slot_times(gains, power_w, noise_w, payload, kind, receivers))
            wanted = [
                (i, [i + links * k for k in range(1, receivers + 1)], int(payload[i])) for i in range(links)
            ]
            found = plan(
                "greedy_sinr", wanted, gains, power_w, noise_w, sinr_min_db=0.0, bandwidth_hz=5e6, rate=kind
            )
            ratios.append(found.end_s / best if found.delivered.all() else 1.0)
    assert min(ratios) >= 1 - 1e-9 and max(ratios) <= 1.10


@pytest.mark.parametrize("subchannels", [2, 3])
def test_spans_over_sub_channels_against_the_optimum(subchannels):
    noise_w, links = 10 ** (float(noise_power_dbm(5e6, 9.0)) / 10 - 3) / subchannels, 5
    for side_m, power_dbm in ((60.0, 20.0), (200.0, 5.0), (600.0, 20.0)):
        gains, power_w, payload = _drop(7, side_m, power_dbm, links)
        received = power_w * gains[:links, links:]
        times = np.full(1 << links, np.inf)
        for bands in itertools.product(range(-1, subchannels), repeat=links):
            place = np.array(bands)
            shares = (place[:, None] == place) & (place >= 0)
            sinr = np.diagonal(received) / ((received * shares).sum(axis=0) - np.diagonal(received) + noise_w)
            inside = place >= 0
            rate = 5e6 / subchannels * np.minimum(np.log2(1 + sinr[inside]), MAX_EFFICIENCY)
            if inside.any() and (sinr[inside] >= 1).all():
                mask = int((1 << np.arange(links))[inside].sum())
                times[mask] = min(times[mask], (payload[inside] * 8 / rate).max())
        wanted = [(i, i + links, int(payload[i])) for i in range(links)]
        fields = {"sinr_min_db": 0.0, "bandwidth_hz": 5e6, "subchannels": subchannels}
        found = plan("greedy_sinr", wanted, gains, power_w, noise_w * subchannels, **fields)
        assert 1 - 1e-9 <= found.end_s / shortest_span(times) <= 1.10


def test_shortest_span_of_three_links_by_hand():
    # Masks: 1, 2, 3 = {0, 1}, 4, 5 = {0, 2}, 6 = {1, 2}, 7 = all.
    times = np.array([0.0, 3.0, 2.0, 3.5, 4.0, 8.0, np.inf, np.inf])
    assert shortest_span(times) == pytest.approx(7.5)


def test_no_slot_of_a_large_round_takes_longer_than_its_members_one_by_one():
    noise_w = 10 ** (float(noise_power_dbm(5e6, 9.0)) / 10 - 3)
    # So dense that links a hundred metres long hardly ever gain by sharing a slot.
    gains, power_w, payload = _drop(0, 200.0, 23.0, links=200, longest_m=120.0)
    wanted = [(i, i + 200, int(payload[i])) for i in range(200)]
    shared, serial = (
        plan(name, wanted, gains, power_w, noise_w, sinr_min_db=0.0, bandwidth_hz=5e6)
        for name in ("greedy_sinr", "tdma")
    )
    alone_s = (serial.table.end_s - serial.table.start_s).groupby(serial.table.transfer).sum()
    table = shared.table.assign(
        took_s=shared.table.end_s - shared.table.start_s,
        alone_s=alone_s[shared.table.transfer].to_numpy(),
    )
    slots = table.groupby("slot").agg({"took_s": "max", "alone_s": "sum"})
    assert (slots.took_s <= slots.alone_s * (1 + 1e-6)).all()
    assert shared.delivered.all() and shared.end_s < 0.95 * serial.end_s


@pytest.mark.parametrize(("links", "deadlines_s"), [(12, (0.01, 0.05, 0.2)), (200, (0.05,))])
def test_greedy_delivers_no_fewer_than_tdma_before_a_deadline(links, deadlines_s):
    """Nothing fades, so that what is planned is what happens; under fading it holds in the mean alone."""
    noise_w, served = 10 ** (float(noise_power_dbm(5e6, 9.0)) / 10 - 3), 0
    for side_m, power_dbm in ((60.0, 23.0), (300.0, 0.0), (1000.0, 23.0)):
        gains, power_w, payload = _drop(links, side_m, power_dbm, links)
        wanted = [(i, i + links, int(payload[i])) for i in range(links)]
        for deadline_s in deadlines_s:
            fields = {"sinr_min_db": 0.0, "bandwidth_hz": 5e6, "deadline_s": deadline_s}
            greedy, serial = (
                plan(name, wanted, gains, power_w, noise_w, **fields).delivered.sum()
                for name in ("greedy_sinr", "tdma")
            )
            assert greedy >= serial
            served += serial
    assert served > 3


def test_links_that_would_all_be_cut_together_are_sent_one_by_one():
    # Both are 20 dB above the noise and each hears the other 8 dB above it: together they take 1.7 times as long
    # as one alone, so that sharing pays, but before a deadline of 1.2 times as long it brings nothing.
    gains = np.full((4, 4), 1e-9)
    gains[0, 2], gains[1, 3], gains[0, 3], gains[1, 2] = 1e-7, 1e-7, 10**-8.2, 10**-8.2
    alone_s, sharing_s = (8e4 / (1e6 * math.log2(1 + sinr)) for sinr in (100.0, 100 / (1 + 10**0.8)))
    assert 1.7 * alone_s < sharing_s < 2 * alone_s
    wanted = [(0, 2, 10_000), (1, 3, 10_000)]
    for name in ("greedy_sinr", "tdma"):
        done = plan(name, wanted, gains, 0.1, 1e-10, sinr_min_db=0.0, deadline_s=1.2 * alone_s)
        assert done.delivered.sum() == 1
