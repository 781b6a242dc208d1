"""Mixes of device classes: all phones, or phones, tablets and sensors."""

from __future__ import annotations

from channels.energy import DeviceClass

UNIFORM = (DeviceClass(),)
MIXED = (
    DeviceClass("phone", share=0.6),
    DeviceClass("tablet", share=0.2, frequency_hz=3e9),
    DeviceClass("sensor", share=0.2, frequency_hz=6e8, tx_power_dbm=17.0),
)
