/* Shears, translations and rotations, as geometry.py. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "replay.h"

enum { BORDER = 2 }; /* pixels that taps reach beyond a view */

void integer_taps(double fraction, int interpolation, int bits, int16_t taps[4]) {
    const double t = fraction, square = t * t, cube = square * t, one = 1 << bits;
    double before = 0.0, after = t, last = 0.0;
    if (interpolation == BICUBIC) {
        before = 2.0 * square - t - cube;
        after = t + square - cube;
        last = cube - square;
    }
    before = rounded(before * one), after = rounded(after * one), last = rounded(last * one);
    taps[0] = (int16_t)before, taps[2] = (int16_t)after, taps[3] = (int16_t)last;
    taps[1] = (int16_t)(one - (before + after + last));
}

static int64_t place_within(double place, int64_t size) {
    return place <= 0 ? 0 : place >= (double)size ? size : (int64_t)place;
}

Line line_moved(double shift, int64_t size, int interpolation) {
    const double whole = floor(shift);
    Line line = {
        .whole = whole < (double)(-size - 2) ? -size - 2 : whole > (double)(size + 2) ? size + 2 : (int64_t)whole,
        .first = place_within(ceil(-0.5 - shift), size),
        .last = place_within(ceil((double)size - 0.5 - shift), size),
    };
    if (line.last < line.first) line.last = line.first;
    integer_taps(shift - whole, interpolation, TAP_BITS, line.taps);
    return line;
}

static uint8_t *filled_row(Workspace *workspace, const Shape *shape) {
    uint8_t *row = scratch(&workspace->fill_row, (size_t)(3 * shape->width));
    if (row)
        for (int64_t x = 0; x < shape->width; x++) memcpy(row + 3 * x, shape->fill, 3);
    return row;
}

static void copy_bordered(const uint8_t *row, int64_t width, uint8_t *to) {
    for (int64_t x = 0; x < BORDER; x++) {
        memcpy(to + 3 * x, row, 3);
        memcpy(to + 3 * (BORDER + width + x), row + 3 * (width - 1), 3);
    }
    memcpy(to + 3 * BORDER, row, (size_t)(3 * width));
}

static bool move_rows(Workspace *workspace, double value, bool is_shear, const Shape *shape, const uint8_t *from,
                      uint8_t *to) {
    const int64_t width = shape->width, row_bytes = 3 * width;
    uint8_t *bordered = scratch(&workspace->bordered, (size_t)(3 * (width + 2 * BORDER)));
    const uint8_t *fill = filled_row(workspace, shape);
    if (!bordered || !fill) return false;
    Line line = {0};
    for (int64_t y = 0; y < shape->height; y++, from += row_bytes, to += row_bytes) {
        if (is_shear) line = line_moved(value * ((double)y + 0.5), width, shape->interpolation);
        else if (y == 0) line = line_moved(value * (double)width, width, shape->interpolation);
        memcpy(to, fill, (size_t)(3 * line.first));
        memcpy(to + 3 * line.last, fill, (size_t)(3 * (width - line.last)));
        if (line.first == line.last) continue;
        copy_bordered(from, width, bordered);
        const uint8_t *taps[4], *begin = bordered + 3 * (BORDER + line.first + line.whole - 1);
        for (int tap = 0; tap < 4; tap++) taps[tap] = begin + 3 * tap;
        workspace->kernels->weigh_rows(taps, line.taps, 4, 0, TAP_BITS, to + 3 * line.first,
                                       3 * (line.last - line.first));
    }
    return true;
}

static bool translate_columns(Workspace *workspace, double value, const Shape *shape, const uint8_t *from,
                              uint8_t *to) {
    const int64_t height = shape->height, row_bytes = 3 * shape->width;
    const Line line = line_moved(value * (double)height, height, shape->interpolation);
    const uint8_t *fill = filled_row(workspace, shape);
    if (!fill) return false;
    for (int64_t y = 0; y < height; y++, to += row_bytes) {
        if (y < line.first || y >= line.last) {
            memcpy(to, fill, (size_t)row_bytes);
            continue;
        }
        const uint8_t *taps[4];
        for (int tap = 0; tap < 4; tap++) taps[tap] = from + clamped(y + line.whole + tap - 1, height) * row_bytes;
        workspace->kernels->weigh_rows(taps, line.taps, 4, 0, TAP_BITS, to, row_bytes);
    }
    return true;
}

static void move_byte_column(const Line *line, const Shape *shape, const uint8_t *from, uint8_t *to) {
    const int64_t row_bytes = 3 * shape->width;
    for (int64_t y = line->first; y < line->last; y++) {
        int32_t total = 0;
        for (int tap = 0; tap < 4; tap++)
            total += from[clamped(y + line->whole + tap - 1, shape->height) * row_bytes] * line->taps[tap];
        to[y * row_bytes] = clipped(total >> TAP_BITS);
    }
}

/* Columns move by little more than their neighbours: 32 bytes of a row are made of few rows. */
static bool shear_columns(Workspace *workspace, double value, const Shape *shape, const uint8_t *from, uint8_t *to) {
    const int64_t height = shape->height, width = shape->width, row_bytes = 3 * width;
    Line *lines = (Line *)(void *)scratch(&workspace->lines, (size_t)width * sizeof *lines);
    if (!lines) return false;
    for (int64_t x = 0; x < width; x++) lines[x] = line_moved(value * ((double)x + 0.5), height, shape->interpolation);
    for (int64_t begin = 0; begin < row_bytes; begin += 32) {
        if (begin + 32 > row_bytes && row_bytes >= 32) begin = row_bytes - 32; /* some once more */
        const int64_t end = begin + 32 < row_bytes ? begin + 32 : row_bytes;
        int64_t least = lines[begin / 3].whole, most = least;
        for (int64_t x = begin / 3; x <= (end - 1) / 3; x++) {
            if (lines[x].whole < least) least = lines[x].whole;
            if (lines[x].whole > most) most = lines[x].whole;
        }
        if (end - begin < 32 || most - least + 4 > WINDOW) {
            for (int64_t i = begin; i < end; i++) move_byte_column(&lines[i / 3], shape, from + i, to + i);
            continue;
        }
        int16_t weights[WINDOW][32] = {{0}};
        for (int i = 0; i < 32; i++) {
            const Line *line = &lines[(begin + i) / 3];
            for (int tap = 0; tap < 4; tap++) weights[line->whole - least + tap][i] = line->taps[tap];
        }
        const int window = (int)(most - least + 5) / 2 * 2;
        workspace->kernels->weigh_columns(from + begin, to + begin, height, row_bytes, least - 1, window,
                                          (const int16_t(*)[32])weights);
    }
    /* a row at a time, as views are written fastest */
    int64_t last_begin = 0, first_end = height;
    for (int64_t x = 0; x < width; x++) {
        if (lines[x].first > last_begin) last_begin = lines[x].first;
        if (lines[x].last < first_end) first_end = lines[x].last;
    }
    for (int64_t y = 0; y < height; y++) {
        if (y >= last_begin && y < first_end) continue;
        for (int64_t x = 0; x < width; x++)
            if (y < lines[x].first || y >= lines[x].last) memcpy(to + y * row_bytes + 3 * x, shape->fill, 3);
    }
    return true;
}

bool move_view(Workspace *workspace, enum operation operation, double value, const Shape *shape, const uint8_t *from,
               uint8_t *to) {
    switch (operation) {
    case SHEAR_X: return move_rows(workspace, value, true, shape, from, to);
    case TRANSLATE_X: return move_rows(workspace, value, false, shape, from, to);
    case SHEAR_Y: return shear_columns(workspace, value, shape, from, to);
    default: return translate_columns(workspace, value, shape, from, to);
    }
}

static const PhaseTaps *phase_taps(Workspace *workspace, int interpolation) {
    PhaseTaps **held = &workspace->phases[interpolation];
    if (*held) return *held;
    if (!(*held = malloc(sizeof **held))) return NULL;
    for (int phase = 0; phase < PHASES; phase++) {
        integer_taps((double)phase / (double)PHASES, interpolation, ROTATED_BITS, (*held)->across[phase]);
        for (int i = 0; i < 16; i++) (*held)->down[phase][i] = (*held)->across[phase][i / 4];
    }
    return *held;
}

void rotation_steps(double degrees, int64_t height, int64_t width, int32_t steps[2][3]) {
    const double angle = -(degrees * (3.14159265358979323846 / 180.0)), cosine = cos(angle), sine = sin(angle);
    const double x = (double)width / 2, y = (double)height / 2;
    const double matrix[2][3] = {{cosine, sine, x - cosine * x - sine * y}, {-sine, cosine, y + sine * x - cosine * y}};
    for (int row = 0; row < 2; row++) {
        const double a = matrix[row][0], b = matrix[row][1];
        const double entries[3] = {a, b, matrix[row][2] + 0.5 * (a + b) - 0.5};
        for (int entry = 0; entry < 3; entry++) {
            const double on_grid = rounded(entries[entry] * 1048576.0) / 1048576.0;
            steps[row][entry] = (int32_t)rounded(on_grid * 65536.0);
        }
    }
}

static bool is_inside(int32_t place, int64_t size) { return place >= -32768 && place < size * 65536 - 32768; }

bool rotate_view(Workspace *workspace, double degrees, const Shape *shape, const uint8_t *from, uint8_t *to) {
    const int64_t height = shape->height, width = shape->width, row_bytes = 3 * width;
    const ptrdiff_t stride = 3 * (width + 2 * BORDER);
    const PhaseTaps *taps = phase_taps(workspace, shape->interpolation);
    const uint8_t *fill = filled_row(workspace, shape);
    uint8_t *bordered = scratch(&workspace->bordered, (size_t)((height + 2 * BORDER) * stride + READ_AFTER));
    if (!taps || !fill || !bordered) return false;
    for (int64_t y = 0; y < height + 2 * BORDER; y++)
        copy_bordered(from + clamped(y - BORDER, height) * row_bytes, width, bordered + y * stride);
    const uint8_t *origin = bordered + BORDER * stride + 3 * BORDER;
    int32_t steps[2][3];
    rotation_steps(degrees, height, width, steps);
    for (int64_t y = 0; y < height; y++, to += row_bytes) {
        const int32_t x_in = steps[0][2] + steps[0][1] * (int32_t)y, y_in = steps[1][2] + steps[1][1] * (int32_t)y;
        int64_t first = 0, last = width; /* a line crosses a picture once */
        while (first < last && !(is_inside(x_in + steps[0][0] * (int32_t)first, width) &&
                                 is_inside(y_in + steps[1][0] * (int32_t)first, height)))
            first++;
        while (last > first && !(is_inside(x_in + steps[0][0] * (int32_t)(last - 1), width) &&
                                 is_inside(y_in + steps[1][0] * (int32_t)(last - 1), height)))
            last--;
        memcpy(to, fill, (size_t)(3 * first));
        memcpy(to + 3 * last, fill, (size_t)(3 * (width - last)));
        const Places places = {x_in + steps[0][0] * (int32_t)first, y_in + steps[1][0] * (int32_t)first, steps[0][0],
                               steps[1][0]};
        workspace->kernels->rotate_row(origin, stride, taps, places, to + 3 * first, last - first);
    }
    return true;
}
