"""Compiled loops over pairs of devices: keyed draws, large-scale gains, near lists, SINR with fading.

Import this module only inside functions: it imports numba. All compiled callers of a function live in
its file, because numba's cache does not notice a change in another file.

Conventions: `x_m`, `y_m`, `travelled_m` are (N,) float64; `curves` is (3, points) float64 holding, over
a uniform grid in ln(distance), ln gain in LOS, ln gain in NLOS and P_LOS; `numbers` (see
`LargeScale.numbers`) and `keys` are the scalar parameters. A near list is `indptr` (N + 1,) int64,
`index` (entries,) int32 and `gain` (entries,) float64 of linear power gains.
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
# Anchors of the exponential process stand this many decorrelation lengths apart: e^-8 counts as nothing.
_ANCHOR_SPACING = 8.0
_BISECTIONS = 12


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
    """Uniform in (0, 1) from a word."""
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
    """Standard normal from a word: the inverse CDF by Wichura's AS 241 (PPND16), relative error 1e-16."""
    q = uniform(word) - 0.5
    if abs(q) <= 0.425:
        return q * _ratio(_CENTRE, 0.180625 - q * q)
    r = math.sqrt(-math.log(0.5 - abs(q)))
    value = _ratio(_MIDDLE, r - 1.6) if r <= 5.0 else _ratio(_TAIL, r - 5.0)
    return math.copysign(value, q)


@kernel
def exponential_process(key, x):
    """A stationary unit Gaussian process with correlation exp(-|lag|), evaluated anywhere, without history.

    Independent anchors stand every 8 units; between them the value is found by bisection with the exact
    conditional law of an AR(1) (Ornstein-Uhlenbeck) bridge, down to 1/512 of a unit, then linearly.
    """
    cell = math.floor(x / _ANCHOR_SPACING)
    left = normal(mix(key ^ np.uint64(cell)))
    offset = x - cell * _ANCHOR_SPACING
    if offset == 0.0:
        return left
    right = normal(mix(key ^ np.uint64(cell + 1)))
    node_key = mix(mix(key ^ np.uint64(cell)) + _FIRST)
    node = np.uint64(1)
    span = _ANCHOR_SPACING
    for _ in range(_BISECTIONS):
        span *= 0.5
        rho = math.exp(-span)
        scale = 1.0 / (1.0 + rho * rho)
        spread = math.sqrt((1.0 - rho * rho) * scale)
        middle = (left + right) * rho * scale + spread * normal(mix(node_key ^ node))
        if offset < span:
            right = middle
            node = node * np.uint64(2)
        else:
            left = middle
            offset -= span
            node = node * np.uint64(2) + np.uint64(1)
    return left + (right - left) * (offset / span)


@kernel
def curve_value(curves, row, position):
    """Linear interpolation of one curve at a fractional grid position, clamped to the grid."""
    last = curves.shape[1] - 1
    position = min(max(position, 0.0), last - 1e-9)
    k = int(position)
    return curves[row, k] + (curves[row, k + 1] - curves[row, k]) * (position - k)


@kernel
def large_scale_gain(i, j, squared_m2, x, curves, numbers, keys):
    """Linear gain of a pair without fading: path loss, LOS state and shadowing.

    `x` is the ground both ends have travelled together in m.
    """
    position = (0.5 * math.log(max(squared_m2, numbers[9])) - numbers[0]) * numbers[1]
    probability = curve_value(curves, 2, position)
    if numbers[7] == 0.0 and 0.0 < probability < 1.0:
        word = pair_word(keys[1], i, j)
        if x == 0.0:
            los = uniform(mix(word ^ np.uint64(0))) < probability
        else:
            los = 0.5 * math.erfc(-exponential_process(word, x / numbers[6]) / math.sqrt(2.0)) < probability
    elif numbers[7] == 0.0:
        los = probability >= 1.0
    else:
        los = numbers[7] > 0.0
    state = 0 if los else 1
    log_gain = curve_value(curves, state, position)
    sigma = numbers[2 + state]
    if sigma > 0.0:
        log_gain += sigma * exponential_process(pair_word(keys[0], i, j), x / numbers[4 + state])
    return math.exp(log_gain + numbers[8])


@kernel
def pair_gains(first, second, x_m, y_m, travelled_m, curves, numbers, keys):
    """Linear gains (pairs,) of index pairs."""
    out = np.empty(first.shape[0])
    for p in range(first.shape[0]):
        i, j = first[p], second[p]
        squared = (x_m[i] - x_m[j]) ** 2 + (y_m[i] - y_m[j]) ** 2
        out[p] = large_scale_gain(i, j, squared, travelled_m[i] + travelled_m[j], curves, numbers, keys)
    return out


@kernel
def dense_list(x_m, y_m, travelled_m, curves, numbers, keys):
    """Gains (N·N,) of all pairs, row by row; the diagonal is 0."""
    n = x_m.shape[0]
    gain = np.zeros(n * n)
    for i in range(n):
        for j in range(i + 1, n):
            squared = (x_m[i] - x_m[j]) ** 2 + (y_m[i] - y_m[j]) ** 2
            value = large_scale_gain(i, j, squared, travelled_m[i] + travelled_m[j], curves, numbers, keys)
            gain[i * n + j] = value
            gain[j * n + i] = value
    return gain


@kernel
def cell_lists(x_m, y_m, cell_m):
    """Sort devices into square cells: (columns, rows, cell starts, devices by cell, cell of each device)."""
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
def _surely_weak(low_los, low_shadow, high, most_los, weakest_draw):
    """Whether a still pair is certainly below the bound, from two hashes (`large_scale_gain` at x = 0)."""
    if uniform(mix(mix(low_los ^ high))) < most_los:
        return False
    if weakest_draw >= 1.0:
        return True
    return uniform(mix(mix(low_shadow ^ high))) < weakest_draw


@kernel
def _sorted_copies(x_m, y_m, member, keys):
    """Positions, names and half-made hashes in cell order, so that the scan is sequential in memory."""
    n = member.shape[0]
    xs, ys, names = np.empty(n), np.empty(n), np.empty(n, np.int64)
    los_words, shadow_words = np.empty(n, np.uint64), np.empty(n, np.uint64)
    for p in range(n):
        i = member[p]
        xs[p], ys[p], names[p] = x_m[i], y_m[i], i
        los_words[p] = mix(keys[1] ^ np.uint64(i))
        shadow_words[p] = mix(keys[0] ^ np.uint64(i))
    return xs, ys, names, los_words, shadow_words


@kernel
def strong_pairs(
    x_m, y_m, travelled_m, radius_m, min_gain, cell_m, columns, rows, start, member, cell, capacity, still,
    bins_per_m2, most_los, weakest_draw, curves, numbers, keys,
):  # fmt: skip
    """Pairs i < j within a radius whose gain reaches a bound: (i, j, gain, number found).

    Per bin of squared distance, `most_los` bounds P_LOS from above and `weakest_draw` bounds from below the
    shadowing uniform a pair out of sight needs. Only the first `capacity` pairs are stored. `still` says that
    no device has moved, so that draws are plain hashes.
    """
    first = np.empty(capacity, np.int32)
    second = np.empty(capacity, np.int32)
    gain = np.empty(capacity)
    found = 0
    reach = math.ceil(radius_m / cell_m)
    limit = radius_m * radius_m
    n = member.shape[0]
    xs, ys, names, los_words, shadow_words = _sorted_copies(x_m, y_m, member, keys)
    for p in range(n):
        i = names[p]
        column, row = cell[i] % columns, cell[i] // columns
        left, right = max(column - reach, 0), min(column + reach, columns - 1)
        for r in range(row, min(row + reach, rows - 1) + 1):
            begin = p + 1 if r == row else start[r * columns + left]
            for q in range(begin, start[r * columns + right + 1]):
                squared = (xs[p] - xs[q]) ** 2 + (ys[p] - ys[q]) ** 2
                if squared >= limit:
                    continue
                j = names[q]
                low, high = (p, np.uint64(j)) if i < j else (q, np.uint64(i))
                bin_ = int(squared * bins_per_m2)
                if still and _surely_weak(
                    los_words[low], shadow_words[low], high, most_los[bin_], weakest_draw[bin_]
                ):
                    continue
                moved = travelled_m[i] + travelled_m[j]
                value = large_scale_gain(i, j, squared, moved, curves, numbers, keys)
                if value >= min_gain:
                    if found < capacity:
                        first[found], second[found], gain[found] = min(i, j), max(i, j), value
                    found += 1
    return first, second, gain, found


@kernel
def symmetric_list(first, second, gain, devices):
    """Turn pairs into a near list: (indptr, index, gain), each pair in both rows."""
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


@kernel
def fading_factor(i, j, time, kind, shape, table, key):
    """Fading power factor of a pair. kind: 0 none, 1 Rayleigh, 2 Rician (linear K), 3 by quantile table.

    `time` below 0 draws from the key alone; else the factor is taken at that time of AR(1) processes in
    units of their decorrelation time.
    """
    if kind == 0:
        return 1.0
    word = pair_word(key, i, j)
    if time < 0.0:
        if kind == 1:
            return -math.log(uniform(word))
        one = normal(word)
        other = normal(mix(word + _FIRST)) if kind == 2 else 0.0
    else:
        one = exponential_process(word, time)
        other = exponential_process(mix(word + _FIRST), time) if kind < 3 else 0.0
    if kind == 1:
        return 0.5 * (one * one + other * other)
    if kind == 2:
        direct = one + math.sqrt(2.0 * shape)
        return (direct * direct + other * other) / (2.0 * (1.0 + shape))
    return math.exp(curve_value(table, 0, (one + 8.0) * (table.shape[1] - 1) / 16.0))


@kernel
def fading_factors(first, second, time, kind, shape, table, key):
    """Fading power factors (pairs,) of index pairs in one slot."""
    out = np.empty(first.shape[0])
    for p in range(first.shape[0]):
        out[p] = fading_factor(first[p], second[p], time, kind, shape, table, key)
    return out


@kernel
def slot_sinr(
    source,
    destination,
    band,
    gain,
    floor_w,
    sending_band,
    power_w,
    indptr,
    index,
    in_gain,
    time,
    kind,
    shape,
    table,
    key,
):
    """SINR (rows,) of the receptions of one slot.

    Row r is a reception at `destination[r]` from `source[r]` on sub-channel `band[r]`, with mean gain
    `gain[r]` and noise plus far interference `floor_w[r]`. `sending_band` (N,) is the sub-channel each
    device transmits on, -1 for none.
    """
    out = np.empty(source.shape[0])
    for r in range(source.shape[0]):
        s, d = source[r], destination[r]
        total = floor_w[r]
        for q in range(indptr[d], indptr[d + 1]):
            n = index[q]
            if sending_band[n] == band[r] and n != s:
                total += power_w[n] * in_gain[q] * fading_factor(n, d, time, kind, shape, table, key)
        out[r] = power_w[s] * gain[r] * fading_factor(s, d, time, kind, shape, table, key) / total
    return out
