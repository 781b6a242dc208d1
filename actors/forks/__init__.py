"""Actors as forks of one process that has everything imported: the driver holds a `ForkServer`, Ray starts `join`."""

from actors.forks.control import ForkServer

__all__ = ["ForkServer"]
