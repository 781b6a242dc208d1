"""Planning a round without a model: its bytes equal those of the real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfl_ray.cli import main
from dfl_ray.config.load import load_config
from dfl_ray.lora.targets import choose_layers
from dfl_ray.models.paths import embedded_path
from dfl_ray.models.shapes import all_linear_layers, read_headers
from dfl_ray.simulation.estimate import plan


def test_shapes_equal_the_loaded_models(base):
    from dfl_ray.lora.inject import find_targets
    from dfl_ray.models.build import build_model

    found, parameters = all_linear_layers(read_headers(embedded_path()))
    layers = choose_layers(found, "all-linear")
    model = build_model(base)
    assert set(layers) == set(find_targets(model, "all-linear"))
    assert parameters == sum(p.numel() for p in model.parameters())
    some = choose_layers(found, ["q_proj", "down_proj"])
    assert {s.name.rsplit(".", 1)[-1] for s in some} == {"q_proj", "down_proj"}


def test_a_round_takes_as_long_as_those_who_train_in_it():
    found = {
        method: plan(load_config(None, [f"method={method}", "devices.count=20", "rounds=4"]))
        for method in ("dlora", "fedavg_star", "random_walk")
    }
    whole, server, walk = (found[m]["expected_round_wall_s"] for m in found)
    joules = [figures["run"]["compute_energy_j"] for figures in found.values()]
    assert server / whole == pytest.approx(joules[1] / joules[0], rel=0.02) == pytest.approx(0.5, rel=0.02)
    assert walk / whole == pytest.approx(joules[2] / joules[0], rel=0.3) and walk < whole / 10


def test_plan_loads_no_model_and_prints_json(capsys):
    assert main(["plan", "devices.count=40", "rounds=11", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert (figures["devices"], figures["rounds"], figures["planned_rounds"]) == (40, 11, 11)
    run, one = figures["run"], figures["typical_round"]
    assert 0 < one["payload_bytes"] < run["payload_bytes"]
    assert 0 < one["delivered_fraction"] <= 1
    assert one["latency_s_p50"] <= one["latency_s_p95"] <= one["latency_s_p99"] <= one["round_s"]
    assert run["energy_j"] == pytest.approx(run["radio_energy_j"] + run["compute_energy_j"])
    assert figures["start_up"]["total_s"] == pytest.approx(
        sum(v for k, v in figures["start_up"].items() if k != "total_s")
    )
    assert figures["memory"]["peak_mb"] > figures["memory"]["actor_mb"]
    whole, rows = 40 * figures["start_up"]["base_evaluation_s"], load_config(None, []).evaluate.rows_per_task
    assert rows and figures["evaluation_s"] == pytest.approx(whole / figures["cpus"]) and whole > 0


def test_a_plan_in_words_tells_the_whole_run(capsys):
    assert main(["plan", "devices.count=12", "rounds=3", "method=local"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line[:27].strip(): line[27:].strip() for line in lines if len(line) > 27}
    assert told["bytes on air, whole run"] == "0 B"
    assert told["rounds planned"] == "3 of 3"
    assert told["evaluation here"].startswith("at most ") and "sketches" not in told["evaluation here"]


@pytest.mark.parametrize("devices", [20, 200])
def test_plan_grows_with_devices(devices):
    figures = plan(load_config(None, [f"devices.count={devices}", "devices.area_m=[900,900]", "rounds=2"]))
    assert figures["devices"] == devices
    assert figures["links"] >= devices - 1
    assert figures["actors"] <= max(16, 4 * figures["cpus"], figures["cpus"]) or devices <= 16


def test_too_few_rows_for_the_holders_are_told_not_refused():
    figures = plan(load_config(None, ["devices.count=30", "tasks.train_rows=5", "rounds=1"]))
    assert any("mean row lengths" in note for note in figures["notes"])


def test_a_plan_tells_what_a_run_tells(tmp_path):
    """Rows, scores, texts, model, layers, GPU: the sentences of a run's set-up, in its order."""
    from shutil import copytree

    from dfl_ray.simulation.dry_run import outline
    from dfl_ray.simulation.experiment import build_experiment

    folder, task = tmp_path / "model", tmp_path / "tasks" / "t"
    copytree(embedded_path(), folder)
    described = json.loads((folder / "config.json").read_text())
    layers = described["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(described | {"num_hidden_layers": layers - 1}))
    (folder / "adapter_config.json").write_text("{}")
    task.mkdir(parents=True)
    for split, labels in (("train", "ab"), ("test", "abc")):
        rows = [
            {"prompt": f"{split} {n} " + "ball team goal coach race " * 5, "answer": labels[n % len(labels)]}
            for n in range(12)
        ]
        (task / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    config = load_config(None, [
        f"model.name={folder}", f"tasks.path={task.parent}", "tasks.source=files", "runtime.backend=local",
        "runtime.gpus_per_actor=1", "model.target_modules=[q_proj,c_attn]", "model.max_tokens=20", "devices.count=3",
        "devices.partition.tasks_per_device=1", "devices.area_m=[30,30]", "rounds=1", "method=dlora",
    ])  # fmt: skip
    notes = build_experiment(config).notes
    assert outline(config).notes == notes
    for words in ("scored by label likelihood", "no training row has", "lose their head", "are not used",
                  "holds an adapter", "c_attn matches no", "gpus_per_actor"):  # fmt: skip
        assert any(words in note for note in notes), words
    assert plan(config)["notes"] == list(notes)


def test_a_plan_of_empty_batteries_says_so(capsys):
    assert main(["plan", "devices.battery_j=1e-6", "rounds=3"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "after round 1 of" in told and "empty batteries" in told


def test_windows_train_on_the_tokens_of_the_local_rounds_that_end_in_them():
    from channels.energy import compute_cost
    from dfl_ray.simulation.dry_run import dry_run

    config = load_config("stragglers", ["rounds=6"])
    found = dry_run(config)
    run, steps = found.outline, config.method.local_steps
    classes = run.deployment.channel.classes
    for done in found.played.values():
        (report,) = done.trained
        ended = set(done.ended.devices.tolist())
        assert set(report.devices[report.tokens > 0].tolist()) == ended
        cost = compute_cost(classes, report.tokens * run.flops_per_token, steps)
        assert cost.energy_j[sorted(ended)] == pytest.approx(done.cost.energy_j[sorted(ended)])
    assert found.tokens_a_round > 0 and plan(config)["expected_round_wall_s"] > 0


def test_rows_of_hub_data_are_no_longer_than_a_row_may_be():
    short, usual = (
        plan(load_config("paper-qwen2.5-1.5b", ["rounds=1", f"model.max_tokens={most}"]))
        for most in (64, 512)
    )
    for notes, tokens in ((short["notes"], 64), (usual["notes"], 256)):
        assert any(note.startswith(f"rows are taken to have {tokens} tokens") for note in notes)
    for few, many in zip(short["on_gpus"], usual["on_gpus"], strict=True):
        for key in ("round_s", "evaluation_s"):
            assert many[key] == pytest.approx(4 * few[key])


def test_a_base_in_4_bits_is_planned_without_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "paper-qwen2.5-7b"
    few, full = (
        plan(load_config(name, ["rounds=1", f"model.load_in_4bit={four_bit}"]))
        for four_bit in ("true", "false")
    )
    assert few["memory"]["base_mb"] < 0.5 * full["memory"]["base_mb"]
    assert few["run"] == full["run"] and few["on_gpus"][0]["round_s"] == full["on_gpus"][0]["round_s"]


def test_a_base_in_4_bits_has_the_sizes_of_its_own_file(tmp_path):
    from dfl_ray.simulation.planned_model import planned_model

    described = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072,
        "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 151936,
        "head_dim": 128, "hidden_act": "silu", "tie_word_embeddings": True, "rms_norm_eps": 1e-6,
        "max_position_embeddings": 40960,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(described))
    config = load_config(None, ["model.load_in_4bit=true"])
    own, shipped = (planned_model(config, folder, ()) for folder in (tmp_path, Path("Qwen/Qwen3-0.6B")))
    assert own.foreign == shipped.foreign is not None and own.shape is shipped.shape is None
    assert own.layers == shipped.layers and own.parameters == shipped.parameters
