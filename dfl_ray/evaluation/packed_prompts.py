"""Held-out rows packed for scoring: a prompt once, all its candidate answers behind it.

Greedy exact match needs no generation: greedy decoding yields the answer if and only if, with the answer fed in,
the most likely token is the answer's at every position, end token included. A closed label set puts all labels
behind one prompt; each label sees the prompt and itself only (block mask) and takes the position ids that
follow the prompt, so the scores equal those of separate rows at a fraction of the work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dfl_ray.engines.batches import Batch, padded_length
from dfl_ray.tasks.tokens import TokenTask


@dataclass(frozen=True)
class PackedPrompt:
    """One held-out row ready for scoring.

    Attributes:
        ids: (length,) prompt, then every answer without its last token.
        positions: (length,) position ids.
        block: (length,) 0 for the prompt, 1, 2, ... for the answers.
        source: (scored,) position whose output predicts each scored token.
        targets: (scored,) the tokens to predict.
        answer: (scored,) index of the candidate answer each scored token belongs to.
        label: Index of the right candidate.
        greedy: Whether it is right if greedy decoding yields its one answer, and not by comparing candidates.
    """

    ids: np.ndarray
    positions: np.ndarray
    block: np.ndarray
    source: np.ndarray
    targets: np.ndarray
    answer: np.ndarray
    label: int
    greedy: bool = False

    @property
    def plain(self) -> bool:
        """Whether ordinary causal attention suffices: a single candidate."""
        return int(self.block.max()) <= 1


def pack_prompt(
    prompt: np.ndarray, answers: Sequence[np.ndarray], label: int, *, greedy: bool = False
) -> PackedPrompt:
    """Pack one prompt with its candidate answers.

    The first token of every answer is predicted at the prompt's last position; each further one where the token
    before it is fed in. An answer's last token is predicted and never fed in.

    Args:
        prompt: (p,) token ids, p >= 1.
        answers: Token ids of each candidate, end token included.
        label: Index of the right candidate.
        greedy: Whether the row is asked by greedy exact match.

    Returns:
        The packed prompt, p + sum (len(answer) - 1) positions long.
    """
    ids, positions, block = [prompt], [np.arange(len(prompt))], [np.zeros(len(prompt), np.int64)]
    source: list[np.ndarray] = []
    at = len(prompt)
    for k, answer in enumerate(answers, start=1):
        fed = answer[:-1]
        ids.append(fed)
        positions.append(len(prompt) + np.arange(len(fed)))
        block.append(np.full(len(fed), k))
        source.append(np.concatenate([[len(prompt) - 1], at + np.arange(len(fed))]))
        at += len(fed)
    owner = np.repeat(np.arange(len(answers)), [len(a) for a in answers])
    return PackedPrompt(
        np.concatenate(ids).astype(np.int64), np.concatenate(positions), np.concatenate(block),
        np.concatenate(source), np.concatenate(answers).astype(np.int64), owner, label, greedy,
    )  # fmt: skip


def pack_task(task: TokenTask, rows: np.ndarray, *, packed: bool = True) -> list[list[PackedPrompt]]:
    """Pack the given held-out rows of a task.

    Args:
        task: The task.
        rows: Row indices.
        packed: Whether the model takes block masks; if not, every label becomes a pack of its own.

    Returns:
        For each row its packs: one, or one a label when not `packed`. A row without a closed label set is asked by
        greedy exact match.
    """
    out: list[list[PackedPrompt]] = []
    for i in rows:
        prompt = task.test.prompt(int(i))
        if task.choices is None or task.labels is None:
            out.append([pack_prompt(prompt, [task.test.answer(int(i))], 0, greedy=True)])
        elif packed:
            out.append([pack_prompt(prompt, task.choices, int(task.labels[i]))])
        else:
            out.append([pack_prompt(prompt, [c], int(task.labels[i])) for c in task.choices])
    return out


def collate_prompts(packs: Sequence[PackedPrompt]) -> Batch:
    """Join packs to one batch, padded at the end with token id 0.

    Args:
        packs: The packs, at least one.

    Returns:
        The batch; token ids are (packs, padded length), and block mask (packs, 1, length, length) and position ids
        are there only when some pack has several candidates.
    """
    length = padded_length(max(len(p.ids) for p in packs))
    ids = np.zeros((len(packs), length), np.int64)
    for k, pack in enumerate(packs):
        ids[k, : len(pack.ids)] = pack.ids
    rows = np.repeat(np.arange(len(packs)), [len(p.source) for p in packs])
    source = np.stack([rows, np.concatenate([p.source for p in packs])], axis=1)
    targets = np.concatenate([p.targets for p in packs])
    tokens = sum(len(p.ids) for p in packs)
    mask = positions = None
    if not all(p.plain for p in packs):
        mask, positions = _block_mask(packs, length)
    lengths = np.array([len(p.ids) for p in packs])
    return Batch(
        torch.from_numpy(ids), torch.from_numpy(source), torch.from_numpy(targets), tokens, mask, positions,
        lengths,
    )  # fmt: skip


def _block_mask(packs: Sequence[PackedPrompt], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    block = np.zeros((len(packs), length), np.int64)
    positions = np.zeros((len(packs), length), np.int64)
    for k, pack in enumerate(packs):
        block[k, : len(pack.block)] = pack.block
        positions[k, : len(pack.positions)] = pack.positions
    same = (block[:, None, :] == 0) | (block[:, None, :] == block[:, :, None])
    seen = torch.from_numpy(same & np.tri(length, dtype=bool))
    additive = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
    return additive.unsqueeze(1), torch.from_numpy(positions)
