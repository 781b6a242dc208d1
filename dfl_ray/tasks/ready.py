"""All ready prompt templates for data sets of the hub, by task name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dfl_ray.tasks.suites import SUITES
from dfl_ray.tasks.templates import SINGLE, Template

READY: Mapping[str, Template] = MappingProxyType({**SINGLE, **SUITES})
"""Ready templates by task name."""
