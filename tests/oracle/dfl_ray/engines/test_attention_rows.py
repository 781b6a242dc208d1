"""Compiled attention against float64 written out, on ragged rows and for vectors of every width."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch

from dfl_ray.engines.cpu import vector_ir
from dfl_ray.engines.cpu.linear import Input
from dfl_ray.engines.cpu.rows import lay_out_rows
from dfl_ray.models.decoder import DecoderShape

LENGTHS = (1, 16, 17, 5, 32, 33, 2, 47)
WIDTH_IN = 12


def shape_of(heads, kv_heads, head_dim):
    return DecoderShape(
        vocab_size=8, hidden_size=WIDTH_IN, intermediate_size=8, layers=1, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, eps=1e-5, tied=True, qkv_bias=True, o_bias=False, mlp_bias=False, qk_norm=False,
        rope_theta=100.0, scaling=None,
    )  # fmt: skip


class Case:
    """Rows with gaps between them, in two adapters, asked everywhere or at some places."""

    def __init__(self, shape, asked_some, seed=0):
        rng = np.random.default_rng(seed)
        self.shape = shape
        lengths = np.array(LENGTHS)
        starts = np.cumsum(lengths + 3) - lengths - 3 + np.arange(len(lengths)) % 2
        self.rows, tokens = (
            list(zip(starts.tolist(), lengths.tolist(), strict=True)),
            int(starts[-1] + lengths[-1] + 2),
        )
        width = shape.heads * shape.head_dim
        draw = lambda *s: torch.from_numpy(rng.standard_normal(s)).float()  # noqa: E731
        half = int(starts[4])
        self.x, self.kv_weight = (
            draw(tokens, WIDTH_IN),
            draw(2, 2 * shape.kv_heads * shape.head_dim, WIDTH_IN),
        )
        self.kv_bias, self.q_weight = draw(2 * shape.kv_heads * shape.head_dim), draw(2, width, WIDTH_IN)
        self.o_weight = draw(2, WIDTH_IN, width)
        angle = torch.arange(64).unsqueeze(1) * 100.0 ** (
            -torch.arange(shape.head_dim // 2) / (shape.head_dim // 2)
        )
        angle = torch.cat((angle, angle), 1)
        self.angles = (angle.cos().float(), angle.sin().float())
        self.token_groups = ((0, 0, half), (1, half, tokens))
        if asked_some:
            counts = np.array([1 + (3 * i) % min(n, 19) for i, n in enumerate(LENGTHS)])
            places = [rng.permutation(n)[:c] for n, c in zip(LENGTHS, counts, strict=True)]
            first = np.cumsum(counts) - counts
            self.asked, queries = list(zip(first.tolist(), counts.tolist(), strict=True)), int(counts.sum())
            self.positions = np.concatenate(places)
            at = np.repeat(starts, counts) + self.positions
            border = int(first[4])
        else:
            self.asked, queries, self.positions, at, border = self.rows, tokens, None, np.arange(tokens), half
        self.asked_x = self.x[torch.from_numpy(at)]
        self.query_groups = ((0, 0, border), (1, border, queries))
        self.dy = draw(queries, WIDTH_IN)

    def layout(self):
        columns = lambda runs: tuple(np.array(c) for c in zip(*runs, strict=True))  # noqa: E731
        return lay_out_rows(
            columns(self.asked),
            columns(self.rows),
            self.positions,
            (len(self.asked_x), len(self.x)),
            self.angles,
        )

    def compiled(self):
        queries = Input(self.asked_x, self.q_weight, None, self.query_groups)
        keys = Input(self.x, self.kv_weight, self.kv_bias, self.token_groups)
        layout = self.layout()
        heads, saved = layout.attend(queries, keys, self.shape)
        return heads, *layout.pull(Input(self.dy, self.o_weight, None, self.query_groups), saved, self.shape)

    def exact(self):
        """The same by autograd in float64: heads, and gradients of projected queries, keys and values."""
        adapter = lambda groups, n: np.repeat([0, 1], [groups[0][2], n - groups[0][2]])  # noqa: E731
        q_adapter, k_adapter = (
            adapter(self.query_groups, len(self.asked_x)),
            adapter(self.token_groups, len(self.x)),
        )
        project = lambda w, x, s: torch.einsum("tmd,td->tm", w.double()[torch.from_numpy(s)], x.double())  # noqa: E731
        q = project(self.q_weight, self.asked_x, q_adapter).requires_grad_()
        kv = (project(self.kv_weight, self.x, k_adapter) + self.kv_bias.double()).requires_grad_()
        out = torch.zeros_like(q)
        for (first, count), (start, length) in zip(self.asked, self.rows, strict=True):
            at = np.arange(length) if self.positions is None else self.positions[first : first + count]
            heads = self.one_row(q[first : first + count], kv[start : start + length], torch.from_numpy(at))
            out = torch.cat((out[:first], heads, out[first + count :]))
        dheads = torch.einsum(
            "tm,tmd->td", self.dy.double(), self.o_weight.double()[torch.from_numpy(q_adapter)]
        )
        return out.detach(), *torch.autograd.grad(out, (q, kv), dheads)

    def one_row(self, q, kv, at):
        s = self.shape
        k, v = kv.view(len(kv), 2, s.kv_heads, s.head_dim).unbind(1)
        q, k = self.turned(q.view(len(q), s.heads, s.head_dim), at), self.turned(k, torch.arange(len(kv)))
        k, v = (x.repeat_interleave(s.heads // s.kv_heads, 1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q, k) * s.head_dim**-0.5
        scores = scores.masked_fill(torch.arange(len(kv)) > at[:, None], -torch.inf)
        return torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).reshape(len(q), -1)

    def turned(self, x, at):
        cosines, sines = (a.double()[at].unsqueeze(1) for a in self.angles)
        first, second = x.chunk(2, -1)
        return x * cosines + torch.cat((-second, first), -1) * sines


SHAPES = {"grouped": (4, 2, 8), "one-key-head": (3, 1, 6), "all-heads": (2, 2, 4), "widest": (2, 1, 32)}


@pytest.mark.parametrize("width", [4, 8, 16])
@pytest.mark.parametrize("asked", ["all", "some"])
@pytest.mark.parametrize("shape", SHAPES)
def test_heads_and_gradients(shape, asked, width, monkeypatch):
    monkeypatch.setattr(vector_ir, "width", lambda: width)
    case = Case(shape_of(*SHAPES[shape]), asked == "some")
    for mine, exact in zip(case.compiled(), case.exact(), strict=True):
        assert exact.abs().max() > 0.1
        torch.testing.assert_close(mine.double(), exact, rtol=2e-4, atol=2e-4)


def test_what_lies_in_no_row_stays_zero_and_touches_nothing():
    case = Case(shape_of(4, 2, 8), asked_some=False)
    inside = np.zeros(len(case.x), bool)
    for start, length in case.rows:
        inside[start : start + length] = True
    first = case.compiled()
    case.x[torch.from_numpy(~inside)] = torch.nan
    for before, after in zip(first, case.compiled(), strict=True):
        assert not before[torch.from_numpy(~inside)].any()
        assert torch.equal(before, after)


def test_a_row_comes_out_the_same_bit_by_bit_wherever_it_lies():
    case, other = (Case(shape_of(4, 2, 8), asked_some=False) for _ in range(2))
    keep = case.rows[3]
    other.rows = other.asked = [keep]
    for whole, alone in zip(case.compiled(), other.compiled(), strict=True):
        assert torch.equal(whole[keep[0] : sum(keep)], alone[keep[0] : sum(keep)])


@pytest.mark.parametrize("width", [8, 16])
def test_exp_is_right_to_two_units_in_the_last_place(width):
    def write(given, x, y, count):
        with given.loop(vector_ir.INT64(0), count) as i:
            at = given.builder.mul(i, vector_ir.INT64(width))
            given.store(given.exp(given.load(x, at)), y, at)

    run = vector_ir.compile_kernel("exponentials", [vector_ir.FLOAT, vector_ir.FLOAT], 1, width, write)
    x = -np.concatenate((np.geomspace(1e-8, 86.9, 4079), np.zeros(1), np.linspace(0, 3, 16))).astype(
        np.float32
    )
    y = np.empty_like(x)
    run(*(a.ctypes.data_as(ctypes.c_void_p) for a in (x, y)), len(x) // width)
    exact = np.exp(x.astype(float))
    assert (np.abs(y - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()
    odd = np.full(width, np.nan, np.float32)
    odd[1:] = -1e30
    run(*(a.ctypes.data_as(ctypes.c_void_p) for a in (odd, y)), 1)
    assert np.isnan(y[0])
    assert (y[1:width] < 1e-37).all()
