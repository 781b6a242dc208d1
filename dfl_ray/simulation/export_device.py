"""`dfl-ray export`: one device's model of a run as folders that PEFT and `transformers` read.

A method with an expert a task gives one adapter that the rule `filter` makes of all experts the device holds (rank
T·r); others give the device's own adapter. Each folder is loaded with PEFT and compared with the simulator's logits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from dfl_ray.config.schema import Config
from dfl_ray.devices.group import DeviceGroup
from dfl_ray.engines.peft_check import verify_folder
from dfl_ray.errors import InputError
from dfl_ray.evaluation.scorer import Adapter
from dfl_ray.methods.spec import method_spec
from dfl_ray.models.merged import find_converter, merged_model, save_model, write_gguf
from dfl_ray.models.peft_folder import write_peft_folder
from dfl_ray.network.movement import Movement
from dfl_ray.records import Run, load_run
from dfl_ray.simulation.experiment import Step, build_experiment, model_path
from dfl_ray.simulation.export import base_reference
from dfl_ray.simulation.fingerprint import fingerprint, refuse_changed_inputs
from dfl_ray.simulation.lengthen import resumed_config
from dfl_ray.simulation.model_card import LOADER, accuracies_at, model_card
from dfl_ray.simulation.resuming import newest_state

if TYPE_CHECKING:
    import pandas as pd

    from dfl_ray.simulation.experiment import Experiment


@dataclass(frozen=True)
class SavedRun:
    """A run with its newest saved state in one group of devices.

    Attributes:
        records: The run's records, as they were when it was opened.
        experiment: The run.
        group: All its devices, as they were saved.
        round_index: The round they were saved after.
    """

    records: Run
    experiment: Experiment
    group: DeviceGroup
    round_index: int

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.experiment.config

    @cached_property
    def accuracies(self) -> pd.DataFrame:
        """What was measured of this state, all devices: read once, however many are exported."""
        return accuracies_at(self.records, self.round_index)


def open_saved(
    path: Path, overrides: Sequence[str] = (), step: Step = lambda _name: nullcontext()
) -> SavedRun:
    """Take up the newest saved state of a run in this process, on the graph and with the devices of then.

    Args:
        path: The run folder.
        overrides: Texts `a.b=c` of keys that a resume may change (`resumed_config`).
        step: Shows a step while it runs.

    Returns:
        The run with its devices.

    Raises:
        InputError: Nothing is saved, a key cannot be changed, or the run's data or model are gone or others than they
            were.
    """
    config, saved = newest_state(path)
    config = resumed_config(config, overrides, str(path / "config.yaml"), saved.round_index)
    experiment, run = build_experiment(config, step), load_run(path)
    refuse_changed_inputs(path, run.info, fingerprint(experiment), goes_on=False)
    setup = experiment.setup
    group = DeviceGroup(setup, sorted(setup.held))
    movement = Movement.of(config, experiment.channel, experiment.topology, setup.graph, experiment.sketches)
    if movement is not None:
        movement.restore(saved.state.channel)
        group.rewire(movement.graph)
    group.restore(saved.state.devices.of(group.devices))
    group.absent = frozenset(_out(run, saved.round_index))
    return SavedRun(run, experiment, group, saved.round_index)


def _out(run: Run, round_index: int) -> list[int]:
    """Devices that took no part in a round: without energy since an earlier one, or off when it began."""
    rows = run.table(
        "devices", columns=["round", "device", "alive", "on"], rounds=(round_index - 1, round_index)
    )
    now = rows["round"] == round_index
    return sorted(
        {*rows["device"][~now & rows["alive"].eq(False)], *rows["device"][now & rows["on"].eq(False)]}
    )


def export_device(
    run: SavedRun,
    device: int,
    out: Path,
    *,
    experts: bool = False,
    merged: bool = False,
    gguf: str | None = None,
) -> Path:
    """Write one device's model.

    Args:
        run: The run.
        device: The device.
        out: Folder to make.
        experts: One adapter folder a task inside `out`, with routing statistics and a loader, instead of one for all.
        merged: A plain model folder with the adapter added to the base's weights, instead of an adapter.
        gguf: llama.cpp's converter: write `model.gguf` with it, of that model folder.

    Returns:
        `out`.

    Raises:
        InputError: No such device, `out` holds something or is no folder, there are no experts, no converter, or PEFT
            computes something else.
    """
    setup = run.experiment.setup
    if device not in setup.held:
        raise InputError(
            f"The run has no device {device}",
            expected=f"0 to {len(setup.held) - 1}",
            change="Change --device.",
        )
    check_out(out)
    converter = find_converter(gguf) if gguf else None
    whole, parts = run.group.answers(device)
    if experts:
        if not method_spec(run.config.method).per_task:
            raise InputError(f"`{run.config.method.name}` has no experts", change="Leave --experts out.")
        _write_experts(run, device, parts, out)
    elif converter is not None:
        _write_gguf(run, whole, out, converter)
    elif merged:
        _write_merged(run, whole, out)
    else:
        _write_adapter(run, whole, out)
    held = [setup.tasks[t].name for t in setup.held[device]]
    text = model_card(
        run.records, device, held, run.round_index, run.accuracies,
        merged=merged or bool(gguf), experts=experts,
    )  # fmt: skip
    (out / "README.md").write_text(text, encoding="utf-8")
    return out


def check_out(out: Path) -> None:
    """Refuse a place for a model that holds something.

    Args:
        out: Folder to make.

    Raises:
        InputError: It is a file, or a folder with something in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"{out} exists and is {'not empty' if out.is_dir() else 'no folder'}",
            expected="a new or empty folder",
            change="Give another one.",
        )


def _write_adapter(run: SavedRun, adapter: Adapter, folder: Path) -> None:
    layers, method = run.experiment.setup.layers, run.config.method
    write_peft_folder(
        folder,
        layers,
        [a.float().cpu().numpy() for a in adapter.a],
        [b.float().cpu().numpy() for b in adapter.b],
        scale=method.alpha / method.rank,
        base_model=base_reference(run.config),
        head=run.experiment.setup.weights.head,
    )
    verify_folder(run.experiment.setup.weights, run.group.model, layers, folder)


def _write_experts(run: SavedRun, device: int, parts: Mapping[int, Adapter | None], out: Path) -> None:
    """One folder a task, the device's sketches of all tasks for routing, and a loader."""
    import numpy as np
    from safetensors.numpy import save_file

    setup = run.experiment.setup
    for task, adapter in parts.items():
        if adapter is not None:
            _write_adapter(run, adapter, out / setup.tasks[task].name)
    known = run.group.method.sketches(run.group.devices[device])
    if known is not None:
        _, decoded = known
        arrays = {"correlations": np.ascontiguousarray(decoded().astype(np.float32))}
        names = {"tasks": ",".join(t.name for t in setup.tasks)}
        save_file(arrays, out / "routing.safetensors", metadata=names)
    (out / "load.py").write_text(LOADER, encoding="utf-8")


def _write_merged(run: SavedRun, adapter: Adapter, out: Path) -> None:
    """A plain model folder with the base's tokenizer files."""
    method, setup = run.config.method, run.experiment.setup
    scale = method.alpha / method.rank
    model = merged_model(setup.weights, setup.layers, adapter.a, adapter.b, scale)
    save_model(model, Path(model_path(run.config)), out)


def _write_gguf(run: SavedRun, adapter: Adapter, out: Path, converter: Path) -> None:
    """`model.gguf`, made of the plain model folder."""
    with TemporaryDirectory() as folder:
        _write_merged(run, adapter, Path(folder))
        out.mkdir(parents=True, exist_ok=True)
        write_gguf(converter, Path(folder), out / "model.gguf")
