"""A group of devices hosted in one process: training, exchange, evaluation, snapshots. Needs no Ray."""
