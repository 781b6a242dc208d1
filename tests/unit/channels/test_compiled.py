import importlib
import subprocess
import sys

import numpy as np
import pytest

from channels.channel import Channel
from channels.compiled import inner_kernel, kernel
from channels.estimate import estimate_round, nearest_transfers
from channels.settings import RadioSettings


def test_without_a_writable_cache_folder_it_compiles_all_the_same(monkeypatch):
    caching = pytest.importorskip("numba.core.caching")
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def double(x):
        return 2 * x

    assert kernel(double)(21) == 42


def test_importing_the_channel_leaves_heavy_packages_alone():
    program = (
        "import sys, channels.channel, channels.scheduling;"
        "print([name for name in ('numba', 'scipy', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore::channels.pathloss.ValidityWarning")
def test_an_estimate_is_the_round_summed_up_and_leaves_no_trace():
    positions = np.random.default_rng(0).random((12, 2)) * 250
    channel = Channel(RadioSettings(), positions, seed=1)
    transfers = nearest_transfers(positions, 3, 5000)
    assert len(transfers) == 36
    before = channel.snapshot()
    estimate = estimate_round(channel, transfers, ready_s=np.full(12, 2.0))
    assert channel.clock_s == before["clock_s"] == 0.0
    plan = channel.plan_round(0, transfers, ready_s=np.full(12, 2.0))
    assert estimate.airtime_s == plan.airtime_s
    assert estimate.payload_bytes == plan.table.drop_duplicates("transmission").payload_bytes.sum()
    assert estimate.wanted_bytes == 36 * 5000
    assert estimate.delivered_fraction == plan.delivered.mean()
    assert estimate.losses["failed"] == (plan.attempts[~plan.delivered] == 4).sum()
    assert 2.0 < estimate.latency_s["p50"] <= estimate.latency_s["p99"] <= estimate.round_s


def test_an_inner_kernel_gives_what_a_kernel_gives_and_cannot_make_an_array():
    def add(x, k):
        x[k] += 1.0
        return x[k]

    def make(n):  # compiled once: the cache on disk knows a function by its name
        return np.zeros(n).sum()

    values = np.arange(3.0)
    assert inner_kernel(add)(values, 2) == kernel(add)(values, 1) + 1 == 3.0
    assert values.tolist() == [0.0, 2.0, 3.0]
    with pytest.raises(importlib.import_module("numba").errors.TypingError):
        inner_kernel(make)(3)
