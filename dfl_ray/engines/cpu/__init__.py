"""Many adapters over one small base on a CPU: each merged into the weights, rows of any length without padding."""
