"""Compiled loops over pairs of devices: keyed draws, large-scale gains, near lists.

Import this module only inside functions: it imports numba. All compiled callers of a function live in
its file, because numba's cache does not notice a change in another file; `channels.fading_kernels` alone uses the
draws of this one.

Conventions: `x_m`, `y_m` are (N,) float64; `words` is (N, 17) uint64 (see `channels.shadowing.Sites`);
`curves` is (3, points) float64 holding, over a uniform grid in ln(distance), ln gain in LOS, ln gain in NLOS and
P_LOS; `numbers` (see `LargeScale.numbers`) are the scalar parameters; `local` is what a device's surroundings take
(see `channels.surroundings.LocalGains`), three arrays, empty where there is nothing. A near list is `indptr` (N + 1,)
int64, `index` (entries,) int32 and `gain` (entries,) float64 of linear power gains.
"""

# numba ships no type information.
# pyright: basic

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S12, _S27, _S30, _S31 = np.uint64(12), np.uint64(27), np.uint64(30), np.uint64(31)
_TWO_M52 = 2.0**-52
_S16, _S32 = np.uint64(16), np.uint64(32)
_LANES, _LOW_LANE = np.uint64(0x0000FFFF0000FFFF), np.uint64(0xFFFFFFFF)
# `channels.shadowing.TESSELLATIONS`; each gives 4 uniforms of 16 bits.
_CELLS = 8
_FIELD_MEAN = 4 * _CELLS * 65535 / 2
_FIELD_SCALE = 1.0 / math.sqrt(4 * _CELLS * (65536.0**2 - 1) / 12)
_FIELD_MOST = _FIELD_MEAN * _FIELD_SCALE


@kernel
def mix(word):
    """SplitMix64's finaliser (see `channels.draws.mix`)."""
    z = word + _GOLDEN
    z = (z ^ (z >> _S30)) * _FIRST
    z = (z ^ (z >> _S27)) * _SECOND
    return z ^ (z >> _S31)


@kernel
def pair_word(key, first, second):
    """Symmetric hash of a key and a pair (see `channels.draws.pair_words`)."""
    low, high = np.uint64(min(first, second)), np.uint64(max(first, second))
    return mix(mix(key ^ low) ^ high)


@kernel
def uniform(word):
    """Uniform in (0, 1) from a uint64 word (see `channels.draws.words_to_uniform`)."""
    return (np.float64(word >> _S12) + 0.5) * _TWO_M52


# Wichura's coefficients, highest power first: centre, middle, tail; numerators and denominators.
_CENTRE = (
    (2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457,
     13731.693765509461125, 1971.5909503065514427, 133.14166789178437745, 3.387132872796366608),
    (5226.495278852545925, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867,
     5394.1960214247511077, 687.1870074920579083, 42.313330701600911252, 1.0),
)  # fmt: skip
_MIDDLE = (
    (7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
     3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734),
    (1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
     0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0),
)  # fmt: skip
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 0.0012426609473880784386, 0.026532189526576123093,
     0.29656057182850489123, 1.7848265399172913358, 5.4637849111641143699, 6.6579046435011037772),
    (2.04426310338993978564e-15, 1.4215117583164458887e-7, 1.8463183175100546818e-5, 7.868691311456132591e-4,
     0.0148753612908506148525, 0.13692988092273580531, 0.59983220655588793769, 1.0),
)  # fmt: skip


@kernel
def _ratio(coefficients, r):
    above, below = coefficients[0][0], coefficients[1][0]
    for k in range(1, 8):
        above = above * r + coefficients[0][k]
        below = below * r + coefficients[1][k]
    return above / below


@kernel
def normal(word):
    """Standard normal from a uint64 word: the inverse CDF of its uniform, relative error 1e-16.

    Source:
        Wichura, Algorithm AS 241 (PPND16), Applied Statistics 37 (1988).
    """
    q = uniform(word) - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(_CENTRE, 0.180625 - q * q)
    r = math.sqrt(-math.log(0.5 - abs(q)))
    value = _ratio(_MIDDLE, r - 1.6) if r <= 5.0 else _ratio(_TAIL, r - 5.0)
    return math.copysign(value, q)


@kernel
def _lines(word, counts):
    """Number of lines in a unit: the quantile of its hash under the distribution function `counts`."""
    drawn, number = uniform(word), 0
    while counts[number] < drawn:
        number += 1
    return number


@kernel
def cell_words(x_m, y_m, axes, keys, counts):
    """Hash (places,) of the cell of each place between random lines (see `channels.shadowing`).

    `axes` (2, directions) turns positions into places along each direction, at one line a unit; `keys`
    (directions,) draws the lines. A unit's number of lines and their places are hashes of the unit, so that the
    last line at or below a place is found without a list.
    """
    out = np.zeros(x_m.shape[0], np.uint64)
    for p in range(x_m.shape[0]):
        for k in range(keys.shape[0]):
            place = x_m[p] * axes[0, k] + y_m[p] * axes[1, k]
            unit = math.floor(place)
            word = mix(keys[k] ^ np.uint64(np.int64(unit)))
            below = 0
            for number in range(_lines(word, counts)):
                below += uniform(mix(word + np.uint64(number + 1))) <= place - unit
            while below == 0:
                unit -= 1
                word = mix(keys[k] ^ np.uint64(np.int64(unit)))
                below = _lines(word, counts)
            out[p] = mix(out[p] ^ mix(word ^ mix(np.uint64(below))))
    return out


@kernel
def field_value(words, first, second, begin):
    """Value of a field over pairs (see `channels.shadowing`) from the cells of both ends, nearly standard normal.

    The sum of 32 uniforms of 16 bits, 4 from each cell pair's hash: its excess kurtosis is -0.0375.
    """
    total = np.uint64(0)
    for t in range(begin, begin + _CELLS):
        word = mix(words[first, t] + words[second, t])
        total += (word & _LANES) + ((word >> _S16) & _LANES)
    both = np.float64(total & _LOW_LANE) + np.float64(total >> _S32)
    return (both - _FIELD_MEAN) * _FIELD_SCALE


@kernel
def curve_value(curves, row, position):
    """Linear interpolation of row `row` of `curves` at a fractional grid position, clamped to the grid (see above)."""
    last = curves.shape[1] - 1
    position = min(max(position, 0.0), last - 1e-9)
    k = int(position)
    return curves[row, k] + (curves[row, k + 1] - curves[row, k]) * (position - k)


@kernel
def _toward(table, i, bearing):
    """ln gain of device i towards a bearing in radians, linear between the bins of its row, which go round once."""
    bins = table.shape[1]
    place = (bearing / (2.0 * math.pi)) % 1.0 * bins
    k = int(place)
    low, high = table[i, k % bins], table[i, (k + 1) % bins]
    return low + (high - low) * (place - k)


@kernel
def local_gain(i, j, dx, dy, local):
    """ln gain of the surroundings of devices i and j, `dx` and `dy` from j to i in m; never depends on their order.

    Walls of both ends, but not between devices in one building; what antennas and blockers take towards the other end.
    """
    building, wall, toward = local
    value = 0.0
    if wall.shape[0] > 0 and building[i] != building[j]:
        value += wall[i] + wall[j]
    if toward.shape[0] > 0:
        # Bearings of the two ends differ by half a turn; the sum is taken in an order that both share.
        one, other = _toward(toward, i, math.atan2(-dy, -dx)), _toward(toward, j, math.atan2(dy, dx))
        value += min(one, other) + max(one, other)
    return value


@kernel
def large_scale_gain(i, j, dx, dy, words, curves, numbers, local):
    """Linear gain, > 0, of devices i and j, without fading: path loss, LOS state, shadowing, surroundings.

    ln G = curve of the state + sigma·field value + surroundings + ln antenna gain; in sight iff the pair's uniform is
    below P_LOS. `dx`, `dy` lead from j to i, in m.
    """
    squared_m2 = dx**2 + dy**2
    position = (0.5 * math.log(max(squared_m2, numbers[9])) - numbers[0]) * numbers[1]
    probability = curve_value(curves, 2, position)
    if numbers[7] == 0.0:
        los = uniform(mix(words[i, 2 * _CELLS] + words[j, 2 * _CELLS])) < probability
    else:
        los = numbers[7] > 0.0
    state = 0 if los else 1
    log_gain = curve_value(curves, state, position)
    sigma = numbers[2 + state]
    if sigma > 0.0:
        log_gain += sigma * field_value(words, i, j, state * _CELLS)
    log_gain += local_gain(i, j, dx, dy, local)
    return math.exp(log_gain + numbers[8])


@kernel
def pair_gains(first, second, x_m, y_m, words, curves, numbers, local):
    """Linear gains (pairs,) of the index pairs `first`, `second` (pairs,) (see `large_scale_gain`)."""
    out = np.empty(first.shape[0])
    for p in range(first.shape[0]):
        i, j = first[p], second[p]
        out[p] = large_scale_gain(i, j, x_m[i] - x_m[j], y_m[i] - y_m[j], words, curves, numbers, local)
    return out


@kernel
def dense_list(x_m, y_m, words, curves, numbers, local):
    """Linear gains (N·N,) of all pairs, row by row, symmetric; the diagonal is 0 (see `large_scale_gain`)."""
    n = x_m.shape[0]
    gain = np.zeros(n * n)
    for i in range(n):
        for j in range(i + 1, n):
            value = large_scale_gain(i, j, x_m[i] - x_m[j], y_m[i] - y_m[j], words, curves, numbers, local)
            gain[i * n + j] = value
            gain[j * n + i] = value
    return gain


@kernel
def cell_lists(x_m, y_m, cell_m):
    """Sort devices into square cells of `cell_m` metres a side.

    Returns columns and rows of the grid, (columns·rows + 1,) start of each cell in the list, (N,) devices by cell and
    (N,) cell of each device.
    """
    low_x, low_y = x_m.min(), y_m.min()
    columns = int((x_m.max() - low_x) / cell_m) + 1
    rows = int((y_m.max() - low_y) / cell_m) + 1
    n = x_m.shape[0]
    cell = np.empty(n, np.int64)
    start = np.zeros(columns * rows + 1, np.int64)
    for i in range(n):
        cell[i] = int((x_m[i] - low_x) / cell_m) + columns * int((y_m[i] - low_y) / cell_m)
        start[cell[i] + 1] += 1
    for c in range(columns * rows):
        start[c + 1] += start[c]
    cursor = start[:-1].copy()
    member = np.empty(n, np.int64)
    for i in range(n):
        member[cursor[cell[i]]] = i
        cursor[cell[i]] += 1
    return columns, rows, start, member, cell


@kernel
def strong_pairs(
    x_m, y_m, words, radius_m, min_gain, cell_m, columns, rows, start, member, cell, capacity, bins_per_m2,
    most_los, weakest, curves, numbers, local,
):  # fmt: skip
    """Pairs i < j within a radius whose gain reaches a bound: (i, j, gain, number found).

    Per bin of squared distance, `most_los` bounds P_LOS from above and `weakest` bounds from below the shadowing
    value a pair out of sight needs. Only the first `capacity` pairs are stored.
    """
    first = np.empty(capacity, np.int32)
    second = np.empty(capacity, np.int32)
    gain = np.empty(capacity)
    found = 0
    reach = math.ceil(radius_m / cell_m)
    limit = radius_m * radius_m
    n = member.shape[0]
    # Copies in cell order, so that the scan is sequential in memory.
    xs, ys, sorted_words = x_m[member], y_m[member], words[member]
    near = (
        local[0][member] if local[0].shape[0] > 0 else local[0],
        local[1][member] if local[1].shape[0] > 0 else local[1],
        local[2][member] if local[2].shape[0] > 0 else local[2],
    )
    los_words, nlos_words = sorted_words[:, 2 * _CELLS].copy(), sorted_words[:, _CELLS : 2 * _CELLS].copy()
    for p in range(n):
        column, row = cell[member[p]] % columns, cell[member[p]] // columns
        left, right = max(column - reach, 0), min(column + reach, columns - 1)
        for r in range(row, min(row + reach, rows - 1) + 1):
            begin = p + 1 if r == row else start[r * columns + left]
            for q in range(begin, start[r * columns + right + 1]):
                dx, dy = xs[p] - xs[q], ys[p] - ys[q]
                squared = dx**2 + dy**2
                if squared >= limit:
                    continue
                bin_ = int(squared * bins_per_m2)
                in_sight = uniform(mix(los_words[p] + los_words[q])) < most_los[bin_]
                if not in_sight and (
                    weakest[bin_] > _FIELD_MOST or field_value(nlos_words, p, q, 0) < weakest[bin_]
                ):
                    continue
                value = large_scale_gain(p, q, dx, dy, sorted_words, curves, numbers, near)
                if value >= min_gain:
                    if found < capacity:
                        i, j = member[p], member[q]
                        first[found], second[found], gain[found] = min(i, j), max(i, j), value
                    found += 1
    return first, second, gain, found


@kernel
def symmetric_list(first, second, gain, devices):
    """Turn E pairs with their `gain` into a near list, each pair in both rows (for its form see above)."""
    indptr = np.zeros(devices + 1, np.int64)
    for p in range(first.shape[0]):
        indptr[first[p] + 1] += 1
        indptr[second[p] + 1] += 1
    for i in range(devices):
        indptr[i + 1] += indptr[i]
    cursor = indptr[:-1].copy()
    index = np.empty(indptr[-1], np.int32)
    value = np.empty(indptr[-1])
    for p in range(first.shape[0]):
        i, j = first[p], second[p]
        index[cursor[i]], value[cursor[i]] = j, gain[p]
        index[cursor[j]], value[cursor[j]] = i, gain[p]
        cursor[i] += 1
        cursor[j] += 1
    return indptr, index, value
