"""A package of a researcher's own, run from the command line: config, plan, run, resume and report."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.plugins import EXAMPLE, environment, install

SMALL = (
    "rounds=2", "devices.count=5", "devices.min_holders=2", "devices.area_m=[60,60]", "tasks.source=letters",
    "tasks.options.rows=80", "method.local_steps=1", "method.batch_rows=4", "method.precision=float32",
    "evaluate.every=2", "evaluate.rows_per_task=4", "track.wandb.mode=disabled",
)  # fmt: skip
OWN = (
    "method=alternate", "method.stride=3", "topology=star", "topology.centre=2",
    "radio.scheduler=last_first", "radio.scheduler_options.skip=1", "radio.path_loss=warehouse",
    "radio.path_loss_options.clutter_db=3.0", "devices.placement=line", "devices.placement.at=0.25",
    "track.trackers=[wandb, text_file]", "track.options.text_file.file=own.txt",
)  # fmt: skip


COMMANDS = """
import contextlib, io, json, sys
from dfl_ray.cli import main
for line in sys.stdin:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(json.loads(line))
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(EXAMPLE, tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def told(place: Path) -> Iterator[Callable[..., str]]:
    """Carries out commands one after another in one process that has the package, and gives what they say."""
    process = subprocess.Popen(
        [sys.executable, "-c", COMMANDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(place), cwd=place,
    )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None

    def tell(*words: str, code: int = 0) -> str:
        print(json.dumps(words), file=process.stdin, flush=True)
        found, said = json.loads(process.stdout.readline())
        assert found == code, said
        return said

    with process:
        yield tell


def dfl_ray(place: Path, *words: str, code: int = 0) -> str:
    """One command in a process of its own."""
    command = [sys.executable, "-m", "dfl_ray", *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(place), cwd=place, timeout=500
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_config_shows_the_own_keys_and_its_text_loads_back(told: Callable[..., str], tmp_path: Path) -> None:
    text = told("config", "--all", *SMALL, *OWN)
    for line in (
        r"stride: 3 +# one in so many neighbours is spoken to in a round \(an integer of at least 1\)",
        r"centre: 2 +# the device in the middle \(an integer of at least 0\)",
        r"at: 0\.25 +# height of the row as a share of the area's",
        r"path_loss: warehouse +# path-loss model \(one of .*`warehouse`\)",
        r"scheduler: last_first +# .*`last_first`\)",
        r"type: alternate +# the method's name \(one of .*`alternate`\)",
    ):
        assert re.search(line, text), line
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    assert told("config", "--all", str(tmp_path / "own.yaml")) == text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("method=alternat",), "did you mean `alternate`?"),
        (("method=alternate", "method.strde=2"), "did you mean `method.stride`?"),
        (("method=alternate", "method.stride=0"), "an integer of at least 1"),
        (("topology=star", "topology.center=1"), "did you mean `topology.centre`?"),
        (("radio.scheduler=last_first", "radio.scheduler_options={skp: 1}"), "Did you mean 'skip'?"),
        (("radio.scheduler=last_first", "radio.scheduler_options={skip: -1}"), "skip must be >= 0"),
        (("radio.path_loss=warehouse", "radio.path_loss_options={cluter_db: 1}"), "Did you mean 'clutter_db'?"),
        (("tasks.source=letters", "tasks.options={row: 1}"), "Did you mean 'rows'?"),
        (("track.trackers=[text_file]", "track.options={text_file: {fil: a}}"), "Did you mean 'file'?"),
        (("track.trackers=[text_file]", "track.options={text_file: {file: 3}}"), "file is 3; expected"),
        (("tasks.source=letters", "tasks.options={rows: many}"), "rows is 'many'; expected"),
        (("tasks.source=letters", "tasks.prompt_field=q"), "`tasks.prompt_field` is set but nothing would read it"),
        (("evaluate.rules=[strongst]",), "did you mean `strongest`?"),
        (("method.aggregation=midle",), "Did you mean `middle`?"),
    ],
)  # fmt: skip
def test_slips_in_own_keys_are_named(told: Callable[..., str], words: tuple[str, ...], said: str) -> None:
    assert said in told("config", *words, code=2)


def test_plan_and_run_ask_the_own_traffic_law(told: Callable[..., str], tmp_path: Path) -> None:
    text = told("plan", "--json", *SMALL, *OWN)
    figures, _ = json.JSONDecoder().raw_decode(text[text.index("{") :])
    assert (figures["method"], figures["links"]) == ("alternate", 4)
    words = (*SMALL, *OWN, f"runtime.runs_dir={tmp_path}", "runtime.backend=local", "name=lawful")
    told("run", *words)
    from dfl_ray.records import load_run

    rounds = load_run(tmp_path / "lawful").rounds
    assert figures["run"]["payload_bytes"] == rounds["payload_bytes"].sum() > 0


@pytest.mark.ray
def test_run_here_resume_on_ray_and_report(place: Path, tmp_path: Path) -> None:
    """One round in one process, then the run prolonged to two in its own file, gone on with by Ray, and reported."""
    words = (*SMALL, *OWN, f"runtime.runs_dir={tmp_path}", "runtime.backend=local")
    dfl_ray(place, "run", *words, "name=own", "rounds=1")
    folder = tmp_path / "own"
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    longer = re.sub(r"(?m)^rounds: 1\b", "rounds: 2", config).replace("backend: local", "backend: ray")
    (folder / "config.yaml").write_text(longer, encoding="utf-8")
    dfl_ray(place, "resume", str(folder))
    dfl_ray(place, "report", str(folder))
    assert (folder / "report.html").stat().st_size > 10_000
    check_records(folder)


def check_records(folder: Path) -> None:
    from dfl_ray.records import load_run

    run = load_run(folder)
    # One in three neighbours is spoken to: of the middle 1 in round 1 and 3 in round 2; the others have one alone.
    sent = run.transfers[["round", "source", "destination"]].to_numpy().tolist()
    assert sent == [[1, 2, 1], [2, 2, 3]]
    assert set(run.topology_nodes["y_m"]) == {15.0}
    lines = (folder / "own.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2"]


def test_an_own_inference_rule_is_asked(told: Callable[..., str], tmp_path: Path) -> None:
    words = (*SMALL, f"runtime.runs_dir={tmp_path}", "runtime.backend=local", "name=rules", "rounds=1")
    told(
        "run",
        *words,
        "evaluate.rules=[sum, strongest]",
        "method.exchange_every=1",
        "method.aggregation=middle",
    )
    from dfl_ray.records import load_run

    assert {"likelihood", "sum", "strongest"} <= set(load_run(tmp_path / "rules").evaluation["rule"])


def test_two_packages_with_one_name_are_refused(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other-1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1\n", encoding="utf-8")
    (other / "entry_points.txt").write_text("[dfl_ray.graphs]\nstar = somewhere:else\n", encoding="utf-8")
    program = "from topology.tables import GRAPHS; GRAPHS['star']"
    env = environment(place)
    env["PYTHONPATH"] = f"{tmp_path}:{env['PYTHONPATH']}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert done.returncode == 1
    assert "two installed packages name 'star'" in done.stderr


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken-1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n", encoding="utf-8")
    (broken / "entry_points.txt").write_text("[dfl_ray.graphs]\nlost = nowhere.at:all\n", encoding="utf-8")
    text = dfl_ray(tmp_path, "config", "topology=lost", code=2)
    assert "'lost'" in text and "nowhere.at:all" in text and "cannot be imported" in text


BROKEN = """
[dfl_ray.methods]
lost = needs_gpu:X
[dfl_ray.graphs]
lost = needs_gpu:X
three = three:X
[dfl_ray.mobility]
three = three:X
[dfl_ray.trackers]
three = three:X
[dfl_ray.tasks]
three = three:X
raises = three:raises
[dfl_ray.rules]
three = three:X
[dfl_ray.mixings]
three = three:X
[dfl_ray.aggregations]
three = three:X
[dfl_ray.faults]
three = three:X
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("broken")
    info = site / "brk-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: brk\nVersion: 1\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(BROKEN, encoding="utf-8")
    (site / "needs_gpu.py").write_text("raise RuntimeError('needs a GPU')\n", encoding="utf-8")
    raises = "def raises(tasks, *, seed):\n    raise OSError('no data')\n"
    (site / "three.py").write_text(f"X = 3\n{raises}", encoding="utf-8")
    return site


def test_what_a_broken_package_has_is_named_wherever_it_is_asked_for(broken: Path) -> None:
    words = {
        "topology=lost": "graph 'lost'", "topology=three": "graph 'three'", "method=lost": "method 'lost'",
        "devices.mobility=three": "mobility model 'three'", "track=three": "tracker 'three'",
        "tasks.source=three": "source of tasks 'three'", "evaluate.rules=[three]": "inference rule 'three'",
        "topology.mixing=three": "mixing rule 'three'", "devices.faults.kind=three": "fault 'three'",
        "method=dlora method.aggregation=three": "aggregation rule 'three'",
    }  # fmt: skip
    lines = "\n".join(json.dumps(["config", *word.split()]) for word in words)
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS], input=lines, capture_output=True, text=True, env=environment(broken)
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(words)
    for (word, what), (code, said) in zip(words.items(), answers, strict=True):
        text = " ".join(said.split())
        assert code == 2 and "Unexpected" not in text, text
        assert f"{what} is named by the installed package brk as" in text, text
        wanted = (
            "cannot be imported: RuntimeError: needs a GPU" if "lost" in word else "that is 3; expected a"
        )
        assert wanted in text, text
    assert "The source of tasks `raises` failed. Got: OSError: no data" in " ".join(
        dfl_ray(broken, "plan", "tasks.source=raises", code=2).split()
    )


def test_a_broken_package_leaves_the_other_methods_listed(broken: Path) -> None:
    from dfl_ray.methods.table import METHODS

    rows = json.loads(dfl_ray(broken, "methods", "--json"))["methods"]
    assert [row["method"] for row in rows] == [*METHODS.own, "lost"]
    assert "needs a GPU" in rows[-1]["problem"] and rows[-1]["bytes_a_round"] is None
    assert rows[1]["bytes_a_round"] > 0


def test_help_reads_no_entry_points(place: Path) -> None:
    program = (
        "import sys, importlib.metadata as m\n"
        "def refuse(**k): raise SystemExit('entry points were read')\n"
        "m.entry_points = refuse\n"
        "from dfl_ray.cli import main\n"
        "main(['--help'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment(place)
    )
    assert "entry points were read" not in done.stderr and done.returncode == 0
    assert "usage" in done.stdout.lower()


@pytest.mark.parametrize("name", ["registry", "compiled"])
def test_what_topology_and_channels_both_have_is_one_text(name: str) -> None:
    ours, theirs = (importlib.import_module(f"{package}.{name}") for package in ("channels", "topology"))
    assert Path(str(ours.__file__)).read_text() == Path(str(theirs.__file__)).read_text()
