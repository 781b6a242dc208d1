"""Numbers outside what the radio is computed in, binary files, and overrides of one another: refused by name."""

from __future__ import annotations

import pytest

from dfl_ray.cli import main
from tests.conftest import SMALL_RUN


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["radio.tx_power_dbm=5000"], "`radio.tx_power_dbm`"),
        (["radio.bandwidth_hz=1e-300"], "`radio.bandwidth_hz`"),
        (["radio.carrier_hz=1e-300"], "`radio.carrier_hz`"),
        (["radio.near_neighbours=0"], "`radio.near_neighbours`"),
        (["devices.area_m=[1e300,1e300]"], "`devices.area_m`"),
        (["devices.area_m=[0,5]"], "`devices.area_m`"),
        (["radio.noise_figure_db=.inf"], "`radio.noise_figure_db`"),
        (["radio.sinr_min_db=-.inf"], "`radio.sinr_min_db`"),
        (["method.alpha=.inf"], "`method.alpha`"),
        (["topology.min_snr_db=.nan"], "`topology.min_snr_db`"),
        (["runtime.threads=100000"], "`runtime.threads`"),
        (["method=3", "method.local_steps=1"], "`method` holds no keys"),
    ],
)
def test_the_key_is_named(words, expected, capfd):
    small = [w for w in SMALL_RUN if w.split("=")[0] not in {x.split("=")[0] for x in words}]
    assert main(["config", *small, *words]) == 2
    assert expected in capfd.readouterr().err


@pytest.mark.parametrize("key", ["placement", "partition"])
def test_a_binary_file_is_named_with_its_key(tmp_path, capfd, key):
    path = tmp_path / "bytes.csv"
    path.write_bytes(bytes(range(256)))
    small = [word for word in SMALL_RUN if not word.startswith("devices.partition.")]
    assert main(["plan", *small, f"devices.{key}=file", f"devices.{key}.path={path}"]) == 2
    said = capfd.readouterr().err
    assert str(path) in said and f"`devices.{key}`" in said


def test_a_report_is_not_written_over_a_folder(tmp_path, capfd):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("seed: 0")
    assert main(["report", str(run), "-o", str(tmp_path)]) == 2
    assert "`-o " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        *((["plot", "x", "loss", "--width-mm", mm], "`--width-mm`") for mm in ("-5", "0", "nan", "inf")),
        *((["calibrate", "--watts", watts], "`--watts`") for watts in ("-5", "0", "nan")),
        *((["calibrate", "--seconds", seconds], "`--seconds`") for seconds in ("-5", "inf")),
        (["calibrate", "--name", ""], "`--name`"),
    ],
)
def test_a_number_or_name_that_an_option_cannot_be_is_refused_first(words, said, capfd):
    assert main(words) == 2
    assert said in capfd.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs/a"], ("figure's name, which is missing", "`runs/a`", "device_place", "loss")),
        (["runs/a", "runs/b"], ("figure's name, which is missing", "`runs/b`", "costs, scaling.")),
        (["loss", "runs/a"], ("figure's name, which is missing", "RUN [RUN …] FIGURE")),
        (["loss"], ("`loss` needs a run",)),
        (["runs/a", "lss"], ("no figure `lss`", "`loss`")),
        (["runs/a", "zzz"], ("no figure `zzz`", "scaling", "device_place", "loss")),
    ],
)
def test_a_figure_without_its_name_or_run_is_told_so(words, said, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert main(["plot", *words]) == 2
    told = capfd.readouterr().err
    assert all(part in told for part in said)
