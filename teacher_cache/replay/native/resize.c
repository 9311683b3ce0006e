/* Resizing, as resample.py: across, then down. */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "replay.h"

enum { MOST_BITS = 22 };

static double filter_of(double distance, int interpolation) {
    if (interpolation == BILINEAR) return distance < 1.0 ? 1.0 - distance : 0.0;
    if (distance < 1.0) return ((-0.5 + 2.0) * distance - (-0.5 + 3.0)) * distance * distance + 1;
    if (distance < 2.0) return (((distance - 5) * distance + 8) * distance - 4) * -0.5;
    return 0.0;
}

/* The most bits with which the largest weight fits 16. */
static int precision_of(double largest) {
    int bits = 0;
    while (bits < MOST_BITS && (int64_t)(0.5 + largest * (double)(1 << (bits + 1))) < 1 << 15) bits++;
    return bits;
}

static double support_of(double stretch, int interpolation) { return (interpolation == BICUBIC ? 2.0 : 1.0) * stretch; }

Tapped tapped(int64_t size_in, int64_t size_out, int64_t place, int interpolation) {
    const double scale = (double)size_in / (double)size_out;
    const double support = support_of(scale > 1.0 ? scale : 1.0, interpolation);
    const double centre = scale * ((double)place + 0.5);
    int64_t first = (int64_t)(centre - support + 0.5), beyond = (int64_t)(centre + support + 0.5);
    if (first < 0) first = 0;
    if (beyond > size_in) beyond = size_in;
    const int64_t num = beyond - first, most = 2 * (int64_t)ceil(support) + 1;
    return (Tapped){first, first + (num < 0 ? 0 : num > most ? most : num), centre};
}

/* What ResizeWeights computes, operation for operation. */
static Weights *make_weights(int64_t size_in, int64_t size_out, int interpolation) {
    const double scale = (double)size_in / (double)size_out, stretch = scale > 1.0 ? scale : 1.0;
    const double support = support_of(stretch, interpolation), inverse = 1.0 / stretch;
    const int64_t most = (int64_t)ceil(support) * 2 + 1;
    double *shares = calloc((size_t)(size_out * most), sizeof *shares);
    int32_t *firsts = malloc((size_t)size_out * sizeof *firsts);
    Weights *made = calloc(1, sizeof *made);
    int64_t taps = 1;
    double largest = 0.0;
    if (!shares || !firsts || !made) goto failed;
    for (int64_t x = 0; x < size_out; x++) {
        const Tapped of = tapped(size_in, size_out, x, interpolation);
        const int64_t first = of.first, num = of.beyond - first;
        double *share = shares + x * most, total = 0.0;
        for (int64_t tap = 0; tap < num; tap++) {
            share[tap] = filter_of(fabs(((double)(tap + first) - of.centre + 0.5) * inverse), interpolation);
            total += share[tap];
        }
        for (int64_t tap = 0; tap < num; tap++) {
            share[tap] /= total != 0 ? total : 1;
            if (share[tap] > largest) largest = share[tap];
        }
        firsts[x] = (int32_t)first;
        if (num > taps) taps = num;
    }
    made->size_in = size_in, made->size_out = size_out, made->interpolation = interpolation;
    made->bits = precision_of(largest);
    made->pairs = (int)(taps + 1) / 2;
    made->padded = (int)(taps + 3) / 4 * 4;
    made->num_bytes = (size_t)(size_out * made->padded) * sizeof *made->weights;
    made->weights = calloc(1, made->num_bytes);
    if (!made->weights) goto failed;
    for (int64_t x = 0; x < size_out; x++) {
        for (int64_t tap = 0; tap < taps && tap < most; tap++) {
            const double scaled = shares[x * most + tap] * (double)(1 << made->bits);
            made->weights[x * made->padded + tap] = (int16_t)(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
        }
    }
    made->first = firsts;
    free(shares);
    return made;
failed:
    free(shares), free(firsts), free(made);
    return NULL;
}

static size_t place_of(const Workspace *workspace, int64_t size_in, int64_t size_out, int interpolation) {
    const uint64_t mixed = ((uint64_t)size_in * 0x9E3779B97F4A7C15 ^ (uint64_t)size_out) * 0xD2E7470EE14C6C93;
    size_t place = (size_t)((mixed >> 20) + (uint64_t)interpolation) & (workspace->num_places - 1);
    for (;; place = (place + 1) & (workspace->num_places - 1)) {
        const Weights *held = workspace->known[place];
        if (!held || (held->size_in == size_in && held->size_out == size_out && held->interpolation == interpolation))
            return place;
    }
}

static bool make_room(Workspace *workspace) {
    if (2 * (workspace->num_known + 1) <= workspace->num_places) return true;
    Weights **old = workspace->known;
    const size_t num_old = workspace->num_places, num_new = num_old ? 2 * num_old : 256;
    Weights **larger = calloc(num_new, sizeof *larger);
    if (!larger) return false;
    workspace->known = larger, workspace->num_places = num_new;
    for (size_t i = 0; i < num_old; i++)
        if (old[i]) larger[place_of(workspace, old[i]->size_in, old[i]->size_out, old[i]->interpolation)] = old[i];
    free(old);
    return true;
}

const Weights *find_weights(Workspace *workspace, int64_t size_in, int64_t size_out, int interpolation) {
    if (!make_room(workspace)) return NULL;
    Weights **held = &workspace->known[place_of(workspace, size_in, size_out, interpolation)];
    if (!*held && (*held = make_weights(size_in, size_out, interpolation))) {
        workspace->num_known++;
        workspace->known_bytes += (*held)->num_bytes + (size_t)size_out * sizeof(int32_t);
    }
    return *held;
}

void forget_weights(Workspace *workspace, size_t budget_bytes) {
    if (workspace->known_bytes <= budget_bytes) return;
    for (size_t i = 0; i < workspace->num_places; i++) {
        if (!workspace->known[i]) continue;
        free(workspace->known[i]->first), free(workspace->known[i]->weights), free(workspace->known[i]);
        workspace->known[i] = NULL;
    }
    workspace->num_known = workspace->known_bytes = 0;
}

static void mirror_row(uint8_t *row, int64_t width) {
    for (int64_t a = 0, b = width - 1; a < b; a++, b--) {
        uint8_t pixel[3];
        memcpy(pixel, row + 3 * a, 3), memcpy(row + 3 * a, row + 3 * b, 3), memcpy(row + 3 * b, pixel, 3);
    }
}

static void cut_out(const Resizing *resizing, uint8_t *to) {
    const int64_t *crop = resizing->crop, *window = resizing->window, row_bytes = 3 * window[3];
    const uint8_t *from = resizing->pixels + 3 * ((crop[0] + window[0]) * resizing->width + crop[1] + window[1]);
    for (int64_t y = 0; y < window[2]; y++, from += 3 * resizing->width, to += row_bytes) {
        memcpy(to, from, (size_t)row_bytes);
        if (resizing->flip) mirror_row(to, window[3]);
    }
}

bool resize(Workspace *workspace, const Resizing *resizing, uint8_t *to) {
    const int64_t *crop = resizing->crop, *window = resizing->window;
    if (crop[2] == resizing->resized[0] && crop[3] == resizing->resized[1]) {
        cut_out(resizing, to);
        return true;
    }
    const Weights *down = find_weights(workspace, crop[2], resizing->resized[0], resizing->interpolation);
    const Weights *across = find_weights(workspace, crop[3], resizing->resized[1], resizing->interpolation);
    if (!down || !across) return false;
    /* the rows of the crop that the window is made of */
    const int64_t begin = down->first[window[0]];
    int64_t end = down->first[window[0] + window[2] - 1] + down->padded;
    if (end > crop[2]) end = crop[2];
    const int64_t num_rows = end - begin, row_bytes = 3 * window[3], stride = (row_bytes + WRITTEN_BESIDE + 63) / 64 * 64;
    uint8_t *resized = scratch(&workspace->across, (size_t)((num_rows + 3) * stride + 64));
    /* what is read of a row beyond its last pixel: taps without a weight, and a load's end */
    const int64_t widest = 3 * ((int64_t)across->first[window[1] + window[3] - 1] + across->padded) + READ_AFTER;
    uint8_t *edge = scratch(&workspace->edge, (size_t)(4 * (widest + 3 * crop[3])));
    if (!resized || !edge) return false;
    resized += 64; /* what is written before the first row */
    const uint8_t *picture_end = resizing->pixels + 3 * resizing->height * resizing->width;
    for (int64_t y = 0; y < num_rows; y += 4) {
        const uint8_t *rows[4];
        uint8_t *results[4];
        for (int64_t row = 0; row < 4; row++) {
            const int64_t y_in = y + row < num_rows ? begin + y + row : end - 1; /* the last stands in for those after */
            const uint8_t *from = resizing->pixels + 3 * ((crop[0] + y_in) * resizing->width + crop[1]);
            if (picture_end - from < widest) {
                uint8_t *copy = edge + row * (widest + 3 * crop[3]);
                memcpy(copy, from, (size_t)(3 * crop[3]));
                memset(copy + 3 * crop[3], 0, (size_t)widest);
                from = copy;
            }
            rows[row] = from;
            results[row] = resized + (y + row) * stride;
        }
        workspace->kernels->resize_across(rows, results, across, window[1], window[3], resizing->flip);
    }
    const uint8_t **tapped = (const uint8_t **)scratch(&workspace->lines, (size_t)down->padded * sizeof *tapped);
    if (!tapped) return false;
    for (int64_t y = 0; y < window[2]; y++, to += row_bytes) {
        const int16_t *weights = down->weights + (window[0] + y) * down->padded;
        const int64_t first = down->first[window[0] + y] - begin;
        int taps = down->padded;
        while (taps > 1 && (first + taps > num_rows || weights[taps - 1] == 0)) taps--;
        for (int tap = 0; tap < taps; tap++) tapped[tap] = resized + (first + tap) * stride;
        workspace->kernels->weigh_rows(tapped, weights, taps, 1 << (down->bits - 1), down->bits, to, row_bytes);
    }
    return true;
}
