"""FedSRD: LoRA with a server, sparse by importance on the way up, averaged as products, sparse in one factor down.

All devices hold the common A and B of each layer. Up: of dB = B_i - B and dA = A_i - A a device keeps in each factor of
each layer the share with the largest importance, |dA_uv| |B_i[:, u]| and |dB_uv| |A[v, :]|, and scales what it keeps
to the factor's sum of magnitudes before. The hub forms P = mean_i (B + dB_i)(A + dA_i), its own among them, cuts it to
rank r by SVD, and asks what of D = P_r - B A one factor can give, in turn: dB = D A^+ in the first cycle, dA = B^+ D in
the next. Down: a random share of these entries, divided by the share, which all add to their A or B. Cycle, tree and
losses are those of `fedavg_star`.

Source: Yan et al. 2025, arXiv 2510.04601, algorithm 1, checked against the authors' published code. Departures: the
share that an upload keeps is a setting, where they take it from the kurtosis of the importances; the number of random
entries is fixed, where each is drawn apart; the hub's own A and B are what it sends, as in the code, where the text's
take the whole answer; devices weigh alike (an option in the code, whose turns begin with A). A device that misses a
download is off the common factors from then on. FedSRD-e, which leaves the SVD out, is not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import final

import numpy as np
import torch

from dfl_ray.lora.layout import Factor
from dfl_ray.methods.base import Device
from dfl_ray.methods.flexlora import truncated_svd
from dfl_ray.methods.kept import drawn, largest_of_each
from dfl_ray.methods.modules import Pair, joined, products
from dfl_ray.methods.shared import factor_keep, put_values, values_of
from dfl_ray.methods.sparse_star import Said, SparseStar, StarState
from dfl_ray.methods.star_law import answered_factor
from dfl_ray.seeds import Stream, generator


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
class Fedsrd(SparseStar[StarState]):
    """FedSRD; see the module's text.

    Args:
        context: The run.
    """

    def memory(self, device: int) -> StarState:
        """Nothing held yet."""
        return StarState(self.law.start(device))

    def places(self, round_index: int) -> np.ndarray | None:
        """Of a download the entries of the factor whose turn it is; of an upload all."""
        if not self.star.downloads(round_index):
            return None
        return factor_keep(self.layout, answered_factor(self.config, round_index))

    def upload(self, device: Device[StarState]) -> Said:
        """The important entries of the change, scaled to the sum of magnitudes of all of it."""
        change = self.change_of(device)
        common, trained = products(self, self.start_of(device)), products(self, values_of(device))
        importance = joined(self.layout, map(importances, common, trained))
        mask = largest_of_each(importance, self.config.upload_share, self.layout)
        for s in self.layout.segments:
            part, kept = change[s.start : s.stop], mask[s.start : s.stop]
            said = np.abs(part[kept]).sum()
            if said > 0:
                part *= np.abs(part).sum() / said
        return mask, change

    def form(self, device: Device[StarState], round_index: int, uploads: Iterable[np.ndarray]) -> Said:
        """The answer to all changes, and the entries that are drawn of it; arguments: see `SparseStar.form`."""
        common, places = self.start_of(device), self.places(round_index + 1)
        assert places is not None, "the answer is sent in a round of training"
        layers = zip(products(self, common), self._trained(common, uploads), strict=True)
        factor, rank = answered_factor(self.config, round_index + 1), self.layout.rank
        full = np.zeros(self.layout.size, np.float32)
        full[places] = np.concatenate([answer(of, new, rank, factor).ravel() for of, new in layers])
        rng = generator(self.context.seed, Stream.METHOD, round_index + 1, device.index)
        said = drawn(places, self.config.download_share, rng)
        return said, full * float(places.sum() / said.sum())

    def _trained(self, common: np.ndarray, uploads: Iterable[np.ndarray]) -> Iterator[list[Pair]]:
        """B + dB_i and A + dA_i of all who were heard, layer by layer, (m, r) and (r, d) float64.

        All are held in float32, since the decomposition of a layer needs everybody's (`MethodSpec.heard`).
        """
        heard, count = np.empty((len(self.star.known) + 1, self.layout.size), np.float32), 0
        for change in uploads:
            np.add(common, change, out=heard[count])
            count += 1
        flat = torch.from_numpy(heard[:count])
        for b, a in zip(self.layout.views(flat, "b"), self.layout.views(flat, "a"), strict=True):
            yield [
                (x.numpy().astype(np.float64), y.numpy().astype(np.float64))
                for x, y in zip(b, a, strict=True)
            ]

    def take(self, device: Device[StarState], answer: np.ndarray | None) -> None:
        """Add the answer to the common factors, and go on from these."""
        common = self.start_of(device)
        put_values(device, common if answer is None else common + answer)
