"""Wrong configurations: what is said about them, and that all of it is said at once."""

from pathlib import Path

import pytest

from dfl_ray.config.check import check_inputs
from dfl_ray.config.load import from_data, load_config
from dfl_ray.errors import InputError


def complaint(*overrides: str, source: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load_config(source, overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("method.rnak=4", "method.rank"),
        ("device.count=3", "devices"),
        ("rank=5", "method.rank"),
        ("round=5", "rounds"),
        ("devices.placment=file", "devices.placement"),
        ("radio.pathloss=umi", "radio.path_loss"),
        ("track.wandb.projekt=x", "track.wandb.project"),
        ("evaluate.tasks_per_device=1", "devices.partition.tasks_per_device"),
        ("wandb.mode=offline", "track.wandb"),
        ("tasks.templates.a.promt=x", "prompt"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(override: str, meant: str) -> None:
    text = complaint(override)
    assert override.split("=")[0].split(".")[-1] in text or override.split(".")[0] in text
    assert meant in text


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rounds=0", ("`rounds`", "Got: 0", "an integer from 1 to 1000000")),
        ("rounds=three", ("`rounds`", "Got: three", "an integer")),
        ("rounds=true", ("`rounds`", "Got: true", "an integer")),
        ("rounds=1.5", ("`rounds`", "Got: 1.5", "an integer")),
        ("rounds='5'", ("`rounds`", "an integer")),
        ("rounds=null", ("`rounds`", "Got: null")),
        ("method.learning_rate=-1", ("`method.learning_rate`", "a number above 0")),
        ("method.density=2", ("`method.density`", "Got: 2", "at most 1")),
        ("devices.area_m=[1]", ("`devices.area_m`", "Got: [1]", "a list of 2 numbers")),
        ("devices.area_m=[1, x]", ("`devices.area_m", "Got: ", "x")),
        ("devices=3", ("`devices`", "Got: 3", "a mapping of keys")),
        ("tasks.names=trec", ("`tasks.names`", "Got: trec", "a list of text")),
        ("name=5", ("`name`", "Got: 5", "text", "Quote it")),
        ("track.wandb.mode=ofline", ("`track.wandb.mode`", "`offline`", "Did you mean")),
        ("method=dlor", ("`method.type`", "Got: dlor", "did you mean `dlora`?")),
        ("method=5", ("`method`",)),
        ("runtime.devices_per_actor=0", ("devices_per_actor", "at least 1", "0")),
        ("runtime.devices_per_actor=many", ("`runtime.devices_per_actor`", "Got: many", "integer or `auto`")),
        ("radio.path_loss=uim", ("radio", "path_loss", "uim", "umi")),
        ("radio.scheduler=gredy", ("radio", "scheduler", "greedy_sinr")),
        ("radio={scheduler: fplinq, dense_devices: 5}", ("radio", "dense_devices", "greedy_sinr")),
        ("radio={power_control: foschini_miljanic, dense_devices: 5}", ("radio", "dense_devices")),
        ("radio.bandwidth_hz=0", ("radio", "bandwidth_hz")),
        ("name=a/b", ("`name`", "Got: a/b", "letters, digits")),
        ("tasks.names=[]", ("`tasks.names`", "an empty list")),
        ("tasks.names=[add, add]", ("`tasks.names`", "twice: add")),
        ("tasks.names=[topik, add]", ("`tasks.names`", "Got: topik", "`topic`")),
        ("tasks.path=/data", ("`tasks.path`", "nothing would read it", "tasks.source=files")),
        ("tasks.prompt_field=q", ("`tasks.prompt_field`", "nothing would read it", "Got: tasks.source: synthetic")),
        ("tasks.answer_field=a", ("`tasks.answer_field`", "Expected: tasks.source: files", "default is answer.")),
        ("tasks.fields={add: {answer: a}}", ("`tasks.fields`", "nothing would read it", "default is {}.")),
        ("tasks.test_share=0.1", ("`tasks.test_share`", "source: files or tasks.source: hub", "default is null.")),
        ("tasks.on_bad_rows=skip", ("`tasks.on_bad_rows`", "nothing would read it", "default is refuse.")),
        ("tasks.max_choices=5", ("`tasks.max_choices`", "nothing would read it", "tasks.source: files or")),
        ("tasks.source=files tasks.cue=weak", ("`tasks.cue`", "Expected: tasks.source: synthetic")),
        ("tasks.source=hub tasks.names=[sst2,cola] tasks.prompt_field=q", ("`tasks.prompt_field`", "source: hub")),
        ("devices.placement_path=/x.csv", ("`devices.placement.path`", "`devices.placement.type` = `file`")),
        ("devices.tasks_per_device=7", ("`devices.partition.tasks_per_device`", "7 for 6 tasks", "at most 6")),
        ("devices.count=5", ("`devices.partition.min_holders`", "5 devices with 2 tasks", "at least 18 places")),
        ("devices.count=2 devices.tasks_per_device=1", ("`devices.partition.min_holders`", "at least 18 places")),
        ("devices.count=1 devices.tasks_per_device=6", ("1 devices with 6 tasks", "at least 18 places")),
        ("devices.partition=one_each", ("10 devices with 1 tasks each", "at least 18 places")),
        ("method.prune_start=0.9", ("`method.prune_start`", "0.9")),
        ("evaluate.rules=[likelyhood]", ("`evaluate.rules`", "likelyhood", "`likelihood`")),
        ("tasks.source=hub tasks.names=[sst3,sst2]", ("did you mean `sst2`?", "tasks.templates.sst3")),
        ("topology=rign", ("`topology.type`", "rign", "`ring`")),
        ("topology={type: ring, ordre: index}", ("`topology.ordre`", "did you mean `topology.order`?")),
        ("topology={type: ring, max_degree: 3}", ("`topology.max_degree`", "`topology.type` = `clustered`")),
        ("topology={type: ring, order: indx}", ("`topology.order`", "Got: indx", "`index`")),
        ("topology.max_degree=0", ("`topology.max_degree`", "an integer of at least 1")),
        ("topology.mixing=unifrom", ("`topology.mixing`", "Did you mean `uniform`?")),
        ("devices.placement=hotspot", ("`devices.placement.type`", "did you mean `hotspots`?")),
        ("devices.placement={type: hotspots, hotspot: 2}", ("`devices.placement.hotspot`", "hotspots")),
        ("devices.classes=mixd", ("`devices.classes`", "Did you mean `mixed`?")),
        ("devices.placement=file", ("`devices.placement.path` is missing",)),
        ("tasks.source=sythetic", ("`tasks.source`", "`synthetic`")),
        ("tasks.options={a: 1}", ("`tasks.options`", "'synthetic'", "'a'")),
        ("track.trackers=[wandbb]", ("`track.trackers", "wandbb", "`wandb`")),
        ("track.options={mine: {}}", ("`track.options.mine`", "nothing would read it")),
        ("radio.scheduler_options={p: 0.1}", ("`radio`", "'greedy_sinr' has no options of its own")),
        ("radio={path_loss: log_distance, path_loss_options: {exponnt: 2}}", ("'exponnt'", "'exponent'")),
        ("radio.min_distance_m=200000", ("`radio.min_distance_m`", "Got: 200000", "from 1e-06 to 100000")),
        ("radio.carrier_hz=1e15", ("`radio.carrier_hz`", "Got: 1e+15", "from 1000 to 1e+12")),
        ("radio.rician_k_db=200", ("`radio.rician_k_db`", "Got: 200", "from -200 to 100")),
        ("radio.blockers=100000", ("`radio.blockers`", "Got: 100000", "from 0 to 100")),
        ("radio.aloha_probability=1e-300", ("`radio.aloha_probability`", "from 0.0001 to 1")),
        ("topology.min_snr_db=-1e300", ("`topology.min_snr_db`", "a number from -200 to 200")),
        ("devices.class_figures={phone: {tx_power_dbm: 1e6}}", ("'phone': tx_power_dbm is 1000000.0", "-200 to 100")),
        ("devices.class_figures={phone: {tx_power_dbm: -1e6}}", ("'phone': tx_power_dbm is -1000000.0",)),
        ("devices.class_figures={phone: {flops_per_s: 1e300}}", ("'phone': flops_per_s is 1e+300", "1 to 1e+24")),
        ("radio={scheduler: sidelink_mode2, scheduler_options: {sensing_s: 1e300}}", ("sensing_s is 1e+300",)),
        ("radio={scheduler: sidelink_mode2, scheduler_options: {period_s: 1e308}}", ("period_s is 1e+308",)),
        ("radio={scheduler: csma, scheduler_options: {sense_dbm: 1e6}}", ("sense_dbm is 1000000.0", ">= -300")),
        ("devices.mobility={type: gauss_markov, update_s: 1e-7}", ("`devices.mobility.update_s`", "0.01 to")),
        ("devices.mobility={type: random_direction, mean_leg_s: 1e-9}", ("`devices.mobility.mean_leg_s`", "0.01 to")),
        ("devices.mobility={type: highway, lanes: 1000000000}", ("`devices.mobility.lanes`", "from 1 to 1000")),
        ("devices.placement={type: hotspots, hotspots: 1000000000}", ("placement.hotspots`", "from 1 to 1000000")),
        ("method.rule=filtr", ("`method.rule`", "Did you mean `filter`?")),
    ],
)  # fmt: skip
def test_a_wrong_value_is_told_with_its_key_what_was_got_and_what_is_right(
    override: str, words: tuple[str, ...]
) -> None:
    parts = override.split(" ") if override.startswith(("tasks.source", "devices.count")) else [override]
    text = complaint(*parts)
    for word in words:
        assert word in text
    assert "\n" not in text


def test_dlora_has_no_rules_to_compare() -> None:
    assert "`dlora` has one model" in complaint("method=dlora", "evaluate.rules=[sum]")


def test_all_problems_are_told_at_once_and_where_they_come_from() -> None:
    text = complaint("rounds=0", "devices.count=x", "method.rnak=4", "seed=-1")
    assert text.startswith("4 things are wrong in the configuration (preset `default` with `rounds=0`")
    for key in ("`rounds`", "`devices.count`", "`method.rnak`", "`seed`"):
        assert text.count(key) == 1, key
    assert text.count("\n") == 4


# Thirteen lines that stand for 10^13 values, each line ten aliases of the line before.
ALIASES = "a0: &a0 [" + "x, " * 10 + "]\n" + "".join(
    f"a{n}: &a{n} [" + f"*a{n - 1}, " * 10 + "]\n" for n in range(1, 13)
)  # fmt: skip


def test_a_wrong_key_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 1\n\nmethod:\n  rank: 4\n  densty: 0.5\nrounds: many\n", encoding="utf-8")
    text = complaint(source=str(path))
    assert "`method.densty`" in text and "on line 5" in text
    assert "`rounds` has a wrong value on line 6" in text
    # What an override has set does not stand on that line.
    replaced = complaint("method.densty=1", "rounds=few", source=str(path))
    assert "`method.densty`" in replaced and "`rounds` has a wrong value" in replaced
    assert "on line" not in replaced
    assert "on line" not in complaint("method={type: dlora, densty: 1}", "rounds=2", source=str(path))


def test_a_missing_required_key_is_named() -> None:
    text = complaint("tasks.source=hub", "tasks.templates={mine: {prompt: a, answer: b}}")
    assert "`tasks.templates.mine.dataset` is missing" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("rounds: 3\nmethod: [1", ("not YAML", "line 2")),
        ("- a\n- b\n", ("not a configuration", "a list at the top level")),
        ("just words", ("not a configuration", "text at the top level")),
        ("rounds: 3\nrounds: 4\n", ("not YAML", "line 2", "`rounds`", "second time")),
        ("1: 2\n", ("not a configuration",)),
        ("a: !!python/object/apply:os.getcwd []\n", ("not YAML",)),
        ("rounds: 3\n\tseed: 1\n", ("not YAML", "line 2")),
        ("a: !mine 1\n", ("not YAML", "line 1", "`!mine`")),
        ("a: &a [*a]\n", ("not YAML", "line 1", "inside its own anchor")),
        ("a: 1\nb: !!int x\n", ("not YAML", "line 2", "`x` cannot be read as int")),
        ("a: " + "9" * 5000, ("not YAML", "line 1", "cannot be read as int")),
        ("? [a, b]\n: 1\n", ("not YAML", "line 1", "a list stands here as a key")),
        ("a: 1\n---\nb: 2\n", ("not YAML", "another document")),
        ("[" * 20_000, ("not YAML", "more than 50 levels")),
        ("\n".join(" " * n + "a:" for n in range(2000)), ("not YAML", "line 50", "more than 50 levels")),
        (ALIASES, ("not YAML", "more than 1,000,000 values")),
    ],
)
def test_a_file_that_is_no_configuration(content: str, words: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    text = complaint(source=str(path))
    for word in (str(path), *words):
        assert word in text


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in complaint(source=str(path))


def test_missing_files_and_misspelt_presets(tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text("", encoding="utf-8")
    assert (
        "no configuration file" in (text := complaint(source=str(tmp_path / "mine.yaml")))
        and "other.yaml" in text
    )
    assert "did you mean `real-text`?" in complaint(source="reel-text")
    assert "is a folder" in complaint(source=str(tmp_path))


def test_inputs_that_are_not_there_are_all_named(tmp_path: Path) -> None:
    config = load_config(
        "real-text",
        [f"model.name={tmp_path}/none", "devices.placement=file", "devices.placement_path=/none.csv"],
    )
    with pytest.raises(InputError) as caught:
        check_inputs(config)
    for words in (
        "`tasks.path` is not set",
        "`devices.placement.path` does not exist",
        "model folder does not exist",
    ):
        assert words in str(caught.value)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    config = load_config("real-text", ["model.name=embedded", f"tasks.path={tmp_path / 'none'}"])
    with pytest.raises(InputError, match=r"`tasks\.path` does not exist"):
        check_inputs(config)
    check_inputs(load_config("real-text", ["model.name=embedded", f"tasks.path={tmp_path}"]))


def test_the_default_needs_no_files() -> None:
    check_inputs(load_config())


def test_text_is_never_taken_for_a_number() -> None:
    with pytest.raises(InputError, match="`seed`"):
        from_data({"seed": "7"})
    assert from_data({"method": {"learning_rate": 1}}).method.learning_rate == 1.0


@pytest.mark.parametrize(
    "words",
    [
        "method.alpha=.inf",
        "method.alpha=-.inf",
        "method.alpha=.nan",
        "method.learning_rate=1e999",
        "radio.path_loss_exponent=.inf",
        "devices.area_m=[300, .inf]",
        "topology.min_snr_db=.nan",
        "runtime.actor_timeout_s=.inf",
    ],
)
def test_a_number_must_be_finite(words: str) -> None:
    with pytest.raises(InputError) as caught:
        load_config(None, [words])
    assert f"`{words.split('=')[0]}" in str(caught.value) and "no key" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rounds: 3\n? [a, b]\n: 1\n", "line 2, column 3. Got: a list stands here as a key"),
        ("rounds: {{ rounds }}\n", "line 1, column 10. Got: a mapping stands here as a key"),
        ("tasks:\n  {[x]: 1}\n", "line 2, column 4. Got: a list stands here as a key"),
    ],
)
def test_a_key_that_is_no_word_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("rounds: 3\n# Stra\u00dfe\n".encode("latin-1"), "is not UTF-8. Got: byte 0xdf in line 2"),
        ("rounds: 3\n".encode("utf-16"), "is not UTF-8. Got: byte 0xff in line 1"),
        (b"name: \"\\ud83d\"\n", "line 1, column 7. Got: half of a surrogate pair stands in a text"),
    ],
)  # fmt: skip
def test_a_file_in_another_encoding_is_named_with_its_line(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(data)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "c.yaml")
    assert said in str(caught.value)
