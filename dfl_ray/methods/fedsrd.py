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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch

from dfl_ray.config.literature import FedsrdConfig
from dfl_ray.lora.layout import Factor
from dfl_ray.methods.base import Context, Device, MethodState
from dfl_ray.methods.flasc import largest
from dfl_ray.methods.flexlora import truncated_svd
from dfl_ray.methods.modules import products
from dfl_ray.methods.shared import factor_keep
from dfl_ray.methods.sparse_star import Said, SparseStar
from dfl_ray.methods.star_law import answered_factor, kept_entries
from dfl_ray.seeds import Stream, generator

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
class Fedsrd(SparseStar[FedsrdState]):
    """FedSRD; see the module's text.

    Args:
        context: The run.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        assert isinstance(context.config, FedsrdConfig)
        self.config = context.config

    def memory(self, device: int) -> FedsrdState:
        """Nothing held yet."""
        return FedsrdState(self.law.start(device))

    def begin(self, device: Device[FedsrdState], round_index: int) -> None:
        """Remember the common factors that the first local steps begin with; later they are what downloads made."""
        if device.memory.common is None:
            device.memory.common = device.state.theta[0].cpu().numpy().copy()

    def places(self, round_index: int) -> np.ndarray | None:
        """Of a download the entries of the factor whose turn it is; of an upload all."""
        if not self.star.downloads(round_index):
            return None
        return factor_keep(self.layout, answered_factor(self.config, round_index))

    def upload(self, device: Device[FedsrdState]) -> Said:
        """The important entries of the change, scaled to the sum of magnitudes of all of it."""
        common = self._common(device)
        trained = device.state.theta[0].cpu().numpy()
        change = trained - common
        pairs = zip(products(self, common), products(self, trained), strict=True)
        importance = [importances(before, new) for before, new in pairs]
        mask = np.zeros(self.layout.size, bool)
        for s in self.layout.segments:
            here = slice(s.start, s.stop)
            of_b, of_a = importance[s.layer]
            mask[here] = largest((of_b if s.factor == "b" else of_a).ravel(), self.config.upload_share)
            kept = np.abs(change[here][mask[here]]).sum()
            if kept > 0:
                change[here] *= np.abs(change[here]).sum() / kept
        return mask, change

    def form(self, device: Device[FedsrdState], round_index: int, uploads: Sequence[np.ndarray]) -> None:
        """Make the answer from all changes, and draw which of its entries are said.

        Arguments are those of `SparseStar.form`.
        """
        memory, known = device.memory, self._common(device)
        factor, places = answered_factor(self.config, round_index + 1), self.places(round_index + 1)
        assert places is not None
        common = products(self, known)
        trained = [products(self, known + change) for change in uploads]
        full = np.zeros(self.layout.size, np.float32)
        for s in self.layout.of(factor):
            found = answer(common[s.layer], [u[s.layer] for u in trained], self.layout.rank, factor)
            full[s.start : s.stop] = found.ravel()
        chosen = np.flatnonzero(places)
        count = kept_entries(self.config.download_share, len(chosen))
        rng = generator(self.context.seed, Stream.METHOD, round_index + 1, device.index)
        memory.said = np.zeros(self.layout.size, bool)
        memory.said[rng.choice(chosen, count, replace=False)] = True
        memory.answer = np.where(memory.said, full * (len(chosen) / count), 0).astype(np.float32)

    def download(self, device: Device[FedsrdState]) -> Said:
        """The drawn entries of the answer."""
        assert device.memory.said is not None and device.memory.answer is not None, "no answer was formed"
        return device.memory.said, device.memory.answer

    def take(self, device: Device[FedsrdState], answer: np.ndarray | None) -> None:
        """Add the answer to the common factors, and go on from these."""
        memory, common = device.memory, self._common(device)
        memory.common = common if answer is None else common + answer
        memory.answer = memory.said = None
        device.state.theta[0].copy_(torch.from_numpy(memory.common))

    def _common(self, device: Device[FedsrdState]) -> np.ndarray:
        assert device.memory.common is not None, "begin has not been called"
        return device.memory.common
