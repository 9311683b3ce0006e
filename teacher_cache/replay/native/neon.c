/* Kernels for arm64, where NEON always is. */

#include "replay.h"

#if HAVE_NEON

#include <arm_neon.h>

#define TARGET
#include "loops.h"

/* Of four pixels the levels of two, each red, green, blue, nothing, as words; a table gives 0 for what it has not. */
static inline int16x8_t first_two(uint8x16_t levels) {
    static const uint8_t places[16] = {0, 99, 1, 99, 2, 99, 99, 99, 3, 99, 4, 99, 5, 99, 99, 99};
    return vreinterpretq_s16_u8(vqtbl1q_u8(levels, vld1q_u8(places)));
}
static inline int16x8_t second_two(uint8x16_t levels) {
    static const uint8_t places[16] = {6, 99, 7, 99, 8, 99, 99, 99, 9, 99, 10, 99, 11, 99, 99, 99};
    return vreinterpretq_s16_u8(vqtbl1q_u8(levels, vld1q_u8(places)));
}

static inline int32x4_t add_first_two(int32x4_t total, uint8x16_t levels, int16x4_t weights) {
    const int16x8_t two = first_two(levels);
    return vmlal_high_lane_s16(vmlal_lane_s16(total, vget_low_s16(two), weights, 0), two, weights, 1);
}
static inline int32x4_t add_second_two(int32x4_t total, uint8x16_t levels, int16x4_t weights) {
    const int16x8_t two = second_two(levels);
    return vmlal_high_lane_s16(vmlal_lane_s16(total, vget_low_s16(two), weights, 2), two, weights, 3);
}

/* A row's pixel, with a byte after it, of so many pairs of taps. */
static inline __attribute__((always_inline)) int32x4_t pixel_across(const uint8_t *row, const int16_t *weight, int bits,
                                                                    const int pairs) {
    int32x4_t total = vdupq_n_s32(1 << (bits - 1));
    for (int pair = 0; pair < pairs; pair += 2, row += 12, weight += 4) {
        const uint8x16_t levels = vld1q_u8(row);
        const int16x4_t weights = vld1_s16(weight);
        total = add_first_two(total, levels, weights);
        if (pair + 1 < pairs) total = add_second_two(total, levels, weights);
    }
    return vshlq_s32(total, vdupq_n_s32(-bits));
}

static inline uint8x16_t sixteen_levels(const int32x4_t totals[4]) {
    const int16x8_t low = vcombine_s16(vqmovn_s32(totals[0]), vqmovn_s32(totals[1]));
    const int16x8_t high = vcombine_s16(vqmovn_s32(totals[2]), vqmovn_s32(totals[3]));
    return vcombine_u8(vqmovun_s16(low), vqmovun_s16(high));
}

/* Four pixels of a row are stored as 16 bytes, of which 4 lie outside of them: after, or before if mirrored. */
static inline __attribute__((always_inline)) void resize_across_in(const uint8_t *const rows[4], uint8_t *const to[4],
                                                                   const Weights *weights, int64_t left, int64_t width,
                                                                   bool flip, const int pairs) {
    static const uint8_t orders[2][16] = {{0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 99, 99, 99, 99},
                                          {99, 99, 99, 99, 12, 13, 14, 8, 9, 10, 4, 5, 6, 0, 1, 2}};
    const uint8x16_t order = vld1q_u8(orders[flip]);
    const int32_t *firsts = weights->first + left;
    const int bits = weights->bits, padded = weights->padded;
    for (int row = 0; row < 4; row++) {
        const int16_t *weight = weights->weights + left * padded;
        int32x4_t totals[4] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        int64_t x = 0;
        for (; x + 4 <= width; x += 4) {
            for (int i = 0; i < 4; i++, weight += padded)
                totals[i] = pixel_across(rows[row] + 3 * (ptrdiff_t)firsts[x + i], weight, bits, pairs);
            const ptrdiff_t at = flip ? 3 * (width - 4 - x) - 4 : 3 * x;
            vst1q_u8(to[row] + at, vqtbl1q_u8(sixteen_levels(totals), order));
        }
        for (; x < width; x++, weight += padded) {
            totals[0] = pixel_across(rows[row] + 3 * (ptrdiff_t)firsts[x], weight, bits, pairs);
            uint8_t pixel[16];
            vst1q_u8(pixel, sixteen_levels(totals));
            memcpy(to[row] + 3 * (flip ? width - 1 - x : x), pixel, 3);
        }
    }
}

static void resize_across(const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights, int64_t left,
                          int64_t width, bool flip) {
    switch (weights->pairs) {
    case 1: resize_across_in(rows, to, weights, left, width, flip, 1); break;
    case 2: resize_across_in(rows, to, weights, left, width, flip, 2); break;
    case 3: resize_across_in(rows, to, weights, left, width, flip, 3); break;
    case 4: resize_across_in(rows, to, weights, left, width, flip, 4); break;
    default: resize_across_in(rows, to, weights, left, width, flip, weights->pairs);
    }
}

static inline void weigh_16(const uint8_t *const *rows, const int16_t *weights, int taps, int32x4_t round,
                            int32x4_t shift, uint8_t *to, ptrdiff_t i) {
    int32x4_t totals[4] = {round, round, round, round};
    for (int tap = 0; tap < taps; tap++) {
        const uint8x16_t levels = vld1q_u8(rows[tap] + i);
        const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(levels)));
        const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(levels));
        totals[0] = vmlal_n_s16(totals[0], vget_low_s16(low), weights[tap]);
        totals[1] = vmlal_high_n_s16(totals[1], low, weights[tap]);
        totals[2] = vmlal_n_s16(totals[2], vget_low_s16(high), weights[tap]);
        totals[3] = vmlal_high_n_s16(totals[3], high, weights[tap]);
    }
    for (int part = 0; part < 4; part++) totals[part] = vshlq_s32(totals[part], shift);
    vst1q_u8(to + i, sixteen_levels(totals));
}

static void weigh_rows(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round, int bits,
                       uint8_t *to, ptrdiff_t num_bytes) {
    const int32x4_t rounds = vdupq_n_s32(round), shift = vdupq_n_s32(-bits);
    if (num_bytes < 16) {
        for (ptrdiff_t i = 0; i < num_bytes; i++) to[i] = weighed_byte(rows, weights, taps, round, bits, i);
        return;
    }
    ptrdiff_t i = 0;
    for (; i + 16 <= num_bytes; i += 16) weigh_16(rows, weights, taps, rounds, shift, to, i);
    if (i < num_bytes) weigh_16(rows, weights, taps, rounds, shift, to, num_bytes - 16); /* some once more */
}

static void weigh_columns(const uint8_t *from, uint8_t *to, int64_t height, ptrdiff_t stride, int64_t first, int window,
                          const int16_t (*weights)[32]) {
    for (int begin = 0; begin < 32; begin += 16, from += 16, to += 16) {
        for (int64_t y = 0; y < height; y++) {
            const int32x4_t zero = vdupq_n_s32(0);
            int32x4_t totals[4] = {zero, zero, zero, zero};
            for (int row = 0; row < window; row++) {
                const uint8x16_t levels = vld1q_u8(from + clamped(y + first + row, height) * stride);
                const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(levels)));
                const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(levels));
                const int16x8_t near = vld1q_s16(weights[row] + begin), far = vld1q_s16(weights[row] + begin + 8);
                totals[0] = vmlal_s16(totals[0], vget_low_s16(low), vget_low_s16(near));
                totals[1] = vmlal_high_s16(totals[1], low, near);
                totals[2] = vmlal_s16(totals[2], vget_low_s16(high), vget_low_s16(far));
                totals[3] = vmlal_high_s16(totals[3], high, far);
            }
            for (int part = 0; part < 4; part++) totals[part] = vshrq_n_s32(totals[part], TAP_BITS);
            vst1q_u8(to + y * stride, sixteen_levels(totals));
        }
    }
}

static void rotate_row(const uint8_t *bordered, ptrdiff_t stride, const PhaseTaps *taps, Places places, uint8_t *to,
                       int64_t num_pixels) {
    for (int64_t x = 0; x < num_pixels; x++, places.x += places.step_x, places.y += places.step_y) {
        const int32_t place_x = places.x + 128, place_y = places.y + 128; /* the nearest phase */
        const uint8_t *corner = bordered + ((place_y >> 16) - 1) * stride + 3 * (ptrdiff_t)((place_x >> 16) - 1);
        const int16x4_t across = vld1_s16(taps->across[place_x >> 8 & 255]);
        const int32_t *down = taps->down[place_y >> 8 & 255];
        int32x4_t total = vdupq_n_s32(0);
        for (int row = 0; row < 4; row++) {
            const uint8x16_t levels = vld1q_u8(corner + row * stride);
            const int32x4_t line = add_second_two(add_first_two(vdupq_n_s32(0), levels, across), levels, across);
            total = vmlaq_s32(total, vshrq_n_s32(line, 4), vld1q_s32(down + 4 * row));
        }
        const int16x4_t words = vqmovn_s32(vshrq_n_s32(total, 20));
        const uint32_t pixel = vget_lane_u32(vreinterpret_u32_u8(vqmovun_s16(vcombine_s16(words, words))), 0);
        memcpy(to + 3 * x, &pixel, x + 1 < num_pixels ? 4 : 3); /* the byte after it is the next one's */
    }
}

const Kernels neon_kernels = {
    .name = "neon",
    .resize_across = resize_across,
    .weigh_rows = weigh_rows,
    .weigh_columns = weigh_columns,
    .rotate_row = rotate_row,
    .look_up = look_up_singly,
    LOOPS,
};

#endif
