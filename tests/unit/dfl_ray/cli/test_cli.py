"""The command line: what it prints, its exit codes, and what it does not import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dfl_ray.cli import main
from dfl_ray.cli.commands import split_words
from dfl_ray.cli.quiet import SETTINGS, silence_libraries
from dfl_ray.config.describe import describe
from dfl_ray.config.load import load_config
from dfl_ray.errors import InputError, Interrupted, RunError

ROOT = Path(__file__).resolve().parents[4]
COMMANDS = ("run", "resume", "report", "presets", "config")

BLAS = "OPENBLAS_NUM_THREADS"


@dataclass
class Launcher(types.ModuleType):
    """Stands where `dfl_ray.simulation.launch` is, so that the command line is tested without a run of minutes."""

    error: BaseException | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    servers: list[str | None] = field(default_factory=list)

    def launch(self, config: Any, *, verbose: bool, json: bool, quiet: bool, server: Any) -> Any:
        self.servers.append("no server" if server is None else server.refusal)
        return self._answer("launch", config, verbose, json)

    def resume(
        self,
        path: Path,
        overrides: list[str],
        *,
        verbose: bool,
        json: bool,
        quiet: bool,
        changed: bool,
        server: Any,
    ) -> Any:
        assert not changed
        self.servers.append("no server" if server is None else server.refusal)
        return self._answer("resume", path, *overrides, verbose, json)

    def _answer(self, *call: Any) -> Any:
        self.calls.append(call)
        if self.error is not None:
            raise self.error
        return types.SimpleNamespace(folder=Path("runs/one"), summary={"accuracy_mean": 0.5})


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    stand_in = Launcher()
    monkeypatch.setitem(sys.modules, "dfl_ray.simulation.launch", stand_in)
    monkeypatch.setattr("dfl_ray.cli.quiet.silence_libraries", lambda: None)
    return stand_in


def python(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown or f"\n  {name}  " in shown for name in COMMANDS)
    assert main([]) == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert f"usage: dfl-ray {command}" in capsys.readouterr().out


def test_a_mistyped_command_or_option_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words, meant in (
        (["exprot"], "export"),
        (["run", "--resmue"], "--resume"),
        (["plan", "--round=2"], "--rounds"),
    ):
        assert main(words) == 2
        assert f"did you mean `{meant}`?" in capsys.readouterr().err


def test_the_shell_completes_commands_options_presets_and_keys(tmp_path: Path, capsys: Any) -> None:
    assert main(["completion", "bash"]) == 0
    bash = capsys.readouterr().out
    assert main(["completion", "zsh"]) == 0
    zsh = capsys.readouterr().out
    tries = {
        "dfl-ray re": {"replan", "replay", "report", "resume"},
        "dfl-ray run --re": {"--resume"},
        "dfl-ray run method.ra": {"method.rank="},
        "dfl-ray plan real-": {"real-text"},
        "dfl-ray completion z": {"zsh"},
        "dfl-ray config topol": {"topology=", "topology.type=", "topology.max_degree="},
    }
    program = bash + "".join(
        f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}; COMPREPLY=()\n"
        f"_dfl_ray_complete dfl-ray {line.split()[-1]} {line.split()[-2]} 2>/dev/null; echo ${{COMPREPLY[*]}}\n"
        for line in tries
    )
    done = subprocess.run(["bash"], input=program, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    for found, wanted in zip(done.stdout.splitlines(), tries.values(), strict=True):
        assert wanted <= set(found.split())
        assert len(wanted) > 2 or wanted == set(found.split())
    assert zsh.startswith("#compdef dfl-ray") and "method.rank=" in zsh


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from dfl_ray import __version__

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"dfl-ray {__version__}"


@pytest.mark.parametrize(
    "words", [["--help"], ["presets"], ["config", "real-text"], ["run", "--help"], ["run", "rounds=0"]]
)
def test_what_answers_at_once_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import sys; from dfl_ray.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'transformers', 'ray', 'pandas', 'plotly', 'wandb', 'peft', 'networkx', 'numba'};"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    assert python("-c", program, *words).stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.parametrize("words", [["--help"], ["presets"]])
def test_help_and_presets_do_not_even_import_the_schema(words: list[str]) -> None:
    program = (
        "import sys; from dfl_ray.cli import main; main(sys.argv[1:]);"
        "print('HEAVY', sorted({'numpy', 'pydantic'} & set(sys.modules)))"
    )
    assert python("-c", program, *words).stdout.splitlines()[-1] == "HEAVY []"


def test_the_module_is_the_command_line() -> None:
    done = python("-m", "dfl_ray", "presets")
    assert done.returncode == 0
    assert "real-text" in done.stdout
    done = python("-m", "dfl_ray", "run", "rounds=0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dfl-ray: `rounds` has a wrong value")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("given", "held"), [(None, 1), ("2", min(2, os.cpu_count() or 1))])
def test_a_command_holds_blas_to_one_thread_unless_it_is_told_otherwise(given: str | None, held: int) -> None:
    program = (
        "import sys; sys.argv = ['dfl-ray', '--version']; from dfl_ray.cli import main; main(); import numpy;"
        "from threadpoolctl import threadpool_info; print([l['num_threads'] for l in threadpool_info()])"
    )
    free = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", BLAS)}
    env = free if given is None else {**free, BLAS: given}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == f"[{held}]", done.stderr


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m dfl_ray config | head -n 1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""


def test_config_prints_yaml_that_loads(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", "indoor", "method=dlora", "method.rank=4"]) == 0
    path = tmp_path / "mine.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_config(path) == load_config("indoor", ["method=dlora", "method.rank=4"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rn"], "There is no command `rn`. Expected: did you mean `run`?"),
        (["run", "--jsn"], "--jsn"),
        (["run", "rounds=0"], "`rounds`"),
        (["run", "nowhere.yaml"], "no configuration file `nowhere.yaml`"),
        (["run", "indoor", "rounds"], "`rounds` is not an override"),
        (["resume"], "RUN"),
        (["resume", "nowhere"], "`nowhere` is not a run"),
        (["report", "nowhere"], "`nowhere` is not a run"),
        (["run", "real-text", "model.name=embedded"], "`tasks.path` is not set"),
    ],
)
def test_bad_input_is_exit_code_2_and_one_paragraph(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], launcher: Launcher
) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert launcher.calls == []


def test_run_launches_the_resolved_configuration(
    launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "-v", "rounds=3", "method=dlora"]) == 0
    assert launcher.calls == [("launch", load_config(None, ["rounds=3", "method=dlora"]), True, False)]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "words", [["run", "rounds=3", "--json"], ["--json", "run", "rounds=3"], ["run", "--json", "rounds=3"]]
)
def test_flags_may_stand_anywhere_and_json_is_the_last_line(
    words: list[str], launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"run": "runs/one", "accuracy_mean": 0.5}
    assert launcher.calls[0][3] is True


def test_resume_takes_a_run_folder(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    assert main(["resume", str(tmp_path)]) == 0
    assert launcher.calls == [("resume", tmp_path, False, False)]


@pytest.mark.skipif(sys.platform != "linux", reason="forks are used on Linux only")
def test_run_and_resume_start_the_fork_server_ahead(launcher: Launcher, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    assert main(["run"]) == main(["resume", str(tmp_path)]) == 0
    assert launcher.servers == [None, None]


def test_run_and_resume_start_no_fork_server_for_one_process(launcher: Launcher, tmp_path: Path) -> None:
    saved = describe(load_config(None, ["runtime.backend=local"]), changed_only=False)
    (tmp_path / "config.yaml").write_text(saved, encoding="utf-8")
    assert (
        main(["run", "runtime.backend=ray", "runtime.backend=local"]) == main(["resume", str(tmp_path)]) == 0
    )
    assert launcher.servers == ["no server", "no server"]
    if sys.platform == "linux":
        assert main(["resume", str(tmp_path), "runtime.backend=ray"]) == 0
        assert launcher.servers[-1] is None


@pytest.mark.parametrize(("words", "rounds"), [([], None), (["--rounds", "7"], 7)])
def test_plan_hands_its_rounds_on(
    words: list[str], rounds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dfl_ray.simulation import estimate

    asked: list[int | None] = []
    monkeypatch.setattr(estimate, "plan", lambda *_, rounds, machines: asked.append(rounds) or {"devices": 1})
    monkeypatch.setattr(estimate, "plan_lines", lambda _: [("devices", "1")])
    assert main(["plan", *words]) == 0
    assert asked == [rounds]


@pytest.mark.parametrize("given", ["0", "-3", "many", "1.5"])
def test_plan_refuses_what_is_no_number_of_rounds(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"--rounds={given}"]) == 2
    assert f"whole number from 1, got `{given}`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InputError("Too many actors", got="50", expected="at most 4"), 2),
        (RunError("Device 3 failed in round 2"), 1),
        (Interrupted("Stopped after round 2. Go on with: dfl-ray resume runs/one"), 130),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("by zero"), 1),
    ],
)
def test_errors_become_exit_codes_and_a_traceback_only_with_v(
    error: BaseException, code: int, launcher: Launcher, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher.error = error
    assert main(["run"]) == code
    quiet = capsys.readouterr().err
    assert "Traceback" not in quiet
    assert quiet.count("\n") == 1
    assert str(error) in quiet
    assert main(["run", "-v"]) == code
    assert "Traceback" in capsys.readouterr().err


def test_the_first_word_without_equals_is_the_configuration() -> None:
    assert split_words(["a=b", "indoor", "c=d"]) == ("indoor", ["a=b", "c=d"])
    assert split_words(["a=b"]) == (None, ["a=b"])
    assert split_words(["indoor", "rounds"]) == ("indoor", ["rounds"])


def test_hush_leaves_what_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_SILENT", "false")
    silence_libraries()
    assert os.environ["WANDB_SILENT"] == "false"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"


def test_a_path_that_cannot_be_used_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = NotADirectoryError(20, "Not a directory", str(tmp_path / "file" / "out.csv"))

    def refuse(_options: Any) -> int:
        raise error

    from dfl_ray.cli import parser

    _, options = parser.parse_words(["presets"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser, "parse_words", lambda _: (types.SimpleNamespace(execute=refuse), options))
        assert main(["presets"]) == 1
    said = capsys.readouterr().err
    assert "out.csv` cannot be read or written. Got: Not a directory." in said and "Unexpected" not in said
