"""Compiled loops over pairs of devices: large-scale gains, near lists.

Import this module only inside functions: it imports numba. All compiled callers of a function live in
its file, because numba's cache does not notice a change in another file; only `channels.draw_kernels`, which never
change, and `curve_value` are called from elsewhere.

Conventions: `x_m`, `y_m` are (N,) float64; `words` is (N, 17) uint64 (see `channels.shadowing.Sites`);
`curves` is (3·pairs, points) float64 holding, over a uniform grid in ln(distance), ln gain in LOS, ln gain in NLOS and
P_LOS, for each pair of heights (`channels.heights.height_pairs`; one where all have one height); `numbers` (see
`LargeScale.numbers`) are the scalar parameters; `local` is what a device's surroundings take
(see `channels.surroundings.LocalGains`), four arrays, empty where there is nothing. A near list is `indptr` (N + 1,)
int64, `index` (entries,) int32 and `gain` (entries,) float64 of linear power gains.
"""

from __future__ import annotations

import math

import numpy as np

from channels.compiled import kernel
from channels.draw_kernels import mix, uniform

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)
_S16, _S32 = np.uint64(16), np.uint64(32)
_LANES, _LOW_LANE = np.uint64(0x0000FFFF0000FFFF), np.uint64(0xFFFFFFFF)
# `channels.shadowing.TESSELLATIONS`; each gives 4 uniforms of 16 bits.
_CELLS = 8
_FIELD_MEAN = 4 * _CELLS * 65535 / 2
_FIELD_SCALE = 1.0 / math.sqrt(4 * _CELLS * (65536.0**2 - 1) / 12)
_FIELD_MOST = _FIELD_MEAN * _FIELD_SCALE
# Shadowing, in deviations, that no pair out of sight is taken to have where something surrounds devices: one in 300,000
# has, so that fewer than one strong pair in 10,000 is missed.
_UNLIKELY = 4.5
# Tangent of a sixteenth of the circle, 22.5 degrees.
_SIXTEENTH = math.sqrt(2.0) - 1.0
# atan(z)/(2·pi·z) over z².
_A1, _A3, _A5, _A7, _A9, _A11, _A13, _A15 = (
    0.159154924311, -0.0530492274636, 0.031778406737, -0.0222869285241, 0.0157067872029, -0.00936304601255,
    0.00378478708336, -0.000725713433894,
)  # fmt: skip


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
def _toward(table, i, place):
    """ln gain of device i at a place, in bins from 0 to their number, linear between the bins of its row."""
    bins = table.shape[1]
    k = int(place)
    low, high = table[i, k if k < bins else 0], table[i, k + 1 if k + 1 < bins else k + 1 - bins]
    return low + (high - low) * (place - k)


@kernel
def azimuth_turns(dx, dy):
    """Azimuth of a direction in the upper half plane, 0 to 1/2 turn: |error| < 2e-8 turns.

    The arc tangent of a number up to 1 as an odd polynomial, interpolated at Chebyshev's points; exact on the axes.
    """
    across = abs(dx)
    ratio = min(across, dy) / max(across, dy)
    q = ratio * ratio
    turn = ratio * (_A1 + q * (_A3 + q * (_A5 + q * (_A7 + q * (_A9 + q * (_A11 + q * (_A13 + q * _A15)))))))
    if dy > across:
        turn = 0.25 - turn
    return 0.5 - turn if dx < 0.0 else turn


@kernel
def local_gain(i, j, dx, dy, local):
    """ln gain of the surroundings of devices i and j, `dx` and `dy` from j to i in m; never depends on their order.

    Walls of both ends, but not between devices in one building; what antennas and blockers take towards the other end.
    """
    building, wall, toward, _ = local
    value = 0.0
    if wall.shape[0] > 0 and building[i] != building[j]:
        value += wall[i] + wall[j]
    if toward.shape[0] > 0:
        # The end from which the link leads into the upper half plane comes first, whatever the order of the devices.
        bins = toward.shape[1]
        if dy > 0.0 or (dy == 0.0 and dx > 0.0):
            place = azimuth_turns(dx, dy) * bins
            value += _toward(toward, j, place) + _toward(toward, i, place + bins / 2)
        elif dx == 0.0 and dy == 0.0:
            value += _toward(toward, i, 0.0) + _toward(toward, j, 0.0)
        else:
            place = azimuth_turns(-dx, -dy) * bins
            value += _toward(toward, i, place) + _toward(toward, j, place + bins / 2)
    return value


@kernel
def _sector(dx, dy):
    """Number, from 0 to 15, of the sixteenth of the circle a direction is in, counted from the positive x axis."""
    across, up = abs(dx), abs(dy)
    part = int(up > _SIXTEENTH * across) + int(up > across) + int(_SIXTEENTH * up > across)
    above, right = dy >= 0.0, dx >= 0.0
    return (0 if above else 8) + (part if above == right else 7 - part)


@kernel
def large_scale_gain(i, j, dx, dy, words, curves, numbers, local):
    """Linear gain, > 0, of devices i and j, without fading: path loss, LOS state, shadowing, surroundings.

    ln G = curve of the state + sigma·field value + surroundings + ln antenna gain; in sight iff the pair's uniform is
    below P_LOS. `dx`, `dy` lead from j to i, in m.
    """
    draw = uniform(mix(words[i, 2 * _CELLS] + words[j, 2 * _CELLS])) if numbers[7] == 0.0 else 0.0
    return _drawn_gain(i, j, dx, dy, draw, 0.0, False, words, curves, numbers, local)


@kernel
def _drawn_gain(i, j, dx, dy, draw, hidden, known, words, curves, numbers, local):
    """`large_scale_gain` of a pair whose uniform is `draw` and whose field value out of sight, if `known`, `hidden`."""
    squared_m2 = dx**2 + dy**2
    position = (0.5 * math.log(max(squared_m2, numbers[9])) - numbers[0]) * numbers[1]
    base, floor = 0, local[3]
    if floor.shape[0] > 0:
        high, low = max(floor[i], floor[j]), min(floor[i], floor[j])
        base = 3 * (high * (high + 1) // 2 + low)
    probability = curve_value(curves, base + 2, position)
    los = draw < probability if numbers[7] == 0.0 else numbers[7] > 0.0
    state = 0 if los else 1
    log_gain = curve_value(curves, base + state, position)
    sigma = numbers[2 + state]
    if sigma > 0.0:
        log_gain += sigma * (hidden if known and not los else field_value(words, i, j, state * _CELLS))
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
def _row_fields(words, first, begin, end, total):
    """Fill `total` (end - begin,) with the raw sums of `field_value` of a device and those from `begin` to `end`.

    `words` is (cells, N); sums are kept apart as there, in the two halves of a word. Written for several at once.
    """
    total[:] = np.uint64(0)
    for t in range(_CELLS):
        row, own = words[t, begin:end], words[t, first]
        for k in range(total.shape[0]):
            word = own + row[k] + _GOLDEN
            word = (word ^ (word >> _S30)) * _FIRST
            word = (word ^ (word >> _S27)) * _SECOND
            word ^= word >> _S31
            total[k] += (word & _LANES) + ((word >> _S16) & _LANES)


@kernel
def _row_caps(first, xs, ys, around, ends, begin, end, cap):
    """Fill `cap` (end - begin,) with what the surroundings of a device's pairs give at most, without trigonometry.

    `ends` (N, 16) bounds each end's part over sixteenths of the circle, and `around` are the walls.
    """
    building, wall = around[0], around[1]
    cap[:] = 0.0
    if wall.shape[0] > 0:
        other, loss, own, mine = building[begin:end], wall[begin:end], building[first], wall[first]
        for k in range(cap.shape[0]):
            cap[k] = mine + loss[k] if other[k] != own else 0.0
    if ends.shape[0] > 0:
        theirs, own_ends, x, y = ends[begin:end], ends[first], xs[begin:end], ys[begin:end]
        for k in range(cap.shape[0]):
            sector = _sector(xs[first] - x[k], ys[first] - y[k])
            cap[k] += theirs[k, sector] + own_ends[sector ^ 8]


@kernel
def _row_end(at, start, ys, low_y, cell_m, radius_m):
    """First member of a row of cells that may be within the radius of device p, in `start`; one behind the last.

    `at` is p, how many rows of cells above its own this one is, its own row and column, how many columns count at most,
    how many there are, this row's first cell, and whether it is of p's own kind, of which only those after p count.
    """
    p, up, row, column, reach, columns, first, own = at
    above = ys[p] - low_y - row * cell_m
    away = max(up * cell_m - above, above - (up + 1) * cell_m, 0.0)
    wide = min(int(math.sqrt(max(radius_m**2 - away**2, 0.0)) / cell_m) + 1, reach)
    begin = p + 1 if own and up == 0 else start[first + max(column - wide, 0)]
    return begin, start[first + min(column + wide, columns - 1) + 1]


@kernel
def _in_order(local, sectors, member):
    """What surrounds devices, and its bounds, in another order of theirs."""
    building, wall, toward, floor = local
    if wall.shape[0] > 0:
        building, wall = building[member], wall[member]
    if toward.shape[0] > 0:
        toward, sectors = toward[member], sectors[member]
    if floor.shape[0] > 0:
        floor = floor[member]
    return (building, wall, toward, floor), sectors


@kernel
def _row_pairs(p, begin, end, limit_m2, xs, ys, work, filters, model, min_gain, member, out, found):
    """Store the pairs of device p and those from `begin` to `end` that reach the bound; the number found so far.

    `work` are words of the lines of sight and of all fields, and what `_row_fields` and `_row_caps` gave; `filters`
    as `strong_pairs` takes them, with the most shadowing, and whether anything surrounds devices.
    """
    los_words, words, total, caps = work
    bins_per_m2, most_los, weakest, per_sigma, most, surrounded = filters
    curves, numbers, around = model
    first, second, gain = out
    for q in range(begin, end):
        k = q - begin
        dx, dy = xs[p] - xs[q], ys[p] - ys[q]
        squared = dx**2 + dy**2
        if squared >= limit_m2:
            continue
        bin_ = int(squared * bins_per_m2)
        needed = weakest[1, bin_] - caps[k] * per_sigma[1] if surrounded else weakest[1, bin_]
        draw = uniform(mix(los_words[p] + los_words[q]))
        in_sight = draw < most_los[bin_]
        if surrounded and in_sight:
            least = weakest[0, bin_] - caps[k] * per_sigma[0]
            in_sight = field_value(words, p, q, 0) >= least
        both = np.float64(total[k] & _LOW_LANE) + np.float64(total[k] >> _S32)
        hidden = (both - _FIELD_MEAN) * _FIELD_SCALE
        if not in_sight and (needed > most or hidden < needed):
            continue
        value = _drawn_gain(p, q, dx, dy, draw, hidden, True, words, curves, numbers, around)
        if value >= min_gain:
            if found < first.shape[0]:
                i, j = member[p], member[q]
                first[found], second[found], gain[found] = min(i, j), max(i, j), value
            found += 1
    return found


@kernel
def strong_pairs(
    x_m, y_m, words, radius_m, min_gain, cell_m, columns, rows, start, member, cell, kind, capacity, bins_per_m2,
    most_los, weakest, per_sigma, curves, numbers, local, sectors,
):  # fmt: skip
    """Pairs i < j within a radius whose gain reaches a bound: (i, j, gain, number found).

    Devices are of kinds, `kind` (N,), and `radius_m` (kinds, kinds) says how far pairs of two kinds are looked for;
    `start` has the cells of one kind after those of another, `member` likewise. Per bin of squared distance, `most_los`
    bounds P_LOS from above and `weakest` from below the shadowing value a pair needs where nothing surrounds it (2,
    bins: in sight, out of sight); what does raises it by its ln gain times `per_sigma` (2,). Where something surrounds
    devices, pairs out of sight that need more than `_UNLIKELY` count as weak. Only the first `capacity` pairs are
    stored.
    """
    first = np.empty(capacity, np.int32)
    second = np.empty(capacity, np.int32)
    gain = np.empty(capacity)
    found, n, low_y, kinds = 0, member.shape[0], y_m.min(), radius_m.shape[0]
    # Copies in cell order, so that the scan is sequential in memory.
    xs, ys, sorted_words = x_m[member], y_m[member], words[member]
    around, ends = _in_order(local, sectors, member)
    surrounded = around[1].shape[0] > 0 or ends.shape[0] > 0
    most = _UNLIKELY if surrounded else _FIELD_MOST
    los_words = sorted_words[:, 2 * _CELLS].copy()
    nlos_words = np.ascontiguousarray(sorted_words[:, _CELLS : 2 * _CELLS].T)
    work = los_words, sorted_words, np.empty(n, np.uint64), np.empty(n)
    filters = bins_per_m2, most_los, weakest, per_sigma, most, surrounded
    for p in range(n):
        column, row, own = cell[member[p]] % columns, cell[member[p]] // columns, kind[member[p]]
        for other in range(own, kinds):
            radius = radius_m[own, other]
            reach = math.ceil(radius / cell_m)
            for r in range(row if other == own else max(row - reach, 0), min(row + reach, rows - 1) + 1):
                at = p, r - row, row, column, reach, columns, (other * rows + r) * columns, other == own
                begin, end = _row_end(at, start, ys, low_y, cell_m, radius)
                _row_fields(nlos_words, p, begin, end, work[2][: end - begin])
                if surrounded:
                    _row_caps(p, xs, ys, around, ends, begin, end, work[3][: end - begin])
                found = _row_pairs(
                    p, begin, end, radius * radius, xs, ys, work, filters, (curves, numbers, around),
                    min_gain, member, (first, second, gain), found,
                )  # fmt: skip
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
