/* Kernels for x86 with AVX-512 of the kind that came with VBMI (Ice Lake, Zen 4): what is not here is AVX2's. */

#include "replay.h"

#if HAVE_X86

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,bmi,bmi2")))
#include "loops.h"

TARGET static inline __m512i two_weights(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, 4);
    return _mm512_set1_epi32(pair);
}

TARGET static inline __m512i four_rows(const uint8_t *const rows[4], ptrdiff_t first) {
    const __m128i *a = (const __m128i *)(rows[0] + first), *b = (const __m128i *)(rows[1] + first);
    const __m128i *c = (const __m128i *)(rows[2] + first), *d = (const __m128i *)(rows[3] + first);
    const __m256i ab = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(a)), _mm_loadu_si128(b), 1);
    const __m256i cd = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(c)), _mm_loadu_si128(d), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(ab), cd, 1);
}

/* Of four pixels the pairs of levels that two taps weigh: first and second pixel's red, green, blue, as words. */
TARGET static inline __m512i pairs_01(void) {
    return _mm512_broadcast_i32x4(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
}
TARGET static inline __m512i pairs_23(void) {
    return _mm512_broadcast_i32x4(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
}

/* Four taps at a time, so many times. */
TARGET static inline __attribute__((always_inline)) void resize_across_in(
    const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights, int64_t left, int64_t width, bool flip,
    const int steps) {
    const __m512i mask_01 = pairs_01(), mask_23 = pairs_23(), half = _mm512_set1_epi32(1 << (weights->bits - 1));
    const __m128i bits = _mm_cvtsi32_si128(weights->bits);
    const int32_t *firsts = weights->first + left;
    const int16_t *weight = weights->weights + left * weights->padded;
    ptrdiff_t at = flip ? 3 * (width - 1) : 0;
    const ptrdiff_t on = flip ? -3 : 3;
    for (int64_t x = 0; x < width; x++, at += on) {
        ptrdiff_t first = 3 * (ptrdiff_t)firsts[x];
        __m512i total = half;
        for (int step = 0; step < steps; step++, first += 12, weight += 4) {
            const __m512i levels = four_rows(rows, first);
            total = _mm512_add_epi32(
                total, _mm512_madd_epi16(_mm512_shuffle_epi8(levels, mask_01), two_weights(weight)));
            total = _mm512_add_epi32(
                total, _mm512_madd_epi16(_mm512_shuffle_epi8(levels, mask_23), two_weights(weight + 2)));
        }
        total = _mm512_max_epi32(_mm512_sra_epi32(total, bits), _mm512_setzero_si512());
        const __m128i pixels = _mm512_cvtusepi32_epi8(total); /* a pixel of each row in four bytes, clipped */
        const int32_t four[4] = {_mm_cvtsi128_si32(pixels), _mm_extract_epi32(pixels, 1), _mm_extract_epi32(pixels, 2),
                                 _mm_extract_epi32(pixels, 3)};
        for (int row = 0; row < 4; row++) {
            /* mirrored rows are written from their end on: the byte after a pixel is the next one's */
            if (flip) memcpy(to[row] + at, &four[row], 2), to[row][at + 2] = (uint8_t)(four[row] >> 16);
            else memcpy(to[row] + at, &four[row], 4);
        }
    }
}

TARGET static void resize_across(const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights,
                                 int64_t left, int64_t width, bool flip) {
    switch (weights->padded / 4) {
    case 1: resize_across_in(rows, to, weights, left, width, flip, 1); break;
    case 2: resize_across_in(rows, to, weights, left, width, flip, 2); break;
    case 3: resize_across_in(rows, to, weights, left, width, flip, 3); break;
    default: resize_across_in(rows, to, weights, left, width, flip, weights->padded / 4);
    }
}

TARGET static void weigh_rows(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round, int bits,
                              uint8_t *to, ptrdiff_t num_bytes) {
    const __m512i rounds = _mm512_set1_epi32(round), zero = _mm512_setzero_si512();
    const __m128i shift = _mm_cvtsi32_si128(bits);
    for (ptrdiff_t i = 0; i < num_bytes; i += 64) {
        const __mmask64 there = num_bytes - i >= 64 ? ~0ull : ~(~0ull << (num_bytes - i));
        __m512i total[4] = {rounds, rounds, rounds, rounds};
        for (int tap = 0; tap < taps; tap += 2) {
            const bool is_pair = tap + 1 < taps;
            const __m512i a = _mm512_maskz_loadu_epi8(there, rows[tap] + i);
            const __m512i b = is_pair ? _mm512_maskz_loadu_epi8(there, rows[tap + 1] + i) : zero;
            const __m512i pair = is_pair ? two_weights(weights + tap) : _mm512_set1_epi32((uint16_t)weights[tap]);
            const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
            total[0] = _mm512_add_epi32(total[0], _mm512_madd_epi16(_mm512_unpacklo_epi8(low, zero), pair));
            total[1] = _mm512_add_epi32(total[1], _mm512_madd_epi16(_mm512_unpackhi_epi8(low, zero), pair));
            total[2] = _mm512_add_epi32(total[2], _mm512_madd_epi16(_mm512_unpacklo_epi8(high, zero), pair));
            total[3] = _mm512_add_epi32(total[3], _mm512_madd_epi16(_mm512_unpackhi_epi8(high, zero), pair));
        }
        for (int part = 0; part < 4; part++) total[part] = _mm512_sra_epi32(total[part], shift);
        const __m512i levels =
            _mm512_packus_epi16(_mm512_packs_epi32(total[0], total[1]), _mm512_packs_epi32(total[2], total[3]));
        _mm512_mask_storeu_epi8(to + i, there, levels);
    }
}

TARGET static inline __m512i found_in(const uint8_t table[256], __m512i levels) {
    const __m512i low = _mm512_permutex2var_epi8(_mm512_loadu_si512(table), levels, _mm512_loadu_si512(table + 64));
    const __m512i high =
        _mm512_permutex2var_epi8(_mm512_loadu_si512(table + 128), levels, _mm512_loadu_si512(table + 192));
    return _mm512_mask_blend_epi8(_mm512_movepi8_mask(levels), low, high);
}

TARGET static void look_up(uint8_t *pixels, int64_t num_pixels, const uint8_t tables[3][256]) {
    /* by the channel of byte 0, those of the second and of the third channel: 64 is one more than a multiple of 3 */
    static const uint64_t of_second[3] = {0x2492492492492492, 0x9249249249249249, 0x4924924924924924};
    static const uint64_t of_third[3] = {0x4924924924924924, 0x2492492492492492, 0x9249249249249249};
    int phase = 0;
    for (int64_t i = 0; i < 3 * num_pixels; i += 64, phase = (phase + 1) % 3) {
        const int64_t left = 3 * num_pixels - i;
        const __mmask64 there = left >= 64 ? ~0ull : ~(~0ull << left);
        const __m512i levels = _mm512_maskz_loadu_epi8(there, pixels + i);
        __m512i found = found_in(tables[0], levels);
        found = _mm512_mask_blend_epi8(of_second[phase], found, found_in(tables[1], levels));
        found = _mm512_mask_blend_epi8(of_third[phase], found, found_in(tables[2], levels));
        _mm512_mask_storeu_epi8(pixels + i, there, found);
    }
}

/* A column's bytes and a rotated pixel's rows are narrower than these vectors. */
const Kernels avx512_kernels = {
    .name = "avx512",
    .resize_across = resize_across,
    .weigh_rows = weigh_rows,
    .weigh_columns = avx2_weigh_columns,
    .rotate_row = avx2_rotate_row,
    .look_up = look_up,
    .invert = invert,
    .posterize = posterize,
    .solarize = solarize,
    .solarize_add = solarize_add,
    .extremes = extremes,
    .sum_grey = sum_grey,
    .blend_with_grey = blend_with_grey,
    .sharpen_row = sharpen_row,
    .blend_pair = blend_pair,
};

#endif
