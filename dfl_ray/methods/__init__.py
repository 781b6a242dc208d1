"""Learning methods, one file each; `dfl_ray.methods.table` maps `method.type` to its class."""
