"""`python -m dfl_ray`: the command line without an installed script."""

from __future__ import annotations

import os
import sys

# `python -m` puts the current folder first: nothing is imported from there unless the project itself is.
_here, _root = (
    os.path.realpath(os.getcwd()),
    os.path.realpath(os.path.join(os.path.dirname(__file__), os.pardir)),
)
if sys.path and os.path.realpath(sys.path[0]) == _here != _root:
    del sys.path[0]

from dfl_ray.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
