"""Keeps other libraries from talking: Ray, W&B, tokenizers, transformers, and Python's warnings.

They read environment variables at import, and actors inherit them; a variable that the user has set stays.
"""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from types import MappingProxyType

SETTINGS: Mapping[str, str] = MappingProxyType(
    {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_VERBOSITY": "error",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "WANDB_SILENT": "true",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "RAY_DEDUP_LOGS": "1",
        "PYTHONWARNINGS": "ignore",
    }
)
LOUD = (
    "ray",
    "wandb",
    "transformers",
    "datasets",
    "huggingface_hub",
    "urllib3",
    "fsspec",
    "lm_eval",
    "evaluate",
)


def silence_libraries() -> None:
    """Quieten the libraries for this process and those it starts; call before they are imported."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore")
    for name in LOUD:
        logging.getLogger(name).setLevel(logging.ERROR)
