"""What is done to pixels, as Triton kernels: every one is integer arithmetic, that of geometry, colour, erase and mix.

A kernel is told what to do by entries, rows of int64 that plan.py writes: program p of t tiles works on tile p % t of
entry p // t. Pixels lie in one buffer of bytes, a view's in one of two slots: an operation reads one and writes the
other.
"""

import triton
import triton.language as tl


@triton.jit
def _entry(entries, tiles, FIELDS: tl.constexpr):
    """-> (this program's entry, its tile)."""
    program = tl.program_id(0)
    return entries + (program // tiles).to(tl.int64) * FIELDS, program % tiles


@triton.jit
def _slot(place, BYTES: tl.constexpr):
    """A view's slot, of which the compiler learns where it is aligned."""
    if BYTES % 16 == 0:
        place = tl.multiple_of(place, 16)
    return place


@triton.jit
def _place(i, width):
    """Byte i of a picture so wide -> its y, x and channel."""
    y = i // (3 * width)
    in_row = i - y * (3 * width)
    x = in_row // 3
    return y, x, in_row - 3 * x


@triton.jit
def _clipped(level):
    return tl.minimum(tl.maximum(level, 0), 255).to(tl.uint8)


@triton.jit
def _grey(red, green, blue):
    return (red * 9798 + green * 19235 + blue * 3735 + 16384) >> 15


@triton.jit(do_not_specialize=["row_tiles"])
def resize_across(
    pictures, across, weights, firsts, entries, row_tiles,
    WIDTH: tl.constexpr, FIELDS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """The rows of a crop that its view needs, to the view's width; mirrored where the view is."""
    column_tiles: tl.constexpr = (3 * WIDTH + COLUMNS - 1) // COLUMNS
    e, tile = _entry(entries, row_tiles * column_tiles, FIELDS)
    rows = tl.load(e + 2).to(tl.int32)
    first_row = (tile // column_tiles) * ROWS
    if first_row < rows:
        y = first_row + tl.arange(0, ROWS)
        i = (tile % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
        there = i < 3 * WIDTH
        x = i // 3
        channel = i - 3 * x
        x = tl.where(tl.load(e + 8) != 0, WIDTH - 1 - x, x)
        first = tl.load(firsts + tl.load(e + 5) + x, mask=there, other=0)
        at = tl.load(e) + y.to(tl.int64)[:, None] * tl.load(e + 1) + (3 * first + channel)[None, :]
        wanted = (y < rows)[:, None] & there[None, :]
        bits = tl.load(e + 6).to(tl.int32)
        taps = tl.load(e + 3).to(tl.int32)
        stride = tl.load(e + 14).to(tl.int32)
        weight = weights + tl.load(e + 4) + x
        total = tl.zeros((ROWS, COLUMNS), tl.int32)
        for tap in range(0, taps):
            share = tl.load(weight + tap * stride, mask=there, other=0).to(tl.int32)
            # what has no weight may lie beyond the picture
            level = tl.load(pictures + at + 3 * tap, mask=wanted & (share != 0)[None, :], other=0).to(tl.int32)
            total += level * share[None, :]
        total = (total + (1 << (bits - 1))) >> bits
        to = tl.load(e + 7) + y.to(tl.int64)[:, None] * (3 * WIDTH) + i[None, :]
        tl.store(across + to, _clipped(total), mask=wanted)


@triton.jit
def resize_down(
    across, pixels, weights, firsts, entries,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FIELDS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """What resize_across left, to the view's height."""
    column_tiles: tl.constexpr = (3 * WIDTH + COLUMNS - 1) // COLUMNS
    row_tiles: tl.constexpr = (HEIGHT + ROWS - 1) // ROWS
    e, tile = _entry(entries, row_tiles * column_tiles, FIELDS)
    y = (tile // column_tiles) * ROWS + tl.arange(0, ROWS)
    i = (tile % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    there = y < HEIGHT
    wanted = there[:, None] & (i < 3 * WIDTH)[None, :]
    first = tl.load(firsts + tl.load(e + 11) + y, mask=there, other=0) - tl.load(e + 13).to(tl.int32)
    at = tl.load(e + 7) + first.to(tl.int64)[:, None] * (3 * WIDTH) + i[None, :]
    bits = tl.load(e + 12).to(tl.int32)
    taps = tl.load(e + 9).to(tl.int32)
    stride = tl.load(e + 15).to(tl.int32)
    weight = weights + tl.load(e + 10) + y
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for tap in range(0, taps):
        share = tl.load(weight + tap * stride, mask=there, other=0).to(tl.int32)
        level = tl.load(across + at + tap * (3 * WIDTH), mask=wanted & (share != 0)[:, None], other=0).to(tl.int32)
        total += level * share[:, None]
    total = (total + (1 << (bits - 1))) >> bits
    tl.store(
        pixels + _slot(tl.load(e + 16), 3 * HEIGHT * WIDTH) + y[:, None] * (3 * WIDTH) + i[None, :],
        _clipped(total),
        mask=wanted,
    )


@triton.jit
def look_up(pixels, tables, entries, BYTES: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr):
    """Levels through a table of 256, or of 256 a channel. Entry: from, to, table, step from a channel's table to the
    next one's."""
    e, tile = _entry(entries, (BYTES + TILE - 1) // TILE, FIELDS)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < BYTES
    level = tl.load(pixels + _slot(tl.load(e), BYTES) + i, mask=there, other=0).to(tl.int32)
    found = tl.load(tables + tl.load(e + 2) + (i % 3) * tl.load(e + 3).to(tl.int32) + level, mask=there, other=0)
    tl.store(pixels + _slot(tl.load(e + 1), BYTES) + i, found, mask=there)


@triton.jit
def count_levels(pixels, counts, entries, PIXELS: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr):
    """A histogram a channel. Entry: from, place in counts (three times 256)."""
    e, tile = _entry(entries, 3 * ((PIXELS + TILE - 1) // TILE), FIELDS)
    channel = tile % 3
    first = (tile // 3) * TILE
    i = first + tl.arange(0, TILE)
    level = tl.load(pixels + _slot(tl.load(e), 3 * PIXELS) + 3 * i + channel, mask=i < PIXELS, other=0).to(tl.int32)
    found = tl.histogram(level, 256)
    levels = tl.arange(0, 256)
    beyond = TILE - tl.minimum(TILE, PIXELS - first)  # read as 0
    found = found - tl.where(levels == 0, beyond, 0)
    tl.atomic_add(counts + tl.load(e + 1) + channel * 256 + levels, found, mask=found != 0)


@triton.jit
def sum_grey(pixels, sums, entries, PIXELS: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr):
    """The sum of the grey levels. Entry: from, place in sums."""
    e, tile = _entry(entries, (PIXELS + TILE - 1) // TILE, FIELDS)
    at = pixels + _slot(tl.load(e), 3 * PIXELS)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < PIXELS
    red = tl.load(at + 3 * i, mask=there, other=0).to(tl.int32)
    green = tl.load(at + 3 * i + 1, mask=there, other=0).to(tl.int32)
    blue = tl.load(at + 3 * i + 2, mask=there, other=0).to(tl.int32)
    total = tl.sum(tl.where(there, _grey(red, green, blue), 0))
    tl.atomic_add(sums + tl.load(e + 1), total.to(tl.int64))


@triton.jit
def tables_of_counts(counts, tables, entries, FIELDS: tl.constexpr):
    """The tables of equalize (kind 0) and autocontrast (1). Entry: place in counts, place in tables, kind."""
    e, _ = _entry(entries, 1, FIELDS)
    found = counts + tl.load(e)
    table = tables + tl.load(e + 1)
    kind = tl.load(e + 2)
    levels = tl.arange(0, 256)
    for channel in range(0, 3):
        count = tl.load(found + channel * 256 + levels)
        there = count > 0
        high = tl.max(tl.where(there, levels, 0))
        low = tl.min(tl.where(there, levels, 255))
        if kind == 0:
            total = tl.sum(count)
            step = (total - tl.sum(tl.where(levels == high, count, 0))) // 255
            below = tl.cumsum(count, 0) - count + step // 2
            level = tl.minimum(below // tl.maximum(step, 1), 255)
            level = tl.where(step == 0, levels, level)
        else:
            level = tl.maximum(levels - low, 0) * 255 // tl.maximum(high - low, 1)
        level = tl.where(high <= low, levels, level)
        tl.store(table + channel * 256 + levels, _clipped(level))


@triton.jit
def tables_of_sums(sums, tables, entries, PIXELS: tl.constexpr, FIELDS: tl.constexpr):
    """The table of contrast. Entry: place in sums, place in tables, factor in units of 2**-20."""
    e, _ = _entry(entries, 1, FIELDS)
    mean = ((2 * tl.load(sums + tl.load(e)) + PIXELS) // (2 * PIXELS)).to(tl.int32)
    levels = tl.arange(0, 256)
    level = (((levels - mean) * tl.load(e + 2).to(tl.int32)) >> 20) + mean
    tl.store(tables + tl.load(e + 1) + levels, _clipped(level))


@triton.jit
def blend_with_grey(pixels, entries, PIXELS: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr):
    """Entry: from, to, factor in units of 1 / 4096."""
    e, tile = _entry(entries, (PIXELS + TILE - 1) // TILE, FIELDS)
    at = pixels + _slot(tl.load(e), 3 * PIXELS)
    to = pixels + _slot(tl.load(e + 1), 3 * PIXELS)
    factor = tl.load(e + 2).to(tl.int32)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < PIXELS
    red = tl.load(at + 3 * i, mask=there, other=0).to(tl.int32)
    green = tl.load(at + 3 * i + 1, mask=there, other=0).to(tl.int32)
    blue = tl.load(at + 3 * i + 2, mask=there, other=0).to(tl.int32)
    grey = _grey(red, green, blue) * (4096 - factor)
    tl.store(to + 3 * i, _clipped((red * factor + grey) >> 12), mask=there)
    tl.store(to + 3 * i + 1, _clipped((green * factor + grey) >> 12), mask=there)
    tl.store(to + 3 * i + 2, _clipped((blue * factor + grey) >> 12), mask=there)


@triton.jit
def sharpen(
    pixels, entries, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """Blended with the picture smoothed; the outermost pixels stay. Entry: from, to, factor in units of 1 / 4096."""
    e, tile = _entry(entries, (3 * HEIGHT * WIDTH + TILE - 1) // TILE, FIELDS)
    at = pixels + _slot(tl.load(e), 3 * HEIGHT * WIDTH)
    factor = tl.load(e + 2).to(tl.int32)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < 3 * HEIGHT * WIDTH
    y = i // (3 * WIDTH)
    x = (i - y * (3 * WIDTH)) // 3
    inner = there & (y > 0) & (y < HEIGHT - 1) & (x > 0) & (x < WIDTH - 1)
    level = tl.load(at + i, mask=there, other=0).to(tl.int32)
    total = 4 * level
    for down in tl.static_range(-1, 2):
        for right in tl.static_range(-1, 2):
            total += tl.load(at + i + (down * 3 * WIDTH + 3 * right), mask=inner, other=0).to(tl.int32)
    smooth = (2 * total + 13) // 26
    blended = _clipped((level * factor + smooth * (4096 - factor)) >> 12)
    tl.store(
        pixels + _slot(tl.load(e + 1), 3 * HEIGHT * WIDTH) + i, tl.where(inner, blended, level.to(tl.uint8)), mask=there
    )


@triton.jit
def shift_hue(pixels, entries, PIXELS: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr):
    """To HSV, on by a step, and back. Entry: from, to, step."""
    e, tile = _entry(entries, (PIXELS + TILE - 1) // TILE, FIELDS)
    at = pixels + _slot(tl.load(e), 3 * PIXELS)
    to = pixels + _slot(tl.load(e + 1), 3 * PIXELS)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < PIXELS
    red = tl.load(at + 3 * i, mask=there, other=0).to(tl.int32)
    green = tl.load(at + 3 * i + 1, mask=there, other=0).to(tl.int32)
    blue = tl.load(at + 3 * i + 2, mask=there, other=0).to(tl.int32)
    value = tl.maximum(tl.maximum(red, green), blue)
    chroma = value - tl.minimum(tl.minimum(red, green), blue)
    sixths = tl.where(green == value, 2 * chroma + blue - red, 4 * chroma + red - green)
    sixths = tl.where(red == value, green - blue, sixths)
    sixths += tl.where(sixths < 0, 6 * chroma, 0)
    hue = 255 * sixths // tl.maximum(6 * chroma, 1)
    saturation = 255 * chroma // tl.maximum(value, 1)
    hue = (hue + tl.load(e + 2).to(tl.int32)) & 255
    whole = 6 * hue // 255
    within = 6 * hue - 255 * whole
    sextant = whole % 6
    least = (2 * value * (255 - saturation) + 255) // 510
    falling = (2 * value * (65025 - saturation * within) + 65025) // 130050
    rising = (2 * value * (65025 - saturation * (255 - within)) + 65025) // 130050
    red = tl.where((sextant == 2) | (sextant == 3), least, value)
    red = tl.where(sextant == 1, falling, tl.where(sextant == 4, rising, red))
    green = tl.where((sextant == 4) | (sextant == 5), least, value)
    green = tl.where(sextant == 3, falling, tl.where(sextant == 0, rising, green))
    blue = tl.where((sextant == 0) | (sextant == 1), least, value)
    blue = tl.where(sextant == 5, falling, tl.where(sextant == 2, rising, blue))
    tl.store(to + 3 * i, _clipped(red), mask=there)
    tl.store(to + 3 * i + 1, _clipped(green), mask=there)
    tl.store(to + 3 * i + 2, _clipped(blue), mask=there)


@triton.jit
def move_lines(
    pixels, lines, entries, ROWS_MOVE: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Rows along x (ROWS_MOVE), or columns along y. Entry: from, to, place in lines, step from a line to the next one,
    fill. A line, 8 int32: whole pixels, first and last place inside, four taps in units of 2**-14."""
    e, tile = _entry(entries, (3 * HEIGHT * WIDTH + TILE - 1) // TILE, FIELDS)
    at = pixels + _slot(tl.load(e), 3 * HEIGHT * WIDTH)
    fill = tl.load(e + 4).to(tl.int32)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < 3 * HEIGHT * WIDTH
    y, x, channel = _place(i, WIDTH)
    line = y if ROWS_MOVE else x
    place = x if ROWS_MOVE else y
    size: tl.constexpr = WIDTH if ROWS_MOVE else HEIGHT
    entry = lines + tl.load(e + 2) + line * tl.load(e + 3).to(tl.int32)
    whole = tl.load(entry, mask=there, other=0)
    inside = there & (place >= tl.load(entry + 1, mask=there, other=0))
    inside = inside & (place < tl.load(entry + 2, mask=there, other=0))
    total = tl.zeros((TILE,), tl.int32)
    for tap in tl.static_range(0, 4):
        source = tl.minimum(tl.maximum(place + whole + (tap - 1), 0), size - 1)
        offset = y * (3 * WIDTH) + 3 * source + channel if ROWS_MOVE else source * (3 * WIDTH) + 3 * x + channel
        level = tl.load(at + offset, mask=inside, other=0).to(tl.int32)
        total += level * tl.load(entry + 3 + tap, mask=there, other=0)
    moved = tl.where(inside, _clipped(total >> 14), ((fill >> (8 * channel)) & 255).to(tl.uint8))
    tl.store(pixels + _slot(tl.load(e + 1), 3 * HEIGHT * WIDTH) + i, moved, mask=there)


@triton.jit
def rotate(
    pixels, phases, entries,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Entry, of 16: from, to, fill, and of the source's x, then y: step along x, along y, the first pixel's place in
    units of 2**-16; 1 for bilinear taps. phases: (2, 256, 4) int32, in units of 2**-12."""
    e, tile = _entry(entries, (3 * HEIGHT * WIDTH + TILE - 1) // TILE, FIELDS)
    at = pixels + _slot(tl.load(e), 3 * HEIGHT * WIDTH)
    fill = tl.load(e + 2).to(tl.int32)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < 3 * HEIGHT * WIDTH
    y, x, channel = _place(i, WIDTH)
    source_x = tl.load(e + 3).to(tl.int32) * x + tl.load(e + 4).to(tl.int32) * y + tl.load(e + 5).to(tl.int32)
    source_y = tl.load(e + 6).to(tl.int32) * x + tl.load(e + 7).to(tl.int32) * y + tl.load(e + 8).to(tl.int32)
    inside = there & (source_x >= -32768) & (source_x < WIDTH * 65536 - 32768)
    inside = inside & (source_y >= -32768) & (source_y < HEIGHT * 65536 - 32768)
    source_x += 128  # so that cutting off rounds to the nearest phase
    source_y += 128
    phases += tl.load(e + 9) * 1024
    taps_x = phases + ((source_x >> 8) & 255) * 4
    taps_y = phases + ((source_y >> 8) & 255) * 4
    total = tl.zeros((TILE,), tl.int32)
    for down in tl.static_range(0, 4):
        row = tl.minimum(tl.maximum((source_y >> 16) + (down - 1), 0), HEIGHT - 1)
        line = tl.zeros((TILE,), tl.int32)
        for right in tl.static_range(0, 4):
            column = tl.minimum(tl.maximum((source_x >> 16) + (right - 1), 0), WIDTH - 1)
            level = tl.load(at + row * (3 * WIDTH) + 3 * column + channel, mask=inside, other=0).to(tl.int32)
            line += level * tl.load(taps_x + right, mask=there, other=0)
        total += (line >> 4) * tl.load(taps_y + down, mask=there, other=0)
    rotated = tl.where(inside, _clipped(total >> 20), ((fill >> (8 * channel)) & 255).to(tl.uint8))
    tl.store(pixels + _slot(tl.load(e + 1), 3 * HEIGHT * WIDTH) + i, rotated, mask=there)


@triton.jit
def high_word(a, b):
    """The upper 64 bits of a product of 64 bits, unsigned; a and b are int64."""
    low: tl.constexpr = 0xFFFFFFFF
    a_low = a & low
    a_high = (a >> 32) & low
    b_low = b & low
    b_high = (b >> 32) & low
    middle = a_high * b_low + (((a_low * b_low) >> 32) & low)
    other = a_low * b_high + (middle & low)
    return a_high * b_high + ((middle >> 32) & low) + ((other >> 32) & low)


@triton.jit
def _philox_word(word, key_0, key_1, nonce_0, nonce_1):
    """Word number `word` of numpy's Philox (4 x 64, ten rounds) whose counter is (1 + word // 4, 0, nonce)."""
    multiplier_0 = tl.full(word.shape, -3249550476889527149, tl.int64)  # 0xD2E7470EE14C6C93
    multiplier_1 = tl.full(word.shape, -3865633965929787049, tl.int64)  # 0xCA5A826395121157
    c_0 = word // 4 + 1
    c_1 = tl.zeros(word.shape, tl.int64)
    c_2 = c_1 + nonce_0
    c_3 = c_1 + nonce_1
    k_0 = c_1 + key_0
    k_1 = c_1 + key_1
    for _ in range(0, 10):
        high_0 = high_word(multiplier_0, c_0)
        high_1 = high_word(multiplier_1, c_2)
        low_0 = multiplier_0 * c_0
        low_1 = multiplier_1 * c_2
        c_0 = high_1 ^ c_1 ^ k_0
        c_1 = low_1
        c_2 = high_0 ^ c_3 ^ k_1
        c_3 = low_0
        k_0 += -7046029254386353131  # 0x9E3779B97F4A7C15
        k_1 += -4942790177534073029  # 0xBB67AE8584CAA73B
    lane = word % 4
    return tl.where(lane == 0, c_0, tl.where(lane == 1, c_1, tl.where(lane == 2, c_2, c_3)))


@triton.jit(do_not_specialize=["tiles"])
def erase(pixels, noise, entries, tiles, WIDTH: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr):
    """One box of each view. Entry: first pixel's place, height, width, mode (0 const, 1 pixel, 2 rand), fill, the first
    word, key (2), nonce (2). noise: (3, 65536) uint8, levels by 16 random bits."""
    e, tile = _entry(entries, tiles, FIELDS)
    height = tl.load(e + 1).to(tl.int32)
    width = tl.load(e + 2).to(tl.int32)
    first = tile * TILE
    if first < 3 * height * width:
        mode = tl.load(e + 3)
        i = first + tl.arange(0, TILE)
        there = i < 3 * height * width
        y, x, channel = _place(i, width)
        at = pixels + tl.load(e) + y * (3 * WIDTH) + 3 * x + channel
        if mode == 0:
            fill = tl.load(e + 4).to(tl.int32)
            tl.store(at, ((fill >> (8 * channel)) & 255).to(tl.uint8), mask=there)
        else:
            piece = channel
            if mode == 1:
                piece = channel * (height * width) + y * width + x
            word = tl.load(e + 5) + (piece // 4)
            bits = _philox_word(word, tl.load(e + 6), tl.load(e + 7), tl.load(e + 8), tl.load(e + 9))
            chosen = (bits >> (16 * (piece % 4)).to(tl.int64)) & 65535
            tl.store(at, tl.load(noise + channel * 65536 + chosen, mask=there, other=0), mask=there)


@triton.jit
def mix(
    pixels, views, entries, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, FIELDS: tl.constexpr, TILE: tl.constexpr
):  # fmt: skip
    """A view with its partner, into the place of the view among all. Entry, one for each view: own (-1: skipped,
    zeros), partner's, lambda, top, bottom, left, right; a box of height > 0 is pasted."""
    tiles: tl.constexpr = (3 * HEIGHT * WIDTH + TILE - 1) // TILE
    e, tile = _entry(entries, tiles, FIELDS)
    number = (tl.program_id(0) // tiles).to(tl.int64)
    own = tl.load(e)
    partner = tl.load(e + 1)
    i = tile * TILE + tl.arange(0, TILE)
    there = i < 3 * HEIGHT * WIDTH
    at = pixels + _slot(own, 3 * HEIGHT * WIDTH)
    shown = tl.where(own >= 0, 3 * HEIGHT * WIDTH, 0)
    level = tl.load(at + i, mask=i < shown, other=0).to(tl.int32)
    if partner != own:
        other = tl.load(pixels + _slot(partner, 3 * HEIGHT * WIDTH) + i, mask=there, other=0).to(tl.int32)
        top = tl.load(e + 3).to(tl.int32)
        bottom = tl.load(e + 4).to(tl.int32)
        if bottom > top:
            y = i // (3 * WIDTH)
            x = (i - y * (3 * WIDTH)) // 3
            pasted = (y >= top) & (y < bottom)
            pasted = pasted & (x >= tl.load(e + 5).to(tl.int32)) & (x < tl.load(e + 6).to(tl.int32))
            level = tl.where(pasted, other, level)
        else:
            share = tl.load(e + 2).to(tl.int32)
            level = (level * share + other * (65536 - share) + 32768) >> 16
    tl.store(views + number * (3 * HEIGHT * WIDTH) + i, level.to(tl.uint8), mask=there)


@triton.jit
def normalise(views, images, values, BYTES: tl.constexpr, TILE: tl.constexpr):
    """Levels -> the bits of what a model is given for them: values (3, 256), by channel and level."""
    tiles: tl.constexpr = (BYTES + TILE - 1) // TILE
    program = tl.program_id(0)
    first = (program // tiles).to(tl.int64) * BYTES
    i = (program % tiles) * TILE + tl.arange(0, TILE)
    there = i < BYTES
    level = tl.load(views + first + i, mask=there, other=0).to(tl.int32)
    tl.store(images + first + i, tl.load(values + (i % 3) * 256 + level, mask=there, other=0), mask=there)
