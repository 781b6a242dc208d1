"""The methods by name; importing this needs no torch. What a name stands for is in `dfl_ray.methods.entries`."""

from __future__ import annotations

from typing import Any

from channels.registry import Registry

METHODS: Registry[Any] = Registry(
    "method",
    "dfl_ray.methods",
    {
        "sparse_orthogonal": "dfl_ray.methods.entries:SPARSE_ORTHOGONAL",
        "dlora": "dfl_ray.methods.entries:DLORA",
        "ffa": "dfl_ray.methods.entries:FFA",
        "rolora": "dfl_ray.methods.entries:ROLORA",
        "fedsa": "dfl_ray.methods.entries:FEDSA",
        "choco": "dfl_ray.methods.entries:CHOCO",
        "flora": "dfl_ray.methods.entries:FLORA",
        "flexlora": "dfl_ray.methods.entries:FLEXLORA",
        "hetlora": "dfl_ray.methods.entries:HETLORA",
        "dec_lora": "dfl_ray.methods.literature:DEC_LORA",
        "adf_lora": "dfl_ray.methods.literature:ADF_LORA",
        "tad_lora": "dfl_ray.methods.literature:TAD_LORA",
        "fedex": "dfl_ray.methods.literature:FEDEX",
        "flora_na": "dfl_ray.methods.literature:FLORA_NA",
        "lora_fair": "dfl_ray.methods.literature:LORA_FAIR",
        "fed_sb": "dfl_ray.methods.literature:FED_SB",
        "decaf": "dfl_ray.methods.literature:DECAF",
        "gradient_tracking": "dfl_ray.methods.literature:GRADIENT_TRACKING",
        "exact_diffusion": "dfl_ray.methods.literature:EXACT_DIFFUSION",
        "random_walk": "dfl_ray.methods.literature:RANDOM_WALK",
        "fedavg_star": "dfl_ray.methods.literature:FEDAVG_STAR",
        "flasc": "dfl_ray.methods.literature:FLASC",
        "fedsrd": "dfl_ray.methods.literature:FEDSRD",
        "dlora_per_task": "dfl_ray.methods.entries:DLORA_PER_TASK",
        "ffa_per_task": "dfl_ray.methods.entries:FFA_PER_TASK",
        "local_per_task": "dfl_ray.methods.entries:LOCAL_PER_TASK",
        "local": "dfl_ray.methods.entries:LOCAL",
        "centralized": "dfl_ray.methods.entries:CENTRALIZED",
    },
    kinds=("dfl_ray.methods.entries:MethodEntry",),
)
"""Every method by name: a `dfl_ray.methods.entries.MethodEntry`."""
