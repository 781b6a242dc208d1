"""`python -m dfl_ray`: the command line without an installed script."""

from __future__ import annotations

import sys

from dfl_ray.cli import main

if __name__ == "__main__":
    sys.exit(main())
