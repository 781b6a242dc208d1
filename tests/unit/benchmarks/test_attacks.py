"""The table of attacks: every cell is a configuration that is taken or refused by name, and is what was measured."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pandas as pd
import pytest

from benchmarks import attacks
from dfl_ray.config.load import load_config
from dfl_ray.devices.faulty import drawn_faults
from dfl_ray.errors import InputError

REFUSED = {
    ("flexlora", "sign_flip"), ("flexlora", "scaled_noise"), ("flexlora", "sign_flip, balance"),
    ("flexlora", "DP-SGD"), ("sparse_orthogonal", "DP-SGD"),
}  # fmt: skip


@pytest.mark.parametrize("method", attacks.METHODS)
def test_each_cell_is_a_configuration_or_is_refused_by_name(method, tmp_path, capsys):
    for column, more in attacks.columns().items():
        words = [f"method={method}", *more]
        if (method, column) in REFUSED:
            with pytest.raises(InputError):
                load_config(None, [*attacks.SETTING, *words])
            assert attacks.measure(words, tmp_path, False) is None, "nothing is trained"
            assert method in capsys.readouterr().err
            continue
        config = load_config(None, [*attacks.SETTING, *words])
        attacked = column not in ("clean", "DP-SGD")
        assert config.devices.faults.share == (attacks.SHARE if attacked else 0)
        assert not attacked or config.devices.faults.kind == column.split(",")[0]
        assert (config.privacy.mechanism == "examples") == (column == "DP-SGD")
    assert not list(tmp_path.iterdir())


def test_a_cell_says_accuracy_and_what_a_backdoor_reached():
    assert attacks.cell(None) == "refused"
    assert attacks.cell({"accuracy": 0.4321}) == "43.2"
    assert attacks.cell({"accuracy": 0.5, "success": 0.581}) == "50.0 (success 58)"


@pytest.mark.parametrize("column", ["clean", "backdoor", "DP-SGD"])
def test_the_same_devices_count_in_every_column_and_only_at_the_end(column, monkeypatch, tmp_path):
    made = []

    def launch(config, json):
        made.append(config)
        return SimpleNamespace(folder=tmp_path)

    rows = [(r, rule, d, 0.1 * d + r) for r in (3, 6) for rule in ("single", "other") for d in range(10)]
    table = pd.DataFrame(rows, columns=["round", "rule", "device", "accuracy"])
    table.loc[table["rule"] == "other", "accuracy"] = -9
    info = {"faults": {"attack_success": {"3": 0.1, "6": 0.7}}} if column == "backdoor" else {}
    monkeypatch.setattr(attacks, "launch", launch)
    monkeypatch.setattr(attacks, "load_run", lambda _: SimpleNamespace(evaluation=table, info=info))
    found = attacks.measure(["method=dlora", "seed=5", *attacks.columns()[column]], tmp_path, False)
    words = [*attacks.SETTING, "method=dlora", "seed=5", *attacks.columns()["silent"]]
    faulty = drawn_faults(load_config(None, words)).devices
    assert len(faulty) == 2 and len(made) == 1
    honest = [0.1 * d + 6 for d in range(10) if d not in faulty]
    assert found is not None and found["accuracy"] == pytest.approx(sum(honest) / 8)
    assert found.get("success") == (0.7 if column == "backdoor" else None)


@pytest.fixture
def measured(monkeypatch):
    """Replaces training: accuracy tells which words were given; `ffa` is refused under DP."""
    asked = []

    def measure(words, runs, probe):
        asked.append((tuple(words), probe))
        if "method=ffa" in words and "privacy.mechanism=examples" in words:
            return None
        probes = dict.fromkeys(attacks.PROBES, 0.75) if probe else {}
        return {"accuracy": len(words) / 10, **probes}

    monkeypatch.setattr(attacks, "measure", measure)
    return asked


def test_all_columns_are_measured_for_all_methods_with_the_same_seed(measured, capsys):
    result = attacks.main(["--methods", "dlora,ffa", "--seed", "3", "--json", "rounds=2"])
    assert len(measured) == 2 * len(attacks.columns())
    assert all({"seed=3", "rounds=2"} <= set(words) for words, _ in measured)
    assert [probe for _, probe in measured].count(True) == 2, "only clean adapters are attacked"
    assert result["found"]["ffa"]["DP-SGD"] is None
    out = capsys.readouterr().out
    assert "| dlora | 30.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 60.0 | 50.0 |" in out
    assert "| ffa | 30.0 | 50.0 | 50.0 | 50.0 | 50.0 | 50.0 | 60.0 | refused |" in out
    assert "| dlora | 0.75 | 0.75 | 0.75 | 0.75 | 0.75 |" in out
    assert json.loads(out.splitlines()[-1])["found"]["dlora"]["clean"]["accuracy"] == 0.3


def test_one_column_alone_has_no_probes(measured, capsys):
    attacks.main(["--methods", "dlora,ffa", "--column", "DP-SGD"])
    out = capsys.readouterr().out
    assert len(measured) == 2 and "DP-SGD" in out and "membership_auc" not in out
    with pytest.raises(SystemExit):
        attacks.main(["--column", "meteor"])
