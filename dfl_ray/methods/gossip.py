"""Pieces the gossip methods share: values to bytes with error feedback, checked receipt, weighted mixing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

import numpy as np

from dfl_ray.config.methods import Precision
from dfl_ray.methods.base import Context, Device
from dfl_ray.wire.codec import CodecError, decode_values, encode_values, from_bfloat16, to_bfloat16
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, MessageError, Refusal, unpack

T = TypeVar("T")


def quantise(
    values: np.ndarray, residual: np.ndarray | None, precision: Precision
) -> tuple[bytes, np.ndarray]:
    """Encode values with error feedback: what rounding took away is added to the next message.

    The message says Q(x + e), and e <- x + e - Q(x + e). The residual is kept in bfloat16, half the memory of float32:
    it is off by at most 2^-9 of itself, and so by 2^-17 of a block's largest value, of which float16 rounds 2^-11 away.

    Source: Seide et al. 2014, "1-bit stochastic gradient descent"; Karimireddy et al. 2019 (arXiv 1901.09847).

    Args:
        values: x, (n,) float32.
        residual: e, (n,) uint16, the bits of bfloat16; None, or one of another length (the mask has changed), counts as
            zero. Checkpoints of before 29 November 2026 have it in float32.
        precision: Number format.

    Returns:
        The bytes, and the next residual (n,) uint16.
    """
    target = values
    if residual is not None and len(residual) == len(values):
        target = values + (residual if residual.dtype == np.float32 else from_bfloat16(residual))
    data = encode_values(target, precision)
    return data, to_bfloat16(target - decode_values(data, precision, len(values)))


def receive(data: bytes | memoryview, *, run: int, round_index: int) -> Message:
    """Decode one message and refuse what no device may use; `used_once` refuses replays where it is used.

    Args:
        data: The bytes.
        run: Low 32 bits of the run's identity.
        round_index: The round, from 1.

    Returns:
        The message.

    Raises:
        MessageError: Corrupted, truncated, of another run or of a later round.
    """
    message = unpack(data)
    if message.run != run:
        raise MessageError(Refusal.FOREIGN, f"run {message.run:#x}, this is {run:#x}")
    if message.version > round_index:
        raise MessageError(Refusal.FOREIGN, f"version {message.version} in round {round_index}")
    return message


@contextmanager
def used_once(device: Device[Any], message: Message) -> Iterator[None]:
    """Refuse a replay before a message is used, and remember the message if nothing was wrong with it.

    A message must be newer than the last that was used of its kind, task and sender; several of one sender may arrive
    in one round.

    Args:
        device: The receiver, which remembers the versions it has used.
        message: The message.

    Raises:
        MessageError: It is a replay.
    """
    key = int(message.kind), message.task, message.sender
    if message.version <= device.memory.seen.get(key, -1):
        raise MessageError(Refusal.REPLAYED, f"version {message.version} of sender {message.sender} again")
    yield
    device.memory.seen[key] = message.version


def finite_values(body: bytes, precision: Precision, count: int) -> np.ndarray:
    """Decode values and insist on finite ones.

    Args:
        body: The bytes.
        precision: Number format.
        count: Number of values.

    Returns:
        (count,) float32.

    Raises:
        MessageError: Wrong length, or NaN or infinity inside.
    """
    try:
        values = decode_values(body, precision, count)
    except CodecError as error:
        raise MessageError(Refusal.CORRUPTED, str(error)) from error
    if not np.isfinite(values).all():
        raise MessageError(Refusal.NOT_FINITE, f"{int((~np.isfinite(values)).sum())} of {count} values")
    return values


def sort_by_kind(
    received: Sequence[bytes | memoryview],
    *,
    run: int,
    round_index: int,
    refused: Counter[str],
) -> dict[Kind, list[Message]]:
    """Decode and check everything that arrived.

    Args:
        received: Messages that arrived, as bytes.
        run: Low 32 bits of the run's identity.
        round_index: The round, from 1.
        refused: Counts what is wrong by reason, in place.

    Returns:
        Kind -> its good messages, in the order of arrival.
    """
    out: dict[Kind, list[Message]] = {}
    for data in received:
        try:
            message = receive(data, run=run, round_index=round_index)
        except MessageError as error:
            refused[error.refusal.value] += 1
        else:
            out.setdefault(message.kind, []).append(message)
    return out


def collect(
    device: Device[Any],
    context: Context,
    round_index: int,
    received: Sequence[bytes | memoryview],
    read: Callable[[Message], T],
    add: Callable[[dict[int, T], int, T], None] = lambda arrived, sender, one: arrived.update({sender: one}),
    senders: Collection[int] | None = None,
    around: Callable[[dict[int, T], Message], AbstractContextManager[None]] = lambda _arrived, _message: (
        nullcontext()
    ),
) -> tuple[dict[int, T], Counter[str]]:
    """Read the adapters that arrived at a device with one adapter for all tasks, from neighbours or other `senders`.

    Args:
        device: The receiver.
        context: The run.
        round_index: The round, from 1.
        received: What arrived.
        read: Decodes one checked message; raises `MessageError` for what must not be used.
        add: Enters it by its sender.
        senders: Who may send to the device; None: its neighbours.
        around: Given what has arrived and a message, what its reading happens in.

    Returns:
        Sender -> what `read` made of its message, and the refused messages by reason. Of several messages of one
        sender each must be newer than the one before; the newest is used unless `add` says otherwise.
    """
    refused: Counter[str] = Counter()
    known = context.graph.weights.get(device.index, {}) if senders is None else senders
    arrived: dict[int, T] = {}
    for data in received:
        try:
            message = receive(data, run=context.run, round_index=round_index)
            if message.kind is not Kind.ADAPTER:
                continue
            if message.sender not in known or message.task != SHARED_TASK:
                raise MessageError(Refusal.FOREIGN, f"task {message.task} from device {message.sender}")
            with around(arrived, message), used_once(device, message):
                add(arrived, message.sender, read(message))
        except MessageError as error:
            refused[error.refusal.value] += 1
    return arrived, refused


def collect_encoded(
    device: Device[Any],
    context: Context,
    round_index: int,
    received: Sequence[bytes | memoryview],
    read: Callable[[Message], T],
    senders: Collection[int],
) -> tuple[dict[int, Callable[[], T]], Counter[str]]:
    """Check the adapters that arrived as `collect` does, but keep them as they were sent: for servers, who hear all.

    Arguments are those of `collect`.

    Returns:
        Sender -> what decodes its message, anew at each call; and the refused messages by reason.
    """

    def checked(message: Message) -> Callable[[], T]:
        read(message)
        return partial(read, message)

    return collect(device, context, round_index, received, checked, senders=senders)


def mean_of(vectors: Iterable[np.ndarray]) -> np.ndarray:
    """Compute the mean of vectors with one of them in memory beside their sum, added in their order in float64.

    It is `numpy.mean(numpy.stack(vectors).astype(numpy.float64), axis=0)` to the last bit.

    Args:
        vectors: One (size,) at least.

    Returns:
        (size,) float64.
    """
    rest = iter(vectors)
    total, count = next(rest).astype(np.float64), 1
    for one in rest:
        total += one
        count += 1
    return total / count
