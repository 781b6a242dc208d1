"""Sources, overrides and the way back to YAML."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from dfl_ray.config.check import check_inputs
from dfl_ray.config.describe import describe
from dfl_ray.config.fields import keys
from dfl_ray.config.load import from_data, load_config, resolved_yaml
from dfl_ray.config.locations import with_absolute_paths
from dfl_ray.config.overrides import apply_overrides, parse_override
from dfl_ray.config.presets import preset_names, preset_summary
from dfl_ray.config.schema import Config
from dfl_ray.config.yamlio import parse
from dfl_ray.errors import InputError

PRESETS = (
    "default", "fedsa-glue", "flowertune", "glue-dfl", "hub-text", "indoor", "mmwave-indoor", "nr-sidelink",
    "openfedllm", "paper-qwen2.5-1.5b", "paper-qwen2.5-7b", "radio-100k", "real-text", "scale-100k", "scale-10k",
    "scale-1k", "skew-features", "skew-labels", "skew-one-task", "skew-quantity", "skew-shards", "skew-tasks",
    "smollm2", "stragglers", "umi-2ghz", "umi-28ghz", "umi-3.5ghz", "umi-5.9ghz", "v2x-highway", "wifi-direct",
)  # fmt: skip


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_shipped_presets_are_these() -> None:
    assert set(preset_names()) == set(PRESETS)
    assert preset_names()[0] == "default"


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_loads_and_comes_back_from_its_yaml_and_its_description(
    name: str, tmp_path: Path
) -> None:
    config = load_config(name)
    assert load_config(write(tmp_path, resolved_yaml(config))) == config
    assert load_config(write(tmp_path, describe(config))) == config
    assert 20 < len(preset_summary(name)) < 130


def test_nothing_given_is_the_default_preset_and_all_defaults() -> None:
    assert load_config() == load_config("default") == Config()
    assert load_config().devices.count == 10
    assert load_config().method.type == "sparse_orthogonal"


def test_paper_presets_have_the_papers_setting() -> None:
    for name, model in (("paper-qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B"), ("paper-qwen2.5-7b", "Qwen/Qwen2.5-7B")):
        config = load_config(name)
        assert (config.method.rank, config.devices.count, config.model.name) == (32, 10, model)
        assert config.tasks.source == "hub"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-3", 0.005), ("1E6", 1e6), ("-3", -3), ("0x10", 16), ("010", 10), (".5", 0.5), ("2.", 2.0),
        ("1:30", "1:30"), ("[a, b]", ["a", "b"]), ("null", None), ("", None), ("~", None), ("true", True),
        ("no", "no"), ("on", "on"), ("{a: 1}", {"a": 1}), ("2024-01-02", "2024-01-02"), ("'5'", "5"),
        ("a=b", "a=b"), ("1_000", "1_000"),
    ],
)  # fmt: skip
def test_override_values_are_read_as_yaml_1_2(text: str, value: object) -> None:
    got = parse_override(f"section.key={text}")
    assert got == (("section", "key"), value)
    assert type(got[1]) is type(value)


@pytest.mark.parametrize(
    "text", ["rounds", "=3", "a b=3", "a..b=3", ".a=3", "a.=3", "rounds=[1", "rounds={a: 1, a: 2}"]
)
def test_what_is_no_override_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="override"):
        parse_override(text)


@pytest.mark.parametrize("order", [("method=dlora", "method.rank=4"), ("method.rank=4", "method=dlora")])
def test_a_bare_word_names_the_type_in_any_order(order: tuple[str, ...]) -> None:
    method = load_config(None, order).method
    assert (method.type, method.rank) == ("dlora", 4)


def test_a_mapping_replaces_the_section_and_deeper_overrides_come_on_top() -> None:
    base = {"method": {"type": "sparse_orthogonal", "density": 0.25, "rank": 32}}
    data = apply_overrides(base, ["method.rank=4", "method={type: dlora, local_steps: 3}"])
    assert data["method"] == {"type": "dlora", "local_steps": 3, "rank": 4}
    assert base["method"]["rank"] == 32


def test_the_later_of_two_overrides_of_one_key_holds() -> None:
    assert load_config(None, ["rounds=3", "rounds=4"]).rounds == 4


def test_a_new_method_drops_the_old_ones_keys_with_one_note(tmp_path: Path) -> None:
    path = write(tmp_path, "method: {type: sparse_orthogonal, density: 0.5, rank: 4}")
    said: list[str] = []
    assert load_config(path, ["method=dlora"], say=said.append) == load_config(
        None, ["method=dlora", "method.rank=4"]
    )
    assert said == ["`method` is now `dlora`; keys of `sparse_orthogonal` left out: density"]
    with pytest.raises(InputError, match=r"no key `method\.density` for `method\.type` = `dlora`"):
        load_config(path, ["method=dlora", "method.density=0.5"])
    assert load_config(path, ["method={type: dlora}"]).method.rank == 8


@pytest.mark.parametrize("method", ["dlora", "ffa", "local", "hetlora"])
def test_a_saved_configuration_takes_another_method(tmp_path: Path, method: str) -> None:
    said: list[str] = []
    for changed_only in (False, True):
        path = write(tmp_path, describe(load_config(None, ["rounds=7"]), changed_only=changed_only))
        assert load_config(path, [f"method={method}"], say=said.append) == load_config(
            None, ["rounds=7", f"method={method}"]
        )
    assert len(said) == 1 and "exchange_every, precision" in said[0].replace(
        "precision, exchange_every", "exchange_every, precision"
    )


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["topology=grid", "topology.columns=3"],
        ["method=dlora"],
        ["tasks.source=files", "tasks.path=/data", "model.name=embedded"],
        ["devices.placement={type: hotspots, hotspots: 3}", "track.wandb.tags=[a]"],
    ],
)
def test_what_differs_loads_back_to_the_same_configuration(tmp_path: Path, words: list[str]) -> None:
    config = load_config(None, words)
    text = describe(config, changed_only=True)
    assert load_config(write(tmp_path, text)) == config
    assert len(text.splitlines()) < 12


def test_several_values_for_one_run_are_told_of_the_sweep() -> None:
    with pytest.raises(InputError, match="dfl-ray sweep"):
        load_config(None, ["seed=0,1,2"])


def test_paths_are_made_absolute_and_names_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    config = load_config(None, ["model.name=base", "tasks.source=files", "tasks.path=rows"])
    found = with_absolute_paths(config)
    assert (found.model.name, found.tasks.path) == (str(tmp_path / "base"), str(tmp_path / "rows"))
    assert with_absolute_paths(load_config(None, ["model.name=org/name"])).model.name == "org/name"


def test_a_folder_that_is_made_later_is_made_where_the_run_was_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is resumed from any folder by its own configuration; `~` is the home of whoever began it."""
    monkeypatch.chdir(tmp_path)
    words = ["runtime.state_memory_mb=4", "runtime.state_dir=not/there"]
    assert with_absolute_paths(load_config(None, words)).runtime.state_dir == str(tmp_path / "not/there")
    monkeypatch.setenv("HOME", "/home/me")
    assert load_config(None, ["runtime.state_dir=~/st"]).runtime.state_dir == "/home/me/st"
    with pytest.raises(InputError, match=r"`runtime.state_dir`: ~nobody-at-all/x lies in nobody's home"):
        load_config(None, ["runtime.state_dir=~nobody-at-all/x"])


def test_own_text_needs_a_model_by_name(tmp_path: Path) -> None:
    words = ["tasks.source=files", f"tasks.path={tmp_path}"]
    with pytest.raises(InputError, match=r"`model\.name` is not set"):
        check_inputs(load_config(None, words))
    check_inputs(load_config(None, [*words, "model.name=embedded"]))


@pytest.mark.parametrize(
    ("words", "trackers", "mode"),
    [
        (["track=none", "track.wandb.mode=disabled"], ("none",), "disabled"),
        (["track.wandb.mode=disabled", "track=[wandb, tensorboard]"], ("wandb", "tensorboard"), "disabled"),
        (["track.wandb.mode=offline"], ("tensorboard",), "offline"),
        (["track=wandb"], ("wandb",), "auto"),
    ],
)
def test_a_short_track_goes_together_with_its_keys(
    tmp_path: Path, words: list[str], trackers: tuple[str, ...], mode: str
) -> None:
    (tmp_path / "a.yaml").write_text("track: [tensorboard]\n", encoding="utf-8")
    track = load_config(str(tmp_path / "a.yaml"), words).track
    assert (track.trackers, track.wandb.mode) == (trackers, mode)


def test_file_shorthand_and_nested_keys(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "method: dlora\ntopology: ring\ntrack: {wandb: {tags: [a, '5']}}\n"))
    assert (config.method.type, config.topology.type, config.track.wandb.tags) == (
        "dlora",
        "ring",
        ("a", "5"),
    )


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "# nothing\n")) == Config()


def test_a_preset_wins_over_a_file_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("indoor").write_text("rounds: 7", encoding="utf-8")
    assert load_config("indoor").radio.model_dump()["path_loss"] == "inh"
    assert load_config("./indoor").rounds == 7


def test_every_key_has_a_meaning_and_a_type_in_words() -> None:
    for method in ("sparse_orthogonal", "dlora"):
        for key in keys(Config, {"method": {"type": method}}):
            assert key.meaning, key.dotted
            assert "typing" not in key.expected and "<class" not in key.expected, key.dotted


def test_the_description_names_changes_and_only_them() -> None:
    lines = describe(
        load_config(None, ["method=dlora", "method.rank=4", "devices.area_m=[10, 20]"])
    ).splitlines()
    changed = {line.split(":")[0].strip() for line in lines[1:] if "CHANGED" in line}
    assert "  CHANGED, default 8" in next(line for line in lines if line.strip().startswith("rank:"))
    assert changed == {"rank", "area_m"}


def test_the_description_holds_every_key_once() -> None:
    config = load_config()

    def leaves(section: BaseModel, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name in type(section).model_fields:
            value = getattr(section, name)
            found |= (
                leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else {f"{prefix}{name}"}
            )
        return found

    def paths(data: dict, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, value in data.items():
            deeper = isinstance(value, dict) and value
            found |= paths(value, f"{prefix}{name}.") if deeper else {f"{prefix}{name}"}
        return found

    assert paths(parse(describe(config))) == leaves(config)


def test_plain_data_is_not_changed_by_loading() -> None:
    data = {"method": {"rank": 4}, "tasks": {"names": ["topic", "add"]}}
    config = from_data(data)
    assert data == {"method": {"rank": 4}, "tasks": {"names": ["topic", "add"]}}
    assert config.tasks.names == ("topic", "add")


@pytest.mark.parametrize(
    "given", [[1], [b"rounds=2"], [None], 5, None, {"rounds": object()}, {"rounds": {2}}]
)
def test_overrides_that_are_no_texts_or_plain_data_are_refused(given):
    with pytest.raises(InputError, match="override"):
        load_config(None, given)


def test_overrides_may_be_numpys():
    given = {
        "devices.area_m": np.array([10.0, 20.0]),
        "tasks.names": [np.str_("topic"), "add"],
        "method": {"type": "dlora", "rank": np.int64(4)},
        "runtime.runs_dir": Path("x #1"),
    }
    config = load_config(None, given)
    assert config.devices.area_m == (10.0, 20.0) and config.tasks.names == ("topic", "add")
    assert (config.method.name, config.method.rank, config.runtime.runs_dir) == ("dlora", 4, "x #1")


@pytest.mark.parametrize("source", ["synthetic", "files", "hub"])
def test_a_configuration_that_states_every_key_is_read_whatever_the_source(source: str) -> None:
    """As `resume` reads one; a key at its default takes a preset's value back."""
    config = load_config(
        None, [f"tasks.source={source}", "tasks.names=[sst2,cola]" if source == "hub" else "seed=1"]
    )
    assert from_data(config.model_dump(mode="json")) == config
    assert (
        load_config("flowertune", ["tasks={source: synthetic}", "tasks.test_share=null"]).tasks.test_share
        is None
    )
