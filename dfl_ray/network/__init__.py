"""The run's devices, its communication graph, and what travels on it."""
