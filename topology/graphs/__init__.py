"""Graphs to choose from: one function each in this folder, by name in `topology.tables.GRAPHS`."""

from __future__ import annotations

from topology.graphs.base import Builder, GraphInput, GraphLinks
from topology.tables import GRAPHS

__all__ = ["GRAPHS", "Builder", "GraphInput", "GraphLinks"]
