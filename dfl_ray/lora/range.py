"""The range of trained values."""

LARGEST_VALUE = 65504.0
"""Largest number of float16, in which adapters are sent and kept; see `lora.optimizer.in_range`."""
