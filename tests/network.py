"""A small network of devices with no model and no radio: messages go straight from device to device."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import torch

from dfl_ray.config.schema import Config
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.optimizer import AdapterState
from dfl_ray.methods.base import Context, Delivery, Device
from dfl_ray.methods.entries import make_method
from dfl_ray.network.comm_graph import CommGraph, Tree
from dfl_ray.simulation.common_start import static_projections, static_ups

LAYERS = (LayerShape("x", 6, 16), LayerShape("y", 5, 16))
LINE = {0: {1: 1 / 3}, 1: {0: 1 / 3, 2: 1 / 3}, 2: {1: 1 / 3, 3: 1 / 3}, 3: {2: 1 / 3}}
"""Metropolis-Hastings weights of the path 0-1-2-3."""


def sketch(device, task, layers):
    return np.stack([np.eye(8) * (1 + task)] * (len(layers) if layers is not None else len(LAYERS)))


def projections_of(config, layers, tasks):
    """What a run with seed 3 draws for its method."""
    return static_projections(Config(seed=3, method=config), layers, tasks)


def make_context(config, held, rounds=20):
    """Four devices on a path; task 0 held by 0, 1, 2 and task 1 by 2, 3 as `held` says."""
    task_weights = {}
    for task in (0, 1):
        holders = [d for d, tasks in held.items() if task in tasks]
        task_weights[task] = {d: {n: 1 / 3 for n in (d - 1, d + 1) if n in holders} for d in holders}
    tree0 = Tree(0, {0: (1,), 1: (2,), 2: (3,)}, 3)
    tree1 = Tree(2, {2: (1, 3), 1: (0,)}, 2)
    return Context(
        config=config, seed=3, run=99, rounds=rounds, layers=LAYERS, tasks=2, held=held,
        graph=CommGraph(
            weights=LINE, task_weights=task_weights,
            authority={(0, d): 0 for d in range(4)} | {(1, d): 2 for d in range(4)},
            everyone={(0, 0): tree0, (1, 2): tree1},
            holders={(0, 0): Tree(0, {0: (1,), 1: (2,)}, 2), (1, 2): Tree(2, {2: (1, 3) if 1 in held[1] else (3,)}, 1)},
            star=(0, 1, 2),
        ),
        sketch=sketch, router_layers=(0,), projections=projections_of(config, LAYERS, 2),
    )  # fmt: skip


HELD = {0: (0,), 1: (0,), 2: (0, 1), 3: (1,)}


def make_devices(method, seed=0):
    """All devices of the method's network, moved away from their start at random."""
    rng = np.random.default_rng(seed)
    out = []
    for d in sorted(method.context.held):
        theta = method.start(d)
        out.append(Device(d, method.adapter_tasks(d), AdapterState.from_theta(theta), method.memory(d)))
        theta += torch.from_numpy(rng.normal(size=theta.shape).astype(np.float32))
    return out


def play(method, devices, round_index, lost=frozenset()):
    """One exchange with the given (source, destination) pairs lost; returns refusals and payload bytes."""
    inbox, acks, total = {d.index: [] for d in devices}, {d.index: [] for d in devices}, 0
    for device in devices:
        method.begin(device, round_index)
    for device in devices:
        for out in method.outgoing(device, round_index):
            destinations = out.planned.destinations
            reached = tuple(n for n in destinations if (device.index, n) not in lost)
            for n in reached:
                inbox[n].append(out.payload)
            total += len(out.payload) * len(destinations)
            acks[device.index].append(Delivery(out.planned, reached))
    refused = Counter()
    for device in devices:
        refused += method.incoming(device, round_index, inbox[device.index], acks[device.index])
    return refused, total


def plain_context(config, weights, layers=LAYERS, rounds=20):
    """Devices that all hold the one task, on a graph given by its weights, for methods with one adapter."""
    devices = sorted(weights)
    return Context(
        config=config, seed=3, run=99, rounds=rounds, layers=layers, tasks=1, held=dict.fromkeys(devices, (0,)),
        graph=CommGraph(weights, {0: weights}, {}, {}, {}), sketch=sketch, router_layers=(),
        projections=projections_of(config, layers, 1), ups=static_ups(Config(seed=3, method=config), layers),
    )  # fmt: skip


def complete(devices):
    """Equal weights 1/n on the complete graph."""
    return {i: {j: 1 / devices for j in range(devices) if j != i} for i in range(devices)}


def network(config, weights, layers=LAYERS, rounds=20, seed=0):
    """Method and devices with one adapter each; with a server every device reaches it in one hop."""
    context = plain_context(config, weights, layers, rounds)
    if config.hub is not None:
        context = replace(context, graph=replace(context.graph, star=tuple(sorted(weights))))
    method = make_method(context)
    return method, make_devices(method, seed)


def row(device):
    """A device's one adapter, (size,) float64."""
    return device.state.theta[0].numpy().astype(float).copy()


def put(device, values):
    """Give a device's one adapter other values, in place."""
    device.state.theta[0].copy_(torch.from_numpy(np.asarray(values, np.float32)))


def largest(x, count):
    """The `count` largest entries of x by magnitude, 0 elsewhere."""
    kept = np.zeros_like(x)
    order = np.argsort(-np.abs(x), kind="stable")[:count]
    kept[order] = x[order]
    return kept
