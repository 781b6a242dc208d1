"""What a stranger's files may not do: run code, write elsewhere, or speak as a page's own script."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest

from actors.session import WorkerPath, project_root, safe_path
from dfl_ray.cli import main
from dfl_ray.config.yamlio import YAMLError, parse
from dfl_ray.errors import InputError
from dfl_ray.records import RunFolder, load_run
from dfl_ray.simulation.checkpoint import load_checkpoint
from dfl_ray.views.report import write_report

SCRIPT = "<script>window.taken=1</script>"


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 10)
)  # fmt: skip


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = {
        "method": {"type": SCRIPT},
        "devices": {"count": 2, "placement": SCRIPT},
        "rounds": 1,
        "seed": 0,
    }
    folder = RunFolder.create(tmp_path, "run", config)
    core = {
        "simulated_s": [2.0],
        "payload_bytes": [7],
        "airtime_s": [0.1],
        "energy_j": [0.1],
        "wall_s": [1.0],
    }
    folder.append({"rounds": core}, 1)
    folder.update_info(
        state=SCRIPT, name=SCRIPT, started_at=SCRIPT, command=[SCRIPT], git={"commit": SCRIPT},
        host={"system": SCRIPT, "machine": SCRIPT}
    )  # fmt: skip
    folder.close()
    return folder.path


def test_the_report_of_a_strangers_run_holds_none_of_its_scripts(run: Path):
    page = write_report([run], run / "report.html").read_text()
    assert SCRIPT not in page and "&lt;script&gt;window.taken" in page


def test_scripts_in_place_of_numbers_are_refused(run: Path):
    (run / "config.yaml").write_text(f"rounds: {SCRIPT!r}\n")
    with pytest.raises(InputError, match="`rounds` is no whole number"):
        write_report([run], run / "report.html")


@pytest.mark.parametrize("key", ["git", "host", "versions", "wandb", "command"])
def test_a_run_json_of_other_kinds_is_refused(run: Path, key: str):
    path = run / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "text"}))
    with pytest.raises(InputError, match=r"run\.json cannot be read"):
        load_run(run)


def test_a_checkpoint_is_never_unpickled(tmp_path: Path, mark: Path):
    folder = tmp_path / "checkpoints" / "round-000001"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "devices-00000.safetensors", "channel.safetensors"):
        (folder / name).write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(InputError, match="No checkpoint"):
        load_checkpoint(tmp_path / "checkpoints")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_model_folder_is_never_unpickled(tmp_path: Path, mark: Path, name: str, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    trap = pickle.dumps(Trap(mark))
    (folder / name).write_bytes(trap if name.endswith("bin") else struct.pack("<Q", 2**62) + trap)
    words = ["runtime.backend=local", f"model.name={folder}", f"runtime.runs_dir={tmp_path / 'runs'}"]
    assert main(["run", *words]) == 2
    assert "Unexpected" not in capsys.readouterr().err
    assert not mark.exists() and not (tmp_path / "runs").exists()


def test_records_are_never_unpickled(run: Path, mark: Path):
    (part,) = (run / "rounds.parquet").glob("*-000000001.parquet")
    part.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(InputError, match="is damaged"):
        load_run(run)
    (run / "checksums.json").unlink()
    with pytest.raises(InputError, match="is damaged"):
        load_run(run)
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir [here]",
        "!!python/name:os.system x",
        BOMB,
        "[" * 3000 + "]" * 3000,
        "a: " + "9" * 5000,
    ],
)  # fmt: skip
def test_yaml_runs_nothing_and_stays_small(text: str, tmp_path: Path, capsys):
    with pytest.raises(YAMLError):
        parse(text)
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert main(["config", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_current_folder_is_on_no_path(tmp_path: Path):
    root, other = project_root(), "/usr/lib/python3"
    assert safe_path(["", str(tmp_path), other, root], str(tmp_path), root) == [other, root]
    assert safe_path([root, other], root, root) == [root, other]
    path = WorkerPath()
    path.extend([str(tmp_path)])
    assert str(tmp_path) not in path and set(path) <= {root}
