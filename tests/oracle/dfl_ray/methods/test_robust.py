"""Robust aggregation rules against numpy by hand, and what all of them must keep."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfl_ray.config.methods import DloraConfig
from dfl_ray.methods.aggregation_table import AGGREGATIONS
from dfl_ray.methods.aggregations import Arrival, Mixing, PartState
from dfl_ray.methods.entries import make_method
from dfl_ray.methods.exchange import Exchange
from dfl_ray.wire.message import Kind, Message, MessageError, Refusal
from tests.network import LINE, make_devices, plain_context, play

ROBUST = ("clip", "trimmed_mean", "median", "krum", "balance")
OWN = np.array([1.0, 2.0, 2.0], np.float32)
OTHERS = {
    4: np.array([2.0, 2.0, 2.0], np.float32),
    5: np.array([1.0, 2.0, 4.0], np.float32),
    9: np.array([-41.0, -38.0, 2.0], np.float32),
}
WEIGHTS = {4: 0.25, 5: 0.5, 9: 0.25}


def mixed(rule, own=OWN, others=OTHERS, weights=WEIGHTS, keep=None, share=0.25):
    arrived = {s: Arrival(np.asarray(x, np.float32)) for s, x in others.items()}
    mixing = Mixing(0, {0: weights}, (), keep, share)
    return AGGREGATIONS[rule].mix(PartState(), np.asarray(own, np.float32), arrived, mixing)


BY_HAND = {
    # distances 1, 2, 58; the lower median is 2, so that 9 is cut to 2/58 of (-42, -40, 0)
    "clip": OWN
    + 0.25 * np.array([1, 0, 0])
    + 0.5 * np.array([0, 0, 2])
    + 0.25 * 2 / 58 * np.array([-42.0, -40, 0]),
    # |own| = 3: 4 and 5 are at 1 and 2, 9 at 58 is left out
    "balance": OWN + 0.25 * np.array([1, 0, 0]) + 0.5 * np.array([0, 0, 2]),
    # f = 1 of 4: the middle two of (-41, 1, 1, 2), (-38, 2, 2, 2), (2, 2, 2, 4)
    "trimmed_mean": np.array([1.0, 2, 2]),
    "median": np.array([1.0, 2, 2]),
    # one nearest other of 4 - 1 - 2: own and 4 both at 1, the own is nearest to itself
    "krum": OWN,
}


@pytest.mark.parametrize("rule", ROBUST)
def test_by_hand(rule):
    np.testing.assert_allclose(mixed(rule), BY_HAND[rule], rtol=1e-12)


def test_krum_leaves_its_own_values_where_others_agree_and_it_does_not():
    others = {1: [0.0, 0.0], 2: [0.0, 0.1], 3: [0.1, 0.0], 4: [0.0, 0.05]}
    # f = 2 of 5, one nearest other; 1, 2 and 4 are each 0.05 from their nearest, 2 is nearest to the own values
    found = mixed("krum", [9.0, 9.0], others, dict.fromkeys(others, 0.2))
    np.testing.assert_array_equal(found, np.array([0.0, 0.1], np.float32))


def test_trimmed_mean_without_trimming_is_the_mean_and_one_neighbour_cannot_be_trimmed():
    np.testing.assert_allclose(mixed("trimmed_mean", share=0.0), np.mean([OWN, *OTHERS.values()], axis=0))
    np.testing.assert_allclose(mixed("trimmed_mean", [0.0], {1: [4.0]}, {1: 0.5}, share=0.4), [2.0])


@pytest.mark.parametrize("rule", ROBUST)
def test_nothing_arrived_changes_nothing_and_entries_that_are_not_exchanged_do_not_count(rule):
    np.testing.assert_array_equal(mixed(rule, others={}), OWN)
    keep = np.array([True, False, True, True])
    wide = np.insert(OWN, 1, 1e6)
    found = mixed(rule, wide, {s: np.insert(x, 1, 0.0) for s, x in OTHERS.items()}, keep=keep)
    np.testing.assert_allclose(found[keep], mixed(rule), rtol=1e-12)
    assert found[1] == 1e6


@pytest.mark.parametrize("scale", [1.0, 4.0, 100.0])
def test_balance_takes_near_neighbours_as_gossip_does_and_sign_flippers_not_at_all(scale):
    """What is within |x_i| of x_i is mixed bit for bit as by gossip; -s x_j of a near x_j is further away."""
    near = {4: OTHERS[4], 5: OTHERS[5]}
    np.testing.assert_array_equal(mixed("balance", others=near), mixed("gossip", others=near))
    lying = near | {9: -scale * OTHERS[4]}
    np.testing.assert_array_equal(mixed("balance", others=lying), mixed("gossip", others=near))


arrays = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@settings(max_examples=25, deadline=None)
@given(rng=arrays, rule=st.sampled_from(ROBUST), count=st.integers(1, 6))
def test_the_order_and_the_names_of_neighbours_do_not_matter(rng, rule, count):
    own, others = rng.normal(size=5), {s: rng.normal(size=5) for s in range(1, count + 1)}
    weights = dict.fromkeys(others, 1 / (count + 1))
    found = mixed(rule, own, others, weights)
    turned = dict(reversed(others.items()))
    np.testing.assert_array_equal(mixed(rule, own, turned, weights), found)
    names = dict(zip(others, rng.permutation(count) + 1, strict=True))
    renamed = {int(names[s]): x for s, x in others.items()}
    np.testing.assert_allclose(mixed(rule, own, renamed, weights), found, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(rng=arrays, rule=st.sampled_from(("clip", "trimmed_mean", "median", "krum")), count=st.integers(1, 6))
def test_a_shift_of_all_shifts_the_result(rng, rule, count):
    """Not under `balance`, whose radius is that of the own values; shifts are exact in float32."""
    own, *rest = rng.integers(-64, 64, size=(count + 1, 4)) / 8
    others, shift = dict(enumerate(rest, 1)), rng.integers(-64, 64, size=4) / 8
    weights = dict.fromkeys(others, 1 / (count + 1))
    moved = mixed(rule, own + shift, {s: x + shift for s, x in others.items()}, weights)
    np.testing.assert_allclose(moved, mixed(rule, own, others, weights) + shift, atol=1e-9)


@settings(max_examples=25, deadline=None)
@given(rng=arrays, rule=st.sampled_from(ROBUST), size=st.floats(1e2, 1e6))
def test_one_wrong_neighbour_of_four_cannot_move_the_result_far(rng, rule, size):
    honest = {s: 1 + 0.1 * rng.normal(size=6) for s in range(1, 5)}
    own = 1 + 0.1 * rng.normal(size=6)
    others = honest | {4: -size * honest[4]}
    weights = dict.fromkeys(others, 0.2)
    assert np.linalg.norm(mixed(rule, own, others, weights) - 1) < 1.0
    assert np.linalg.norm(mixed("gossip", own, others, weights) - 1) > 10


@settings(max_examples=25, deadline=None)
@given(rng=arrays, count=st.integers(0, 6))
def test_the_mean_is_bit_for_bit_what_it_was(rng, count):
    """x_i + sum_j W_ij (x_j - x_i) in the order of senders, in float64, whatever share is taken to be wrong."""
    own = rng.normal(size=7).astype(np.float32)
    others = {int(s): rng.normal(size=7).astype(np.float32) for s in rng.permutation(9)[:count]}
    weights = {s: float(rng.random() / (count + 1)) for s in others}
    expected = own.astype(np.float64)
    for s in sorted(others):
        expected = expected + weights[s] * (others[s] - own.astype(np.float64))
    for share in (0.0, 0.25, 0.49):
        np.testing.assert_array_equal(mixed("gossip", own, others, weights, share=share), expected)


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
@pytest.mark.parametrize("rule", ["gossip", "push_sum", *ROBUST])
def test_values_that_are_not_finite_are_refused_before_any_rule(rule, precision):
    from dfl_ray.wire.codec import encode_values

    context = plain_context(DloraConfig(aggregation=rule, rank=2, precision=precision), LINE)
    exchange = Exchange(context, 3)
    head = bytes(6) + b"\xf0\x3f" if rule == "push_sum" else b""
    with np.errstate(invalid="ignore"):
        body = encode_values(np.array([1.0, np.nan, 2.0], np.float32), precision)
    with pytest.raises(MessageError) as caught:
        exchange.read(Message(Kind.ADAPTER, -1, 1, 1, 0, 0, precision, head + body), None)
    assert caught.value.refusal is Refusal.NOT_FINITE


@pytest.mark.parametrize("rule", ROBUST)
def test_a_method_takes_the_rule_from_its_section(rule):
    method = make_method(plain_context(DloraConfig(aggregation=rule, rank=2, precision="float32"), LINE))
    devices = make_devices(method)
    before = {d.index: d.state.theta[0].numpy().copy() for d in devices}
    refused, _ = play(method, devices, 1)
    assert refused == Counter()
    device = devices[1]
    others = {j: before[j] for j in LINE[device.index]}
    expected = mixed(rule, before[device.index], others, LINE[device.index])
    np.testing.assert_array_equal(device.state.theta[0].numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("rule", ["gossip", "push_sum", *ROBUST])
def test_weights_sum_to_one_whatever_is_lost(rule, share):
    """Devices that agree go on agreeing, and none leaves the range of the values at the start or holds a NaN."""
    method = make_method(plain_context(DloraConfig(aggregation=rule, rank=2, precision="float32"), LINE))
    rng = np.random.default_rng(7)
    agreeing, differing = make_devices(method), make_devices(method)
    for device in agreeing:
        device.state.theta.copy_(agreeing[0].state.theta)
    start = agreeing[0].state.theta.clone()
    everyone = np.stack([d.state.theta[0].numpy() for d in differing])
    for round_index in range(1, 21):
        lost = {(i, j) for i, row in LINE.items() for j in row if rng.random() < share}
        play(method, agreeing, round_index, lost)
        play(method, differing, round_index, lost)
    for device in agreeing:
        np.testing.assert_allclose(device.state.theta.numpy(), start.numpy(), rtol=1e-4, atol=1e-6)
    ends = np.stack([d.state.theta[0].numpy() for d in differing])
    assert np.isfinite(ends).all()
    assert (ends >= everyone.min(axis=0) - 1e-5).all() and (ends <= everyone.max(axis=0) + 1e-5).all()
