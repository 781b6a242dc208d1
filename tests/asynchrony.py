"""A small network of quadratic devices whose radio serves one message at a time: no model, no channel model."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from channels.energy import DeviceClass, draw_classes
from channels.transfers import DELIVERED, FAILED, RoundPlan
from dfl_ray.devices.figures import exchange_report
from dfl_ray.devices.mail import window_mail
from dfl_ray.devices.records import TrainReport
from dfl_ray.network.traffic import TransferRequests
from dfl_ray.simulation.round_loop import RoundLoop, WallTimes
from dfl_ray.simulation.schedules import NoBarrier

STEP = 0.1
"""Share of the way to its target that a device goes in a local round."""


def classes_of(count):
    """One operation takes one second."""
    return draw_classes((DeviceClass(frequency_hz=1.0, cycles_per_flop=1.0, capacitance=0.0),), count, seed=0)


class OneServerRadio:
    """Serves messages one after the other in the order in which they were made, each to all its receivers at once.

    Args:
        count: Number of devices.
        airtime_s: Length of every message.
        lost: (number of the message, receiver) -> whether it is lost.
    """

    def __init__(self, count, airtime_s, lost=lambda _message, _to: False):
        self.count, self.airtime_s, self.lost = count, airtime_s, lost
        self.clock_s, self.served = 0.0, 0

    def plan(self, transfers, ready_s, made_s):
        """Plan a window's transfers; `made_s` (devices,) orders those that have waited for the radio."""
        start_s = self.clock_s
        ready = start_s + np.asarray(ready_s)
        now_s = start_s
        rows, finished, arrived = [], np.full(len(transfers), np.nan), np.zeros(len(transfers), bool)
        senders = np.unique(transfers.source)
        for source in senders[np.lexsort((senders, made_s[senders]))]:
            mine = np.flatnonzero(transfers.source == source)
            for message in np.unique(transfers.message[mine]):
                begin_s = max(now_s, ready[source])
                now_s = begin_s + self.airtime_s
                for i in mine[transfers.message[mine] == message]:
                    arrived[i] = not self.lost(self.served, int(transfers.destination[i]))
                    finished[i] = now_s if arrived[i] else np.nan
                    rows.append((int(i), begin_s, now_s))
                self.served += 1
        self.clock_s = max(now_s, float(ready.max()))
        table = pd.DataFrame(rows, columns=["transfer", "start_s", "end_s"])
        zeros, everybody = np.zeros(self.count), np.ones(self.count, bool)
        return RoundPlan(
            table=table, delivered=arrived, finished_s=finished, attempts=np.ones(len(transfers), np.int64),
            outcome=np.where(arrived, DELIVERED, FAILED), start_s=start_s, end_s=self.clock_s, airtime_s=0.0,
            occupied_s=0.0, radio_energy_j=zeros, compute_energy_j=zeros, alive=everybody, idle_energy_j=zeros,
            late=~everybody, starved_fraction=0.0,
        )  # fmt: skip


class QuadraticBackend:
    """Devices that go towards a target of their own and mix by a method of the project.

    Args:
        method: The method, made for `tests.network`.
        devices: Its devices.
        targets: (devices, size) what each trains towards.
        radio: Carries the messages.
        section: The `async` section.
    """

    def __init__(self, method, devices, targets, radio, section):
        self.method, self.radio, self.section, self.targets = method, radio, section, targets
        self.devices = {d.index: d for d in devices}
        self.taken = []

    def train(self, round_index, absent=(), ended=None):
        self.made, self.payloads = {}, {}
        planned = {}
        self.made_s = np.full(len(self.devices), np.inf)
        self.made_s[ended.devices] = ended.end_s
        for index, turn in ended:
            device = self.devices[index]
            self.method.begin(device, turn.begin_window)
            row = device.state.theta[0]
            row += STEP * (torch.from_numpy(self.targets[index]) - row)
            for number, out in enumerate(self.method.outgoing(device, turn.window)):
                self.made[index, number], self.payloads[index, number] = out.planned, out.payload
                planned.setdefault(index, []).append(out.planned)
        every = np.arange(len(self.devices))
        requests = TransferRequests.of(planned)
        none = np.full(len(every), np.nan)
        return [TrainReport(every, none, none, np.zeros(len(every)), none == none, requests, 0.0)]

    def plan(self, round_index, transfers, ready_s, compute_energy_j):
        return self.radio.plan(transfers, ready_s, self.made_s)

    def move(self, positions_m, velocity_mps, graph):
        raise AssertionError("nobody moves")

    def exchange(self, round_index, outcomes):
        mail = window_mail(self.devices, outcomes, self.payloads, self.made, self.section)
        for index, mine in mail.items():
            device = self.devices[index]
            device.trust = mine.trust
            refused = self.method.incoming(device, round_index, mine.received, mine.sent)
            assert not refused
            device.trust = {}
            self.taken.append((round_index, index, len(mine.ages), list(mine.ages)))
        return [exchange_report(list(self.devices), {d: {} for d in self.devices}, mail, 0.0)]


def loop_of(backend, seconds):
    """The project's event loop over a backend; device d's k-th local round trains `seconds(d, k)`."""
    classes = classes_of(len(backend.devices))
    return RoundLoop(backend, classes, {}, 1.0, schedule=NoBarrier(classes, seconds))


def play(loop, windows):
    """Play windows; gives (device, local round, end in s) of every local round, in the order of windows."""
    ended = []
    for window in range(1, windows + 1):
        found = loop.play(window, WallTimes()).ended
        ended += [(d, turn.number, turn.end_s) for d, turn in found]
    return ended
