"""Mixes of device classes: all phones; phones, tablets and sensors; or six kinds of real hardware.

`UNIFORM` and `MIXED` are round numbers of a model: 2 GHz, 16 operations a cycle. `HARDWARE` is named after products,
figure by figure, with what each comes from (pages read in November 2026):

- phone, tx 23 dBm: power class 3 of a 3GPP device (TS 38.101-1, table 6.2.1-1; TS 38.101-3, table 6.2E.1.1-1). Adreno
  650+, 0.69 TFLOP/s in float32 at 5 W (hmc-tech.com, Adreno 650+). Battery 4000 mAh, Galaxy S21 (phonearena.com,
  taskboot.com) at 3.85 V nominal (assumption), 15.4 Wh.
- tablet: iPad Pro 11" with M1, 28.65 Wh (wccftech.com, 2021; macrumors.com, 7 May 2024); the M1's GPU has 2.6 TFLOP/s
  (Apple, 10 November 2020, in technologyforyou.org). Half of speed and power of the laptop's, since it has no fan
  (assumption). 20 dBm, the limit of the 2.4 GHz band (ETSI EN 300 328 v2.2.2; testxchange.com).
- laptop: MacBook Pro 13" with M1, 2.6 TFLOP/s at 10 W (as above), 58.2 Wh (macrumors.com, 10 November 2020), 20 dBm.
- jetson: Orin Nano 8 GB: 1024 CUDA cores at 625 MHz and 2 operations a cycle, 1.28 TFLOP/s, at 15 W (NVIDIA, Jetson
  Orin Nano data sheet). Mains power (assumption), 20 dBm.
- raspberry_pi: model 4 B, 8 GFLOP/s measured by HPL in float64 (feiereisen.net, 2 March 2022), 1.28 A at 5 V under
  `stress --cpu 4`, 6.4 W (pidramble.com, quoted by others). Mains power (assumption), 20 dBm.
- sensor: ESP32-S3, two cores at 240 MHz with a float32 unit each (Espressif, ESP32-S3 data sheet v2.0), 20 dBm (as
  above). A quarter of an operation a cycle, 100 mA at 3.3 V, and a cell of 3 Ah at 3.6 V are assumptions.

Training reaches a part of a GPU's peak: 30 % is assumed for phone, tablet, laptop and jetson; `dfl-ray calibrate`
measures it. The shares are assumptions too.
"""

from __future__ import annotations

from channels.energy import DeviceClass

GPU_USE = 0.3
"""Share of a GPU's peak that training reaches; an assumption."""
WH_J = 3600.0
"""Joules of a watt-hour."""

UNIFORM = (DeviceClass(),)
MIXED = (
    DeviceClass("phone", share=0.6),
    DeviceClass("tablet", share=0.2, frequency_hz=3e9),
    DeviceClass("sensor", share=0.2, frequency_hz=6e8, tx_power_dbm=17.0),
)


def _hardware(
    name: str, share: float, flops_per_s: float, watts: float, tx_power_dbm: float, battery_wh: float
) -> DeviceClass:
    figures = {"share": share, "flops_per_s": flops_per_s, "watts": watts, "tx_power_dbm": tx_power_dbm}
    return DeviceClass(name).at({**figures, "battery_j": battery_wh * WH_J})


HARDWARE = (
    _hardware("phone", 0.4, GPU_USE * 0.69e12, 5.0, 23.0, 4.0 * 3.85),
    _hardware("tablet", 0.15, GPU_USE * 1.3e12, 5.0, 20.0, 28.65),
    _hardware("laptop", 0.15, GPU_USE * 2.6e12, 10.0, 20.0, 58.2),
    _hardware("jetson", 0.1, GPU_USE * 1.28e12, 15.0, 20.0, float("inf")),
    _hardware("raspberry_pi", 0.1, 8e9, 6.4, 20.0, float("inf")),
    _hardware("sensor", 0.1, 2 * 240e6 * 0.25, 0.33, 20.0, 3.0 * 3.6),
)
