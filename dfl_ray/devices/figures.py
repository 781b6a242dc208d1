"""From the results of micro-batches and the mail of devices to the arrays of a group's reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from dfl_ray.devices.mail import Mail
from dfl_ray.devices.records import ExchangeReport
from dfl_ray.engines.training import TrainingResult, device_means
from dfl_ray.lora.optimizer import AdapterState, in_range


def trained_in_place(
    state: AdapterState, rows: Sequence[int], steps: Callable[..., TrainingResult]
) -> TrainingResult:
    """Make the local steps of some adapters of a group.

    Args:
        state: All adapters of the group; those of `rows` change.
        rows: Their indices, ascending inside each device; neighbours are trained in place, others as a copy.
        steps: Makes the steps of the adapters it is given as `state`.

    Returns:
        What `steps` gave.
    """
    first, last = rows[0], rows[-1]
    if last - first + 1 == len(rows):
        return steps(state=state.rows(first, last + 1))
    places = torch.tensor(rows, device=state.theta.device)
    part = state.take(places)
    result = steps(state=part)
    state.put(places, part)
    return result


def part_finite(
    result: TrainingResult, theta: torch.Tensor, rows: Sequence[int], sizes: Sequence[int]
) -> np.ndarray:
    """Tell which devices of a part may send what they have learnt.

    Args:
        result: What the part's steps gave.
        theta: (adapters, size) values of all adapters of the group.
        rows: Those of the part, ascending inside each device.
        sizes: Adapters of each device of the part.

    Returns:
        (devices,) bool, True where every loss and gradient was finite and all values are in the range of float16.
    """
    first, last = rows[0], rows[-1]
    mine = theta[first : last + 1] if last - first + 1 == len(rows) else theta[list(rows)]
    starts = np.cumsum([0, *sizes[:-1]])
    fits = np.logical_and.reduceat(in_range(mine).cpu().numpy(), starts)
    return fits & np.logical_and.reduceat(result.finite, starts)


def placed_means(
    parts: Sequence[TrainingResult], places: Sequence[int], starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """From figures of adapters to figures of a group's devices, of which only some may have trained.

    Args:
        parts: Results of all micro-batches.
        places: Place in the group of each device that trained, in the order of the results.
        starts: (devices + 1,) first adapter of each device.

    Returns:
        (devices,) loss, gradient norm and tokens; NaN, NaN and 0 for a device that did not train.
    """
    count = len(starts) - 1
    loss, norm = np.full(count, np.nan), np.full(count, np.nan)
    tokens = np.zeros(count, np.int64)
    if places:
        sizes = np.diff(starts)[places]
        own = device_means(parts, np.cumsum([0, *sizes[:-1]]))
        loss, norm = loss.astype(own[0].dtype), norm.astype(own[1].dtype)
        loss[places], norm[places], tokens[places] = own
    return loss, norm, tokens


def exchange_report(
    devices: Sequence[int], refused: Mapping[int, Mapping[str, int]], mail: Mapping[int, Mail], busy_s: float
) -> ExchangeReport:
    """Put the report of what a group took in together.

    Args:
        devices: Its devices.
        refused: Device -> reason -> messages refused.
        mail: Device -> what it took in, of those that did.
        busy_s: Wall time of the work in s.

    Returns:
        The report.
    """
    none = Mail()
    mine = [mail.get(d, none) for d in devices]
    return ExchangeReport(
        np.array(devices),
        tuple(refused[d] for d in devices),
        np.array([sum(map(len, m.received)) for m in mine]),
        busy_s,
        np.array([len(m.ages) for m in mine]),
        np.array([float(np.mean(m.ages)) if m.ages else np.nan for m in mine]),
    )
