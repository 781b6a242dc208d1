"""Base models: the shipped embedded one and how it is made. Light: nothing here imports torch on its own."""

from dfl_ray.models.paths import embedded_path

__all__ = ["embedded_path"]
