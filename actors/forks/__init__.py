"""Actors as forks of one process that has everything imported: the driver holds a `ForkServer`, Ray starts `join`."""

from actors.forks.control import ForkServer, drop_ahead, server_ahead, start_ahead, take_server

__all__ = ["ForkServer", "drop_ahead", "server_ahead", "start_ahead", "take_server"]
