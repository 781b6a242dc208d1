"""Every key of radio and topology changes the result where it can, and is refused or told where it cannot."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from channels.channel import Channel
from channels.largescale import settings_model
from channels.settings import RadioSettings
from channels.transfers import Transfers
from channels.validity import idle_notes, setting_notes
from dfl_ray.config.load import load_config
from dfl_ray.config.variants import topology_section
from dfl_ray.errors import InputError
from dfl_ray.network.deployment import build_deployment
from dfl_ray.network.notes import graph_notes
from topology.tables import GRAPHS

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PLACE = np.random.default_rng(4).random((12, 2)) * [90.0, 250.0]
PLACE[1] = PLACE[0] + 0.5
SOURCE = np.repeat(np.arange(12), 2)
WANTED = Transfers.build(SOURCE, (SOURCE + np.tile([1, 5], 12)) % 12, 20_000, message=SOURCE)
WALK_MPS = 0.5

RADIO: dict[str, tuple[object, dict[str, object]]] = {
    "path_loss": ("umi", {}),
    "path_loss_options": ({"reference_loss_db": 50.0}, {"path_loss": "log_distance"}),
    "path_loss_exponent": (3.0, {"path_loss": "log_distance"}),
    "path_loss_reference_m": (5.0, {"path_loss": "log_distance"}),
    "line_of_sight": ("never", {}),
    "los_decorrelation_m": (11.0, {}),
    "tx_height_m": (4.0, {}),
    "rx_height_m": (4.0, {}),
    "device_heights": ("drawn", {"path_loss": "uma"}),
    "min_distance_m": (30.0, {}),
    "carrier_hz": (3e9, {}),
    "bandwidth_hz": (4e6, {}),
    "subchannels": (2, {}),
    "tx_power_dbm": (17.0, {}),
    "antenna_gain_db": (2.0, {}),
    "noise_figure_db": (5.0, {}),
    "shadowing": (False, {}),
    "shadowing_sigma_db": (4.0, {}),
    "shadowing_decorrelation_m": (30.0, {}),
    "fading": ("nakagami", {}),
    "rician_k_db": (3.0, {"fading": "rician"}),
    "nakagami_m": (3.0, {"fading": "nakagami"}),
    "speed_mps": (3.0, {}),
    "doppler": ("velocity", {"speed_mps": WALK_MPS}),
    "delay_spread_s": (1e-6, {}),
    "walls": ("high_loss", {}),
    "indoor_share": (0.3, {"walls": "low_loss"}),
    "building_m": (90.0, {"walls": "low_loss"}),
    "blockage": ("portrait", {}),
    "blockers": (9, {"blockage": "others"}),
    "antenna": ("panel", {}),
    "antenna_panels": (3, {"antenna": "panel"}),
    "slot_s": (3e-3, {"scheduler": "aloha", "aloha_probability": 0.01}),
    "rate": ("cqi", {}),
    "nr_table": ("qam256", {"rate": "nr", "tx_power_dbm": 33.0}),
    "nr_spacing_hz": (30e3, {"rate": "nr"}),
    "nr_overhead": ("sidelink", {"rate": "nr"}),
    "nr_feedback_slots": (2, {"rate": "nr", "nr_overhead": "sidelink"}),
    "snr_gap_db": (1.0, {}),
    "sinr_min_db": (4.0, {}),
    "csi": ("genie", {}),
    "csi_delay_s": (1e-3, {"csi": "delayed", "speed_mps": 5.0}),
    "csi_pilots": (2.0, {"csi": "estimated"}),
    "rate_margin_db": (6.0, {}),
    "outer_loop_target": (0.1, {}),
    "outer_loop_step_db": (2.0, {"outer_loop_target": 0.1}),
    "fade_margin_db": (25.0, {"scheduler": "max_weight"}),
    "errors": ("chen", {}),
    "waterfall_db": (6.0, {"errors": "chen"}),
    "scheduler": ("tdma", {}),
    "scheduler_options": ({"one": 1}, {}),
    "priority": ("deadline", {"scheduler": "tdma"}),
    "aloha_probability": (0.3, {"scheduler": "aloha"}),
    "conflict_factor": (1.0, {"scheduler": "coloring"}),
    "multicast": (False, {}),
    "control": ("charged", {}),
    "control_every_rounds": (2, {"control": "charged"}),
    "control_gain_bits": (2, {"control": "charged"}),
    "control_header_bytes": (40, {"control": "charged"}),
    "power_control": ("foschini_miljanic", {}),
    "max_attempts": (1, {}),
    "harq": ("chase", {}),
    "feedback_s": (1e-3, {}),
    "feedback_delay_s": (2e-3, {}),
    "deadline_s": (0.1, {}),
    "energy": ("states", {}),
    "energy_options": ({"unit_w": 2e-3}, {"energy": "states"}),
    "amplifier_efficiency": (0.5, {}),
    "circuit_power_w": (0.3, {}),
    "receive_power_w": (0.3, {}),
    "listen_power_w": (0.2, {}),
    "idle_power_w": (0.2, {}),
    "dense_devices": (11, {"near_neighbours": 4}),
    "near_neighbours": (4, {"dense_devices": 11}),
    "far_field": ("none", {"dense_devices": 11, "near_neighbours": 4}),
    "external_per_km2": (50.0, {}),
    "external_power_dbm": (33.0, {"external_per_km2": 50.0}),
    "external_duty": (0.5, {"external_per_km2": 50.0}),
}
"""Another value of every setting, and settings under which it acts."""


FOUND: dict[str, bytes] = {}


def outcome(settings):
    if repr(settings) not in FOUND:
        channel = Channel(settings, PLACE, seed=3)
        done = channel.plan_round(0, WANTED)
        if settings.speed_mps == WALK_MPS:  # there and back: in their places, with a velocity
            channel.move(PLACE * 1.01)
            channel.move(PLACE)
        if settings.control == "charged" or settings.speed_mps == WALK_MPS:
            done = channel.plan_round(1, WANTED)
        columns = ["start_s", "end_s", "sinr_db", "power_w", "delivered"]
        table = done.table[columns].to_numpy(np.float64)
        FOUND[repr(settings)] = table.tobytes() + done.energy_j.tobytes()
    return FOUND[repr(settings)]


def test_the_table_has_every_setting_of_the_radio():
    assert list(RADIO) == [field.name for field in dataclasses.fields(RadioSettings)]


@pytest.mark.parametrize("name", RADIO)
def test_every_setting_of_the_radio_acts_or_is_refused_or_told(name):
    value, context = RADIO[name]
    if name == "scheduler_options":
        with pytest.raises(ValueError, match="no options"):
            RadioSettings(scheduler_options=value)
        return
    base = RadioSettings(**context)
    assert outcome(dataclasses.replace(base, **{name: value})) != outcome(base)
    try:
        alone = RadioSettings(**{name: value})
    except ValueError:
        return
    notes = idle_notes(alone, settings_model(alone), 12)
    told = any(note.startswith(f"{name} is {value} and has no effect") for note in notes)
    assert told != (outcome(alone) != outcome(RadioSettings()))


def test_settings_that_others_keep_out_of_use_are_told():
    cases = {
        "line_of_sight": {"path_loss": "log_distance", "line_of_sight": "never"},
        "los_decorrelation_m": {"line_of_sight": "always", "los_decorrelation_m": 9.0},
        "shadowing_decorrelation_m": {"path_loss": "free_space", "shadowing_decorrelation_m": 9.0},
        "shadowing_sigma_db": {"shadowing": False, "shadowing_sigma_db": 3.0},
        "speed_mps": {"fading": "none", "speed_mps": 2.0},
        "csi": {"fading": "none", "csi": "genie"},
        "snr_gap_db": {"rate": "cqi", "snr_gap_db": 1.0},
        "multicast": {"scheduler": "coloring", "multicast": False},
        "power_control": {"scheduler": "aloha", "power_control": "foschini_miljanic"},
        "fade_margin_db": {"scheduler": "tdma", "fade_margin_db": 3.0},
    }  # fmt: skip
    for name, fields in cases.items():
        settings = RadioSettings(**fields)
        (note,) = idle_notes(settings, settings_model(settings), 12)
        assert note.startswith(f"{name} is ") and "no effect" in note
        usual = {key: value for key, value in fields.items() if key != name}
        assert outcome(settings) == outcome(RadioSettings(**usual))


def test_default_settings_have_nothing_to_tell():
    settings = RadioSettings()
    model = settings_model(settings)
    assert not idle_notes(settings, model, 10) and not setting_notes(settings, model)


TOPOLOGY: dict[str, dict[str, tuple[str, ...]]] = {
    # graph -> key -> its other value, and keys under which it acts
    "clustered": {
        "min_snr_db": ("25",), "reach": ("relay",), "mixing": ("", "has none but for the method"),
        "max_degree": ("2",), "min_gap": ("0.9",),
        "gateways_per_pair": ("3", "devices.partition.type=one_each", "devices.partition.min_holders=2"),
        "airtime_weight": ("9", "collision_weight=1"), "energy_weight": ("50", "devices.classes=mixed"),
        "collision_weight": ("50",), "interference_factor": ("9", "collision_weight=1"), "by": ("similarity",),
        "features_path": ("none.npy",), "clusters": ("3",), "strict": ("true", "max_degree=1"), "features": ("", ""),
    },
    "k_regular": {"degree": ("6",), "reach": ("ignore",)},
    "k_nearest": {"degree": ("6",)},
    "small_world": {"degree": ("6",), "rewire": ("0.9",), "order": ("index",)},
    "erdos_renyi": {"probability": ("0.3",), "mean_degree": ("3",)},
    "geometric": {"radius_m": ("60",)},
    "ring": {"order": ("index",)},
    "grid": {"columns": ("3",), "wrap": ("true",)},
    "d_cliques": {"clique_size": ("3",), "between": ("complete",), "far": ("3",)},
}  # fmt: skip


def built(kind, *words):
    base = ("devices.count=16", "devices.area_m=[300,300]", "seed=5", f"topology.type={kind}")
    try:
        config = load_config(None, [*base, *words])
        made = build_deployment(config, 4).topology
    except InputError as error:
        return str(error)
    return sorted(map(tuple, made.edges.tolist())), graph_notes(config.topology, made)


@pytest.mark.parametrize("kind", TOPOLOGY)
def test_every_key_of_a_graph_acts_or_is_refused_or_told(kind):
    own = set(topology_section(kind).model_fields) - {"type", "mixing", "min_snr_db", "reach"}
    assert own <= set(TOPOLOGY[kind])
    standard = built(kind)
    for key, (value, *context) in TOPOLOGY[kind].items():
        if not value:
            continue
        context = [word if "." in word else f"topology.{word}" for word in context]
        found = built(kind, f"topology.{key}={value}", *context)
        usual = built(kind, *context) if context else standard
        assert found != usual, f"{kind}: {key}={value} does nothing and nobody is told"


def test_keys_of_a_graph_that_others_keep_out_of_use_are_told():
    for kind, words in (
        ("clustered", ["interference_factor=3"]),
        ("clustered", ["airtime_weight=3"]),
        ("clustered", ["reach=ignore"]),
        ("erdos_renyi", ["mean_degree=3", "probability=0.5"]),
        ("d_cliques", ["far=4"]),
    ):
        _, notes = built(kind, *(f"topology.{word}" for word in words))
        assert any(words[0].split("=")[0] in note and "no effect" in note for note in notes)


def test_the_other_graphs_have_no_keys_of_their_own():
    tried = {*TOPOLOGY, "file"}
    for kind in set(GRAPHS.own) - tried:
        assert set(topology_section(kind).model_fields) == {"type", "mixing", "min_snr_db", "reach"}
