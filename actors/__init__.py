"""Ray actors: the only place of the project that makes them. The classes inside are plain and live in dfl_ray."""
