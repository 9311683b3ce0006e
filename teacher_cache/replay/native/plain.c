/* Kernels for any processor: of these the others have the bytes. */

#define TARGET
#include "loops.h"

static void resize_across(const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights, int64_t left,
                          int64_t width, bool flip) {
    const int padded = weights->padded;
    for (int row = 0; row < 4; row++) {
        for (int64_t x = 0; x < width; x++) {
            const uint8_t *level = rows[row] + 3 * (ptrdiff_t)weights->first[left + x];
            const int16_t *weight = weights->weights + (left + x) * padded;
            int32_t total[3] = {1 << (weights->bits - 1), 1 << (weights->bits - 1), 1 << (weights->bits - 1)};
            for (int tap = 0; tap < padded; tap++, level += 3) {
                total[0] += level[0] * weight[tap];
                total[1] += level[1] * weight[tap];
                total[2] += level[2] * weight[tap];
            }
            uint8_t *pixel = to[row] + 3 * (flip ? width - 1 - x : x);
            for (int channel = 0; channel < 3; channel++) pixel[channel] = clipped(total[channel] >> weights->bits);
        }
    }
}

static void weigh_rows(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round, int bits,
                       uint8_t *restrict to, ptrdiff_t num_bytes) {
    enum { TOGETHER = 64 };
    ptrdiff_t i = 0;
    for (; i + TOGETHER <= num_bytes; i += TOGETHER) {
        int32_t total[TOGETHER];
        for (int j = 0; j < TOGETHER; j++) total[j] = round;
        for (int tap = 0; tap < taps; tap++) {
            const uint8_t *restrict row = rows[tap] + i;
            const int16_t weight = weights[tap];
            for (int j = 0; j < TOGETHER; j++) total[j] += row[j] * weight;
        }
        for (int j = 0; j < TOGETHER; j++) to[i + j] = clipped(total[j] >> bits);
    }
    for (; i < num_bytes; i++) to[i] = weighed_byte(rows, weights, taps, round, bits, i);
}

static void weigh_columns(const uint8_t *from, uint8_t *to, int64_t height, ptrdiff_t stride, int64_t first, int window,
                          const int16_t (*weights)[32]) {
    for (int64_t y = 0; y < height; y++) {
        int32_t total[32] = {0};
        for (int row = 0; row < window; row++) {
            const uint8_t *levels = from + clamped(y + first + row, height) * stride;
            for (int i = 0; i < 32; i++) total[i] += levels[i] * weights[row][i];
        }
        for (int i = 0; i < 32; i++) to[y * stride + i] = clipped(total[i] >> TAP_BITS);
    }
}

static void rotate_row(const uint8_t *bordered, ptrdiff_t stride, const PhaseTaps *taps, Places places, uint8_t *to,
                       int64_t num_pixels) {
    for (int64_t x = 0; x < num_pixels; x++, places.x += places.step_x, places.y += places.step_y) {
        const int32_t place_x = places.x + 128, place_y = places.y + 128; /* the nearest phase */
        const uint8_t *corner = bordered + ((place_y >> 16) - 1) * stride + 3 * (ptrdiff_t)((place_x >> 16) - 1);
        const int16_t *across = taps->across[place_x >> 8 & 255];
        const int32_t *down = taps->down[place_y >> 8 & 255];
        for (int channel = 0; channel < 3; channel++) {
            int32_t total = 0;
            for (int row = 0; row < 4; row++) {
                const uint8_t *level = corner + row * stride + channel;
                const int32_t line =
                    level[0] * across[0] + level[3] * across[1] + level[6] * across[2] + level[9] * across[3];
                total += (line >> 4) * down[4 * row];
            }
            to[3 * x + channel] = clipped(total >> 20);
        }
    }
}

void look_up_singly(uint8_t *pixels, int64_t num_pixels, const uint8_t tables[3][256]) {
    for (int64_t i = 0; i < num_pixels; i++) {
        uint8_t *pixel = pixels + 3 * i;
        pixel[0] = tables[0][pixel[0]];
        pixel[1] = tables[1][pixel[1]];
        pixel[2] = tables[2][pixel[2]];
    }
}

const Kernels plain_kernels = {
    .name = "plain",
    .resize_across = resize_across,
    .weigh_rows = weigh_rows,
    .weigh_columns = weigh_columns,
    .rotate_row = rotate_row,
    .look_up = look_up_singly,
    LOOPS,
};
