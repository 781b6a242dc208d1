"""`dfl-ray methods`, docs/methods.md, and settings that hold for all methods."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dfl_ray.cli import main
from dfl_ray.cli.methods import words_for
from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError
from dfl_ray.lora.layout import LayerShape
from dfl_ray.lora.optimizer import StepSize, proximal_
from dfl_ray.methods.notes import CHOCO_STEP_PER_SHARE, density_notes, method_notes
from dfl_ray.methods.page import about, methods_page
from dfl_ray.methods.table import METHODS
from dfl_ray.simulation.dry_run import dry_run
from dfl_ray.simulation.experiment import build_experiment
from dfl_ray.simulation.method_bytes import bytes_of_methods
from tests.conftest import SMALL_RUN, small_config

ROOT = Path(__file__).resolve().parents[4]


def test_the_page_is_what_the_methods_say():
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == methods_page(), (
        "run: dfl-ray methods --page > docs/methods.md"
    )


def test_every_method_is_said_in_words():
    for name in METHODS.own:
        a = about(name)
        assert a.line and a.source and a.trained and a.sent and a.mixed, name
    assert about("dlora").sent == "A, B"


def test_the_bytes_are_those_that_a_plan_asks_for(tmp_path):
    config = small_config(tmp_path, "method=choco", "method.keep_share=0.2", "devices.count=5")
    found = dry_run(config)
    asked = sum(int(p.hops.transfers.payload_bytes.sum()) for p in found.played.values()) / config.rounds
    ours = {m.name: m.round_bytes for m in bytes_of_methods(config, {"choco": config.method})}
    # The plan's radio loses nothing in the first round; later ones repeat whole copies for what was lost.
    lost = any(not p.arrived.all() for p in found.played.values())
    assert ours["choco"] == pytest.approx(asked, rel=0.3 if lost else 1e-12)


def test_the_command_lists_every_method_with_its_bytes(capsys):
    from dfl_ray.cli.parser import parse_words

    words = ["methods", *SMALL_RUN, "method.rank=4", "method.density=0.5", "--json"]
    command, options = parse_words(words)
    assert command.execute(options) == 0
    rows = {r["method"]: r for r in json.loads(capsys.readouterr().out.splitlines()[-1])["methods"]}
    assert list(rows) == list(METHODS)
    sent = {name: r["bytes_a_round"] for name, r in rows.items()}
    assert sent["local"] == sent["centralized"] == 0
    assert sent["dec_lora"] == sent["dlora"] == sent["fedex"] > sent["rolora"] > sent["choco"] > 0
    assert sent["gradient_tracking"] == pytest.approx(2 * sent["dlora"], rel=0.01)
    assert 0 <= sent["random_walk"] < sent["dlora"] / 4
    assert sent["flasc"] < sent["fedavg_star"] / 2


def test_an_impossible_layout_is_said_beside_its_method(tmp_path):
    config = small_config(tmp_path, "method=dlora", "method.rank=64", "devices.count=5")
    sections = {
        m: load_config(None, [f"method={m}", "method.rank=64"]).method for m in ("dlora", "sparse_orthogonal")
    }
    plain, ours = bytes_of_methods(config, sections)
    assert plain.round_bytes and ours.round_bytes is None
    assert "method.rank" in ours.problem


def test_a_method_that_the_configuration_is_not_for_says_so_and_the_others_their_bytes(capsys):
    assert main(["methods", *SMALL_RUN, "method.rank=4", "schedule=async", "--json"]) == 0
    rows = {r["method"]: r for r in json.loads(capsys.readouterr().out.splitlines()[-1])["methods"]}
    assert list(rows) == list(METHODS)
    assert (
        rows["rolora"]["bytes_a_round"] is None and "not for the method `rolora`" in rows["rolora"]["problem"]
    )
    assert rows["dlora"]["bytes_a_round"] > 0 and rows["dlora"]["problem"] == ""
    assert all((r["bytes_a_round"] is None) == bool(r["problem"]) for r in rows.values())


def test_shared_keys_go_to_every_method_and_others_do_not():
    given = ["rounds=3", "method=dlora", "method.rank=4", "method.aggregation=median"]
    assert words_for("fedex", given) == ["rounds=3", "method.rank=4", "method=fedex"]
    assert "method.aggregation=median" in words_for("ffa", given)


def test_the_proximal_term_is_the_gradient_of_half_mu_squared_distance():
    x = torch.tensor([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)
    start = torch.tensor([[0.0, 1.0], [0.5, -1.0]])
    (expected,) = torch.autograd.grad(0.3 / 2 * ((x - start) ** 2).sum(), x)
    gradient = torch.ones(2, 2)
    proximal_(gradient, x.detach(), start, StepSize(0.1, 0.0, 1.0, 0.3))
    torch.testing.assert_close(gradient - 1, expected)
    proximal_(gradient, x.detach(), None, StepSize(0.1, 0.0, 1.0))
    torch.testing.assert_close(gradient - 1, expected)


def test_fedprox_keeps_local_steps_near_their_start(adapted, token_tasks):
    """Without gradient clipping in the way a large mu holds the adapter where it began."""
    from dfl_ray.engines.training import LocalWork, train_adapters
    from dfl_ray.lora.layout import Layout
    from dfl_ray.lora.optimizer import AdapterState

    layout = Layout(adapted.layers, 2, ("a", "b"))
    rows = [(token_tasks[0].train, i) for i in range(4)]
    moved = []
    for mu in (0.0, 100.0):
        state = AdapterState.from_theta(adapted.theta(layout, 1))
        start = state.theta.clone()
        size = StepSize(1e-3, 0.0, 1e6, mu)
        train_adapters(adapted.model, layout, state, [LocalWork([rows] * 6)], size=size, scale=2.0)
        moved.append(float((state.theta - start).norm()))
    assert moved[1] < 0.7 * moved[0]


@pytest.mark.parametrize("fresh", [True, False])
def test_a_fresh_optimiser_begins_after_every_exchange(tmp_path, fresh):
    from dfl_ray.devices.group import DeviceGroup
    from dfl_ray.network.traffic import TransferOutcomes
    from dfl_ray.simulation.experiment import build_experiment

    words = ("method=rolora", "method.exchange_every=2", f"method.fresh_optimizer={str(fresh).lower()}")
    setup = build_experiment(small_config(tmp_path, *words, "method.local_steps=1")).setup
    group = DeviceGroup(setup, sorted(setup.held))
    steps = []
    for r in (1, 2, 3, 4, 5):
        report, _ = group.train(r)
        group.exchange(r, TransferOutcomes(report.requests, np.ones(len(report.requests), bool)))
        steps.append(int(group.state.steps.max()))
        assert bool(group.state.exp_avg.any()) == (steps[-1] > 0)
    # B has the first two rounds, A the next two: a factor's moments go on where they were when it was last trained.
    assert steps == ([1, 0, 1, 0, 1] if fresh else [1, 2, 1, 2, 3])


def test_choco_holds_together_where_no_warning_is_given_and_diverges_above():
    """Pure averaging of noise that keeps coming, on a ring of ten, in plain numpy."""
    ring = np.eye(10) / 3 + (np.roll(np.eye(10), 1, axis=0) + np.roll(np.eye(10), -1, axis=0)) / 3

    def spread(step, share, size=300):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(10, size))
        public, kept = np.zeros_like(x), int(share * size)
        for _ in range(150):
            x = x + 0.05 * rng.normal(size=x.shape)
            order = np.argsort(-np.abs(x - public), axis=1)[:, :kept]
            moved = np.take_along_axis(x, order, axis=1)
            np.put_along_axis(public, order, moved, axis=1)
            x = x + step * (ring @ public - public)
        return np.abs(x - x.mean(axis=0)).max()

    assert spread(CHOCO_STEP_PER_SHARE * 0.1, 0.1) < 1
    assert spread(0.6, 0.1) > 2
    assert spread(CHOCO_STEP_PER_SHARE * 0.2, 0.2) < 1


def test_settings_that_are_odd_are_told_and_a_server_that_is_no_device_is_refused():
    assert method_notes(load_config(None, ["method=choco"])) == ()
    (told,) = method_notes(load_config(None, ["method=choco", "method.consensus_step=0.8"]))
    assert "diverge" in told
    assert (
        method_notes(
            load_config(None, ["method=choco", "method.consensus_step=0.8", "method.keep_share=0.5"])
        )
        == ()
    )
    (told,) = method_notes(load_config(None, ["method=fedavg_star", "rounds=7"]))
    assert "cycles of 2 rounds" in told
    for rule, why in (("oracle", "which task"), ("filter_full", "no device has received")):
        (told,) = method_notes(load_config(None, [f"method.rule={rule}"]))
        assert f"`method.rule` {rule} is a reference" in told and why in told
    assert all(
        method_notes(load_config(None, [f"method.rule={r}"])) == () for r in ("filter", "likelihood_soft")
    )
    with pytest.raises(InputError, match=r"`method.server` is no device of the run"):
        load_config(None, ["method=fedavg_star", "method.server=10"])
    assert np.isfinite(load_config(None, ["method=flasc"]).method.upload_share)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), ""),
        (("method.density=0.02",), "less than one entry of B in 1 of 2 layers"),
        (("method.density=0.02", "method.mask=row"), "less than one row of B in 2 of 2 layers"),
        (("method.density=0.01", "method.budget=global"), "in 2 of 2 layers"),
        (("method.density=0.02", "method.budget=global"), ""),
    ],
)
def test_a_density_below_one_entry_of_a_layer_is_told(words, said):
    layers = (LayerShape("a", 5, 6), LayerShape("b", 20, 8))
    told = density_notes(load_config(None, ["method.rank=4", *words]).method, layers)
    assert (len(told), said in " ".join(told)) == (bool(said), True)
    assert density_notes(load_config(None, ["method=dlora"]).method, layers) == ()


def test_a_run_and_its_plan_tell_such_a_density(tmp_path):
    config = small_config(tmp_path, "method.density=1e-5")
    for notes in (build_experiment(config).notes, dry_run(config).notes):
        assert sum("less than one entry of B" in note for note in notes) == 1
