"""Example files for clusters, the container file and the workflows are read by the parsers they are written for."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dfl_ray.config.load import load_config

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs/examples"
LOCK = dict(
    line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line
)


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def check_command(words: str) -> None:
    """`python -m dfl_ray run ...` names a preset and keys there are."""
    found = re.search(r"python -m dfl_ray run (.*)", " ".join(words.split()))
    assert found
    source, *rest = found[1].replace('"', "").split()
    load_config(source, [w.replace("$head:$port", "h:1") for w in rest if "=" in w])


def test_the_slurm_script_is_bash_and_asks_for_what_it_uses() -> None:
    path = EXAMPLES / "slurm.sh"
    subprocess.run(["bash", "-n", str(path)], check=True)
    text = path.read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", text, re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "cpus-per-task", "time"} <= set(asked) and asked[
        "ntasks-per-node"
    ] == "1"
    from ray.scripts.symmetric_run import symmetric_run

    flags = {name for option in symmetric_run.params for name in option.opts}
    used = re.findall(r"(--[\w-]+)", text.split("ray symmetric-run")[1].split(" -- ")[0].split("-- \\")[0])
    assert {"--address", "--min-nodes"} <= set(used)
    assert {flag for flag in used if flag != "--num-cpus"} <= flags | {"--resume"}
    check_command(text.split(" -- ")[-1])


def test_the_kuberay_job_has_what_the_resource_requires() -> None:
    job = read(EXAMPLES / "kuberay.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == LOCK["ray"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        spec = group["template"]["spec"]
        mounted = {mount["name"] for c in spec["containers"] for mount in c["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}
        assert "rayStartParams" in group and all(c["image"] == "IMAGE" for c in spec["containers"])
    check_command(job["spec"]["entrypoint"])


def test_ray_up_takes_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read(EXAMPLES / "ray_up.yaml"))
    validate_config(config)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_the_container_is_made_of_pins_and_of_what_the_wheel_ships() -> None:
    text = (ROOT / ".ci/Containerfile").read_text()
    assert re.search(r"^FROM \S+:\d+\.\d+\.\d+-", text, re.MULTILINE), "the base image is not pinned"
    assert "--require-hashes -r requirements.hashes" in text
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert all((ROOT / word).exists() for word in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied
    assert {project["project"]["readme"], *project["project"]["license-files"]} <= copied


@pytest.mark.parametrize("path", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda p: p.name)
def test_a_workflow_runs_what_is_here_with_few_rights(path: Path) -> None:
    flow = read(path)
    assert flow["permissions"] == {"contents": "read"} and flow["on"]
    for job in flow["jobs"].values():
        # On a schedule, what is too long for a push: up to the six hours after which GitHub ends a job.
        assert job["runs-on"] and job["timeout-minutes"] <= (60 if "push" in flow["on"] else 360)
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.search(r"@v\d+$", step.get("uses", "x@v1"))
            for script in re.findall(r"\.ci/\w+", step.get("run", "")):
                assert (ROOT / script).is_file()
    subprocess.run(["sh", "-n", str(ROOT / ".ci/wheel")], check=True)


def test_extras_are_what_the_pages_name() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"hub", "gguf", "plot", "tensorboard", "tune", "dev"} <= set(extras)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    # Tags of the file name Python objects of the documentation's own environment.
    text = re.sub(r"!!python/name:\S+", "fence", (ROOT / "mkdocs.yml").read_text())

    def pages(nav: Any) -> list[str]:
        if isinstance(nav, str):
            return [nav]
        return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in pages(part)]

    listed = pages(YAML(typ="safe").load(text)["nav"])
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(listed) == sorted(there)
