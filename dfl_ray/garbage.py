"""How often Python looks for garbage in circles, in a module that imports nothing."""

from __future__ import annotations


def collect_seldom() -> None:
    """Have Python look for garbage in circles less often, in a process that is ours alone.

    What imports and set-up make stays, and is much: with Python's own thresholds nine tenths of the time in which
    100,000 devices' small objects are made goes by looking at them.
    """
    import gc

    gc.set_threshold(20_000, 20, 50)
