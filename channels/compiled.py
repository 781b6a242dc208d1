"""How loops over links and pairs are compiled, and where the machine code is kept.

`topology` and `channels` know neither each other nor `dfl_ray`, so each has this file; a test keeps the two equal.

numba keeps compiled code beside the source (`__pycache__`). Where that folder cannot be written, as in a
read-only install, it uses the user's cache folder (`~/.cache/numba`) by itself; where neither can be
written, `kernel` compiles without a cache, once per process. `NUMBA_CACHE_DIR` is numba's own switch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function with numba, cached on disk where a folder can be written.

    Floating-point code keeps IEEE order (no fast-math), so results do not depend on the machine's
    vector width.

    Args:
        function: A function in numba's nopython subset.

    Returns:
        The compiled function; it compiles at its first call unless the cache has it.
    """
    return _compiled(function)


def inner_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that kernels call very often and that makes no array; see `kernel`.

    A kernel counts the references to every array it is given or names, at each call. Where a call does little that is
    most of its time, and here it is left out: who calls holds the arrays. A function that makes an array is refused.

    Args:
        function: A function in numba's nopython subset that makes no array and returns none.

    Returns:
        The compiled function; see `kernel`.
    """
    return _compiled(function, _nrt=False)


def _compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    import numba

    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no folder it can write
        return numba.njit(cache=False, **options)(function)
