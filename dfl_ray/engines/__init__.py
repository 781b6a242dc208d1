"""The training step of many adapters at once: on a CPU, on a GPU, and the plain reference."""
