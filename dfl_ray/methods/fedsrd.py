"""FedSRD: LoRA with a server, sparse by importance on the way up, averaged as products, sparse in one factor down.

All devices hold the common A and B of each layer. Up: of dB = B_i - B and dA = A_i - A a device keeps in each factor of
each layer the share with the largest importance, |dA_uv| |B_i[:, u]| and |dB_uv| |A[v, :]|, and scales what it keeps
to the factor's sum of magnitudes before. The hub forms P = mean_i (B + dB_i)(A + dA_i), its own among them, cuts it to
rank r by SVD, and asks what of D = P_r - B A one factor can give, in turn: dB = D A^+ in the first cycle, dA = B^+ D in
the next. Down: a random share of these entries, divided by the share, which all add to their A or B. Cycle, tree and
losses are those of `fedavg_star`.

Source: Yan et al. 2025, arXiv 2510.04601, checked against the authors' published code. Departures: the share that an
upload keeps is a setting, where the code takes it from the kurtosis of the importances; the number of random entries
is fixed, where each is drawn apart; B's turn comes first, since dA = B^+ D is 0 while B = 0, so that the code's first
download says nothing; devices weigh alike (an option there). A device that misses a download is off the common factors
from then on. FedSRD-e, which leaves the SVD out, is not there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from dfl_ray.config.literature import FedsrdConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.methods.base import Context, Delivery, Device, MethodState, Outgoing
from dfl_ray.methods.flasc import largest
from dfl_ray.methods.flexlora import truncated_svd
from dfl_ray.methods.gossip import collect
from dfl_ray.methods.modules import products
from dfl_ray.methods.shared import SharedAdapter, factor_keep
from dfl_ray.methods.sparse_body import sparse_body, sparse_entries
from dfl_ray.methods.star_law import StarLaw, answered_factor, kept_entries
from dfl_ray.seeds import Stream, generator
from dfl_ray.wire.codec import decode_values, encode_values
from dfl_ray.wire.message import SHARED_TASK, Kind, Message, pack

Pair = tuple[np.ndarray, np.ndarray]


@dataclass
class FedsrdState(MethodState):
    """What a device keeps, (size,) float32.

    Attributes:
        common: The common A and B that it knows; None before the first round.
        answer: On the hub between the two rounds of a cycle, what it sends, 0 in the other entries.
        said: (size,) bool, the entries of `answer` that are sent.
    """

    common: np.ndarray | None = None
    answer: np.ndarray | None = None
    said: np.ndarray | None = None


def importances(common: Pair, trained: Pair) -> Pair:
    """How much each entry of a layer's change moves its product: of dB and of dA; see the module's text.

    Args:
        common: B (m, r) and A (r, d) before the local steps.
        trained: B_i and A_i after them.

    Returns:
        (m, r) and (r, d), not negative.
    """
    (b, a), (new_b, new_a) = common, trained
    of_b = np.abs(new_b - b) * np.linalg.norm(a, axis=1)
    return of_b, np.abs(new_a - a) * np.linalg.norm(new_b, axis=0)[:, None]


def answer(common: Pair, uploads: Sequence[Pair], rank: int, factor: Factor) -> np.ndarray:
    """The change of one factor that comes nearest to the mean product: D A^+ for B, B^+ D for A.

    Args:
        common: B and A of a layer.
        uploads: B + dB_i and A + dA_i of all.
        rank: r.
        factor: The factor whose turn it is.

    Returns:
        (m, r) or (r, d). P is held as its stacked factors, D = left right, never as a dense (m, d) matrix.
    """
    b, a = common
    stacked = np.concatenate([x for x, _ in uploads], axis=1) / len(uploads)
    cut_b, cut_a = truncated_svd(stacked, np.concatenate([y for _, y in uploads]), rank)
    left, right = np.concatenate([cut_b, -b], axis=1), np.concatenate([cut_a, a])
    given = a if factor == "b" else b
    inverse = np.linalg.pinv(given, rcond=max(given.shape) * float(np.finfo(np.float32).eps))
    return left @ (right @ inverse) if factor == "b" else (inverse @ left) @ right


@final
class Fedsrd(SharedAdapter[FedsrdState]):
    """FedSRD; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(self.law, StarLaw) and isinstance(context.config, FedsrdConfig)
        self.star, self.config = self.law, context.config

    def memory(self, device: int) -> FedsrdState:
        """Nothing held yet."""
        return FedsrdState(self.law.start(device))

    def begin(self, device: Device[FedsrdState], round_index: int) -> None:
        """Remember the common factors that the first local steps begin with; later they are what downloads made."""
        if device.memory.common is None:
            device.memory.common = device.state.theta[0].cpu().numpy().copy()

    def outgoing(self, device: Device[FedsrdState], round_index: int) -> list[Outgoing]:
        """Encode the important changes for the hub, or its answer for all.

        Args:
            device: The sender.
            round_index: The round, from 1.

        Returns:
            At most one message with its bytes.
        """
        out: list[Outgoing] = []
        for planned in self.planned(device, round_index):
            if self.star.downloads(planned.version):
                turn = self._turn(planned.version)
                assert device.memory.answer is not None and device.memory.said is not None
                mask, values = device.memory.said[turn], device.memory.answer[device.memory.said]
            else:
                mask, change = self._upload(device)
                values = change[mask]
            precision, run = self.config.precision, self.context.run
            body = sparse_body(mask, values, precision)
            message = Message(
                Kind.ADAPTER, SHARED_TASK, device.index, planned.version, run, 0, precision, body
            )
            out.append(Outgoing(planned, pack(message)))
        return out

    def incoming(
        self,
        device: Device[FedsrdState],
        round_index: int,
        received: Sequence[bytes | memoryview],
        sent: Sequence[Delivery],
    ) -> Counter[str]:
        """Form the answer on the hub, or add the hub's answer to the common factors.

        Arguments and result are those of `Method.incoming`.
        """
        is_hub, memory = device.index == self.config.server, device.memory
        known = self.star.others if is_hub else (self.config.server,)
        arrived, refused = collect(device, self.context, round_index, received, self._read, senders=known)
        assert memory.common is not None, "begin has not been called"
        if self.star.uploads(round_index) and is_hub:
            mask, change = self._upload(device)
            own = np.where(mask, self._rounded(change), np.float32(0))
            self._form(device, round_index + 1, [own, *(arrived[s] for s in sorted(arrived))])
        if self.star.downloads(round_index):
            if is_hub and memory.answer is not None:
                arrived = {device.index: self._rounded(memory.answer)}
            for change in arrived.values():
                memory.common = memory.common + change
            memory.answer = memory.said = None
            device.state.theta[0].copy_(torch.from_numpy(memory.common))
        return refused

    def _turn(self, round_index: int) -> np.ndarray:
        """(size,) bool of the factor whose turn a download is."""
        return factor_keep(self.layout, answered_factor(self.config, round_index))

    def _upload(self, device: Device[FedsrdState]) -> tuple[np.ndarray, np.ndarray]:
        """(size,) bool of the entries that a device sends up, and its (size,) float32 change scaled for them."""
        assert device.memory.common is not None, "begin has not been called"
        trained = device.state.theta[0].cpu().numpy()
        change = trained - device.memory.common
        pairs = zip(products(self, device.memory.common), products(self, trained), strict=True)
        importance = [importances(common, new) for common, new in pairs]
        mask = np.zeros(self.layout.size, bool)
        for s in self.layout.segments:
            here = slice(s.start, s.stop)
            of_b, of_a = importance[s.layer]
            mask[here] = largest((of_b if s.factor == "b" else of_a).ravel(), self.config.upload_share)
            kept = np.abs(change[here][mask[here]]).sum()
            if kept > 0:
                change[here] *= np.abs(change[here]).sum() / kept
        return mask, change

    def _form(self, device: Device[FedsrdState], round_index: int, changes: Sequence[np.ndarray]) -> None:
        """Make the answer of a download in `round_index` from all changes, and draw which entries it says."""
        memory, factor = device.memory, answered_factor(self.config, round_index)
        assert memory.common is not None
        common = products(self, memory.common)
        uploads = [products(self, memory.common + change) for change in changes]
        memory.answer = np.zeros(self.layout.size, np.float32)
        for s in self.layout.of(factor):
            found = answer(common[s.layer], [u[s.layer] for u in uploads], self.layout.rank, factor)
            memory.answer[s.start : s.stop] = found.ravel()
        places = np.flatnonzero(self._turn(round_index))
        count = kept_entries(self.config.download_share, len(places))
        rng = generator(self.context.seed, Stream.METHOD, round_index, device.index)
        memory.said = np.zeros(self.layout.size, bool)
        memory.said[rng.choice(places, count, replace=False)] = True
        memory.answer = np.where(memory.said, memory.answer * (len(places) / count), 0).astype(np.float32)

    def _rounded(self, values: np.ndarray) -> np.ndarray:
        """Values as a receiver would read them."""
        return decode_values(encode_values(values, self.config.precision), self.config.precision, len(values))

    def _read(self, message: Message) -> np.ndarray:
        down = self.star.downloads(message.version)
        places = self._turn(message.version) if down else np.ones(self.layout.size, bool)
        mask, values = sparse_entries(message.body, int(places.sum()), message.precision)
        full = np.zeros(self.layout.size, np.float32)
        full[np.flatnonzero(places)[mask]] = values
        return full
