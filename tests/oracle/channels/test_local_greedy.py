"""`local_greedy` against its rule worked out link by link from gain matrices, and where the answer is plain."""

from __future__ import annotations

import numpy as np
import pytest

from channels.scheduling import plan

POWER_W, NOISE_W, BETA = 0.1, 1e-12, 10**0.5


def drop(links, seed, side_m=400.0):
    rng = np.random.default_rng(seed)
    sender = rng.random((links, 2)) * side_m
    length, angle = rng.uniform(5, 60, links), rng.uniform(0, 2 * np.pi, links)
    place = np.concatenate([sender, sender + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)])
    apart = np.linalg.norm(place[:, None] - place, axis=2)
    np.fill_diagonal(apart, 1.0)
    return np.maximum(apart, 1.0) ** -3.5


def schedule(gains, links, **options):
    wanted = [(i, i + links, 1000) for i in range(links)]
    return plan("local_greedy", wanted, gains, POWER_W, NOISE_W, sinr_min_db=5.0, **options).table


@pytest.mark.parametrize("seed", range(4))
def test_slots_are_those_of_the_rule_worked_out_link_by_link(seed):
    links = 24
    gains = drop(links, seed)
    table = schedule(gains, links)
    received = POWER_W * gains[:links, links:]
    snr = np.diagonal(received) / NOISE_W
    heard = received >= BETA * NOISE_W
    bears = np.diagonal(received) / BETA - NOISE_W
    # Faster links first: all carry the same, and have the band for themselves.
    slots: list[list[int]] = []
    for link in np.argsort(-np.minimum(snr, 2**7.4063 - 1), kind="stable"):
        for members in slots:
            both = [*members, int(link)]
            sums = [sum(received[k, i] for k in both if k != i and heard[k, i]) for i in both]
            if all(one <= bears[i] for one, i in zip(sums, both, strict=True)):
                members.append(int(link))
                break
        else:
            slots.append([int(link)])
    found = table[table["attempts"] == 1].groupby("slot")["source"].apply(set)
    top = np.minimum(snr, 2**7.4063 - 1)
    if np.unique(top).size == links:
        assert [found[k] for k in sorted(found.index)] == [set(s) for s in slots]
    else:  # links at the highest rate tie, and a draw orders them
        assert len(found) == pytest.approx(len(slots), abs=1)


def test_pairs_out_of_hearing_share_one_slot_and_pairs_at_one_place_take_turns():
    links = 6
    far = np.full((2 * links, 2 * links), 1e-15)
    near = np.full((2 * links, 2 * links), 1e-6)
    for gains in (far, near):
        gains[np.arange(links), np.arange(links) + links] = 1e-6
    assert schedule(far, links)["slot"].nunique() == 1
    assert schedule(near, links)["slot"].nunique() == links
    assert schedule(near, links, subchannels=3)["slot"].nunique() == links / 3


def test_order_of_the_input_changes_nothing():
    links = 15
    gains = drop(links, 9)
    wanted = [(i, i + links, 1000 + 10 * i) for i in range(links)]
    tables = [
        plan("local_greedy", order, gains, POWER_W, NOISE_W).table.sort_values(["slot", "source"])
        for order in (wanted, wanted[::-1])
    ]
    columns = ["slot", "source", "destination", "rate_bps"]
    assert np.array_equal(*(t[columns].to_numpy() for t in tables))
