"""`model.dtype: auto`: bfloat16 where this machine multiplies it faster, float32 elsewhere.

The choice is made once, before a run is set up, and the run's configuration then holds it by name: a resumed or
repeated run takes the same and measures nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfl_ray.config.schema import Config
from dfl_ray.engines.foreign_memory import foreign_sizes
from dfl_ray.engines.memory import WIDE
from dfl_ray.models.gguf_header import is_gguf, read_gguf_header
from dfl_ray.models.paths import local_path

UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "bf16": "Arm BF16"}
"""Words of /proc/cpuinfo for instructions that multiply bfloat16 -> what they are called."""

LEAST_GAIN = 1.2
"""bfloat16 is taken from this ratio of the measured rates on: below it what it rounds is not worth it."""

SIZES = (512, 1536, 1536)
"""Tokens, inputs and outputs of the product that is timed."""


@dataclass(frozen=True)
class Rates:
    """Measured rates of one product on one core, in FLOP/s."""

    float32: float
    bfloat16: float


def bfloat16_units(facts: Path = Path("/proc/cpuinfo")) -> tuple[str, ...]:
    """Ask the processor which instructions for products of bfloat16 it has.

    Args:
        facts: Linux' description of the processors; where there is none nothing is known.

    Returns:
        Their names, none if the processor has none or does not say.
    """
    if not facts.is_file():
        return ()
    words = {
        word
        for line in facts.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.lower().startswith(("flags", "features"))
        for word in line.partition(":")[2].split()
    }
    return tuple(name for word, name in UNITS.items() if word in words)


def measured_rates(repeats: int = 4) -> Rates:
    """Time x W^T in both precisions in turn on one core, the best of some repeats; well under a second.

    Args:
        repeats: Timed products in each precision.

    Returns:
        The rates; an operation is a multiplication or an addition.
    """
    import torch

    from dfl_ray.engines.cpu.heap import limit_prepared_products

    limit_prepared_products()
    tokens, inputs, outputs = SIZES
    threads = torch.get_num_threads()
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    try:
        torch.set_num_threads(1)
        made = {t: (torch.ones(tokens, inputs, dtype=t), torch.ones(outputs, inputs, dtype=t)) for t in best}
        for number in range(repeats + 1):  # the first product of each prepares what later ones use
            for kind, (x, weight) in made.items():
                began = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                if number:
                    best[kind] = min(best[kind], time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    operations = 2.0 * tokens * inputs * outputs
    return Rates(operations / best[torch.float32], operations / best[torch.bfloat16])


def model_width(config: Config) -> int | None:
    """Width d of the base model, where a configuration of it or its GGUF file lies here under its name; else None.

    Args:
        config: Any configuration.
    """
    path = local_path(config.model.name)
    try:
        if is_gguf(path):
            width = read_gguf_header(path).model_keys.get("embedding_length") if path.is_file() else None
            return width if isinstance(width, int) else None
        described = path / "config.json"
        sizes = foreign_sizes(described.read_text(encoding="utf-8")) if described.is_file() else None
    except (ValueError, TypeError, AttributeError):  # whoever reads the model says what is wrong with it
        return None
    return None if sizes is None else sizes.width


def on_gpus(config: Config) -> bool:
    """Whether device actors compute on GPUs: they ask for them, and the local backend's machine, this one, has one.

    Ray starts no actor where the GPUs that it asks for are not.

    Args:
        config: Any configuration.
    """
    if config.runtime.gpus_per_actor == 0 or config.runtime.backend != "local":
        return config.runtime.gpus_per_actor > 0
    import torch

    return torch.cuda.is_available()


def with_dtype(
    config: Config,
    units: Callable[[], tuple[str, ...]] = bfloat16_units,
    rates: Callable[[], Rates] = measured_rates,
    width: Callable[[Config], int | None] = model_width,
) -> tuple[Config, tuple[str, ...]]:
    """Put a precision in the place of `model.dtype: auto`.

    On the CPU bfloat16 is taken if the processor has instructions for it and a measurement confirms at least
    `LEAST_GAIN` times the rate of float32, but not for models narrower than `WIDE`, whose products are too small to
    gain by it. Actors with a GPU take bfloat16; where the local backend is asked for one that is not there, the CPU is
    what computes. Adapters, their moments and gradients, norms, softmax and loss are in
    float32 either way.

    Args:
        config: Any configuration.
        units: Asks the processor.
        rates: Measures; called only if the processor has such instructions.
        width: Reads the base model's width.

    Returns:
        The configuration with `float32` or `bfloat16`, and a sentence on why; the same configuration and nothing to say
        where it names one.
    """
    if config.model.dtype != "auto":
        return config, ()
    if on_gpus(config):
        dtype, why = "bfloat16", "device actors have GPUs"
    elif (wide := width(config)) is not None and wide < WIDE:
        dtype = "float32"
        why = f"the products of a model of width {wide} are too small to gain by bfloat16 (from {WIDE} on it is asked)"
    elif found := units():
        measured = rates()
        dtype = "bfloat16" if measured.bfloat16 >= LEAST_GAIN * measured.float32 else "float32"
        why = (
            f"this processor has {', '.join(found)}, and one core multiplies {measured.bfloat16 / 1e9:,.0f} GFLOP/s in "
            f"bfloat16 and {measured.float32 / 1e9:,.0f} in float32"
        )
    else:
        dtype = "float32"
        why = f"this processor names no instructions for products of bfloat16 ({', '.join(UNITS.values())})"
    chosen = config.model_copy(update={"model": config.model.model_copy(update={"dtype": dtype})})
    return chosen, (f"`model.dtype`: auto is {dtype} here, since {why}",)
