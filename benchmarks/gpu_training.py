"""How near the batched training of many adapters comes to the machine's matrix rate, and how far ahead of PEFT.

    python benchmarks/gpu_training.py --json            # Qwen2.5-1.5B's shape, 16 devices, one CUDA device
    python benchmarks/gpu_training.py --tiny            # the same code on a CPU in seconds

Base weights, adapters and tokens are random: speed does not depend on them. Every figure printed was measured in this
run; the count of operations is `benchmarks.gpu_work.step_operations`. No Ray is imported.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks.gpu_peft import InTurn, manners
from benchmarks.gpu_sides import Batched, random_base, timed, wait
from benchmarks.gpu_work import Work, linear_sizes, qwen_shape, step_operations
from benchmarks.result import with_origin

TINY = {
    "device": "cpu", "dtype": "float32", "devices": 3, "batch": 2, "length": 16, "rank": 4, "layers": 2,
    "hidden": 32, "heads": 4, "kv_heads": 2, "intermediate": 48, "vocabulary": 64, "square": 64, "steps": 2,
    "warm": 1, "passes": 1,
}  # fmt: skip
WANTED_SHARE, WANTED_RATIO = 0.5, 3.0


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the benchmark and print its table, or one JSON object behind it with `--json`."""
    options = _options(arguments)
    work = _work(options)
    torch.set_num_threads(options.threads)
    facts = _machine(work)
    _say(f"{facts['gpu']}, torch {facts['torch']}; {work.devices} devices x {work.batch} x {work.length} tokens, "
         f"rank {work.rank}, {options.dtype}")  # fmt: skip
    rates = matrix_rates(work, options)
    _print_rates(rates)
    weights = {n: p.detach() for n, p in random_base(work).named_parameters()}
    sides = [measure(work, weights, options, rates["square"], trains_a=a) for a in _factors(options)]
    out = with_origin({"machine": facts, "options": vars(options), "matrix_tflops": rates, "training": sides})
    if options.json or options.tiny:
        print(json.dumps(out), flush=True)
    return out


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny shape on the CPU in float32")
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu", help="cuda or cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32", "float64"))
    sizes = {
        "devices": 16, "batch": 4, "length": 512, "rank": 32, "layers": 28, "hidden": 1536, "heads": 12,
        "kv-heads": 2, "intermediate": 8960, "vocabulary": 151_936,
    }  # fmt: skip
    for name, value in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument(
        "--scored", type=float, default=1.0, help="share of each row's tokens that are scored"
    )
    parser.add_argument(
        "--trains", choices=("ab", "b", "both"), default="both", help="which factors are trained"
    )
    parser.add_argument("--compile", choices=("auto", "off"), default="auto")
    parser.add_argument("--square", type=int, default=8192, help="side of the square product")
    parser.add_argument("--warm", type=int, default=3, help="steps before the timed ones")
    parser.add_argument("--steps", type=int, default=7, help="timed steps of ours")
    parser.add_argument("--passes", type=int, default=3, help="timed passes of PEFT over all devices")
    parser.add_argument("--no-peft", dest="peft", action="store_false", help="leave PEFT out")
    parser.add_argument("--profile", action="store_true", help="split one step by kind of kernel")
    parser.add_argument("--threads", type=int, default=1, help="torch threads on the CPU")
    parser.add_argument("--json", action="store_true", help="print one JSON object last")
    given, _ = parser.parse_known_args(arguments)
    if given.tiny:
        parser.set_defaults(**TINY)
    return parser.parse_args(arguments)


def _work(options: argparse.Namespace) -> Work:
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise SystemExit("No CUDA device is here. Give `--tiny`, or `--device cpu` with a small shape.")
    scored = min(options.length, max(1, round(options.scored * options.length)))
    return Work(
        qwen_shape(options), options.devices, options.batch, options.length, scored, options.rank,
        getattr(torch, options.dtype), options.device,
    )  # fmt: skip


def _factors(options: argparse.Namespace) -> tuple[bool, ...]:
    return {"ab": (True,), "b": (False,), "both": (True, False)}[options.trains]


def _machine(work: Work) -> dict[str, Any]:
    cuda = work.device.startswith("cuda")
    versions = {name: _version(name) for name in ("transformers", "peft", "triton")}
    return {
        "gpu": torch.cuda.get_device_name() if cuda else f"no GPU ({platform.machine()} CPU)",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "python": platform.python_version(), "torch": torch.__version__, **versions,
    }  # fmt: skip


def _version(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def matrix_rates(work: Work, options: argparse.Namespace) -> dict[str, float]:
    """TFLOP/s of a large square product and of the model's own frozen products, on random data.

    Args:
        work: The step.
        options: The command line.
    """
    side = options.square
    shapes: dict[str, tuple[int, int, int]] = {"square": (side, side, side)}
    for name, (m, d) in linear_sizes(work.shape).items():
        shapes[f"{name} forward"] = (work.tokens, d, m)
        shapes[f"{name} backward"] = (work.tokens, m, d)
    head = min(work.devices * work.batch * work.scored, 4096)
    shapes["head forward"] = (head, work.shape.hidden_size, work.shape.vocab_size)
    rates = {name: _product_rate(work, *sizes) for name, sizes in shapes.items()}
    # Asked twice, the better one counts: the first comes before the clocks are up.
    rates["square"] = max(rates["square"], _product_rate(work, *shapes["square"]))
    return rates


def _product_rate(work: Work, rows: int, inner: int, columns: int) -> float:
    generator = torch.Generator(work.device).manual_seed(0)
    x, y = (
        torch.empty(s, dtype=work.dtype, device=work.device).normal_(0, 1, generator=generator)
        for s in ((rows, inner), (inner, columns))
    )
    out = torch.empty(rows, columns, dtype=work.dtype, device=work.device)
    calls = 10

    def many() -> None:
        for _ in range(calls):
            torch.mm(x, y, out=out)

    cuda = work.device.startswith("cuda")
    seconds = timed(many, work.device, warm=10 if cuda else 1, repeats=7 if cuda else 3)
    return 2e-12 * rows * inner * columns * calls / statistics.median(seconds)


def measure(
    work: Work, weights: Mapping[str, torch.Tensor], options: argparse.Namespace, square_tflops: float,
    *, trains_a: bool,
) -> dict[str, Any]:  # fmt: skip
    """Both sides with the same factors trained.

    Args:
        work: The step.
        weights: The base's, by name; both sides use them.
        options: The command line.
        square_tflops: The matrix rate to compare with.
        trains_a: Whether A is trained beside B.
    """
    parts = step_operations(work, trains_a=trains_a)
    _reset_peak(work)
    ours = Batched(work, _base_of(work, weights), trains_a=trains_a, compile=options.compile)
    factors = [ours.factors(k) for k in range(work.devices)]
    first_losses = ours.step().tolist()
    seconds = timed(ours.step, work.device, warm=options.warm, repeats=options.steps)
    step_s = statistics.median(seconds)
    done = sum(parts.values()) / step_s * 1e-12
    found: dict[str, Any] = {
        "trains": "ab" if trains_a else "b", "operations": dict(parts), "step_s": step_s, "all_step_s": seconds,
        "tflops": done, "share_of_square": done / square_tflops, "tokens_per_s": work.tokens / step_s,
        "device_steps_per_s": work.devices / step_s, "peak_bytes": _peak(work), "first_losses": first_losses,
    }  # fmt: skip
    if options.profile:
        found["profile_s"] = profile(ours, work)
    _print_ours(found)
    del ours
    _reset_peak(work)
    if options.peft:
        found["peft"] = _measure_peft(work, weights, factors, options, trains_a=trains_a)
        best = min(p["step_s"] for p in found["peft"].values())
        found["times_peft"] = best / step_s
    _print_peft(found)
    return found


def _base_of(work: Work, weights: Mapping[str, torch.Tensor]) -> Any:
    """A model over the weights; one side's changes to it are not the next one's."""
    from dfl_ray.models.llama import empty_decoder

    model = empty_decoder(work.shape)
    for name, tensor in weights.items():
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, torch.nn.Parameter(tensor, requires_grad=False))
    model.lm_head.weight = model.model.embed_tokens.weight
    frequencies = work.shape.inverse_frequencies().to(work.device)
    model.register_buffer("frequencies", frequencies, persistent=False)
    return model.eval().requires_grad_(False)


def _measure_peft(
    work: Work,
    weights: Mapping[str, torch.Tensor],
    factors: Any,
    options: argparse.Namespace,
    *,
    trains_a: bool,
) -> dict[str, Any]:
    """PEFT in every manner worth timing; with one adapter module only the first device's loss is comparable."""
    found: dict[str, Any] = {}
    for manner in manners(work, trains_a=trains_a):
        _reset_peak(work)
        side = InTurn(work, weights, factors, manner, trains_a=trains_a)
        losses = [float(x) for x in side.all_devices()]
        seconds = timed(side.all_devices, work.device, warm=1, repeats=options.passes)
        found[manner.name] = {
            "step_s": statistics.median(seconds), "all_step_s": seconds, "peak_bytes": _peak(work),
            "first_losses": losses if manner.switched else losses[:1],
        }  # fmt: skip
        del side
    _reset_peak(work)
    return found


def profile(ours: Batched, work: Work) -> dict[str, float]:
    """Seconds of one step by kind of kernel (on a CPU: of operator), the twelve longest by name behind them."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as record

    cuda = work.device.startswith("cuda")
    with record(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
        ours.step()
        wait(work.device)
    field = "self_device_time_total" if cuda else "self_cpu_time_total"
    times = {e.key: float(getattr(e, field)) * 1e-6 for e in seen.key_averages()}
    if cuda:
        # A host operator is given its kernels' time too; kernels are counted once, under their own names.
        times = {
            k: t for k, t in times.items() if not k.startswith(("aten::", "cuda", "Command", "Activity"))
        }
    kinds = {"products": ("gemm", "nvjet", "cutlass", "xmma", "aten::mm", "addmm", "bmm"),
             "attention": ("flash", "fmha", "sdp", "attention", "cudnn"), "compiled passes": ("triton",)}  # fmt: skip
    out = dict.fromkeys([*kinds, "other"], 0.0)
    for key, seconds in times.items():
        low = key.lower()
        order = ("attention", "products", "compiled passes")
        kind = next((k for k in order if any(word in low for word in kinds[k])), "other")
        out[kind] += seconds
    longest = sorted(times.items(), key=lambda pair: -pair[1])[:12]
    return out | {key[:80]: seconds for key, seconds in longest}


def _reset_peak(work: Work) -> None:
    gc.collect()
    if work.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak(work: Work) -> int | None:
    return torch.cuda.max_memory_allocated() if work.device.startswith("cuda") else None


def _say(text: str) -> None:
    print(text, flush=True)


def _print_rates(rates: dict[str, float]) -> None:
    _say(f"\n{'product':<20}{'TFLOP/s':>10}")
    for name, rate in rates.items():
        _say(f"{name:<20}{rate:>10.4g}")


def _print_ours(found: dict[str, Any]) -> None:
    what = "A and B trained" if found["trains"] == "ab" else "only B trained"
    counted = ", ".join(f"{n} {v * 1e-12:.4g}" for n, v in found["operations"].items())
    _say(f"\n{what}: {counted} (x 10^12 operations a step)")
    answer_key = "reached" if found["share_of_square"] >= WANTED_SHARE else "missed"
    _say(f"  batched      {found['step_s']:.4g} s a step, {found['tokens_per_s']:.4g} tokens/s, "
         f"{found['tflops']:.4g} TFLOP/s = {found['share_of_square']:.1%} of the square product's "
         f"(50 % {answer_key}), loss {found['first_losses'][0]:.4f}{_memory(found)}")  # fmt: skip
    for name, seconds in found.get("profile_s", {}).items():
        _say(f"    {name:<82}{seconds * 1e3:>10.3f} ms")


def _print_peft(found: dict[str, Any]) -> None:
    for name, side in found.get("peft", {}).items():
        _say(
            f"  PEFT in turn {side['step_s']:.4g} s, {name}, loss {side['first_losses'][0]:.4f}{_memory(side)}"
        )
    if "times_peft" in found:
        answer_key = "reached" if found["times_peft"] >= WANTED_RATIO else "missed"
        _say(f"  {found['times_peft']:.2f} times the fastest PEFT (3 {answer_key})")


def _memory(found: dict[str, Any]) -> str:
    return "" if found["peak_bytes"] is None else f", {found['peak_bytes'] / 2**30:.1f} GiB at the peak"


if __name__ == "__main__":
    main()
