/* Kernels for x86 with AVX2. */

#include "replay.h"

#if HAVE_X86

#include <immintrin.h>

#define TARGET __attribute__((target("avx2,bmi,bmi2")))
#include "loops.h"

/* Of four pixels the pairs of levels that two taps weigh: first and second pixel's red, green, blue, as words. */
TARGET static inline __m256i pairs_01(void) {
    return _mm256_broadcastsi128_si256(_mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
}
TARGET static inline __m256i pairs_23(void) {
    return _mm256_broadcastsi128_si256(_mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
}

TARGET static inline __m256i two_rows(const uint8_t *a, const uint8_t *b) {
    const __m256i first = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
    return _mm256_inserti128_si256(first, _mm_loadu_si128((const __m128i *)b), 1);
}

TARGET static inline __m256i two_weights(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, 4);
    return _mm256_set1_epi32(pair);
}

TARGET static inline void store_pixel(uint8_t *to, int32_t pixel) { memcpy(to, &pixel, 4); }

/* Four rows' pixel, as words: rows 0 and 2, rows 1 and 3; of so many pairs of taps. */
TARGET static inline __attribute__((always_inline)) __m256i pixel_across(const uint8_t *const rows[4], ptrdiff_t first,
                                                                         const int16_t *weight, int bits,
                                                                         const int pairs) {
    const __m256i mask_01 = pairs_01(), mask_23 = pairs_23(), half = _mm256_set1_epi32(1 << (bits - 1));
    const __m128i shift = _mm_cvtsi32_si128(bits);
    __m256i total_01 = half, total_23 = half;
    for (int pair = 0; pair < pairs; pair += 2, first += 12, weight += 4) {
        const __m256i rows_01 = two_rows(rows[0] + first, rows[1] + first);
        const __m256i rows_23 = two_rows(rows[2] + first, rows[3] + first);
        const __m256i near = two_weights(weight), far = two_weights(weight + 2);
        total_01 = _mm256_add_epi32(total_01, _mm256_madd_epi16(_mm256_shuffle_epi8(rows_01, mask_01), near));
        total_23 = _mm256_add_epi32(total_23, _mm256_madd_epi16(_mm256_shuffle_epi8(rows_23, mask_01), near));
        if (pair + 1 == pairs) break;
        total_01 = _mm256_add_epi32(total_01, _mm256_madd_epi16(_mm256_shuffle_epi8(rows_01, mask_23), far));
        total_23 = _mm256_add_epi32(total_23, _mm256_madd_epi16(_mm256_shuffle_epi8(rows_23, mask_23), far));
    }
    return _mm256_packs_epi32(_mm256_sra_epi32(total_01, shift), _mm256_sra_epi32(total_23, shift));
}

/* Four pixels of four rows are stored as 16 bytes each, of which 4 lie outside of them: after, or before if mirrored. */
TARGET static inline __attribute__((always_inline)) void resize_across_in(
    const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights, int64_t left, int64_t width,
    const bool flip, const int pairs) {
    const int32_t *firsts = weights->first + left;
    const int16_t *weight = weights->weights + left * weights->padded;
    const int bits = weights->bits, padded = weights->padded;
    const __m256i order = _mm256_broadcastsi128_si256(
        flip ? _mm_setr_epi8(-1, -1, -1, -1, 12, 13, 14, 8, 9, 10, 4, 5, 6, 0, 1, 2)
             : _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
        __m256i words[4];
        for (int i = 0; i < 4; i++, weight += padded)
            words[i] = pixel_across(rows, 3 * (ptrdiff_t)firsts[x + i], weight, bits, pairs);
        const __m256 a = _mm256_castsi256_ps(_mm256_packus_epi16(words[0], words[1]));
        const __m256 b = _mm256_castsi256_ps(_mm256_packus_epi16(words[2], words[3]));
        const __m256i rows_01 = _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0x88)), order);
        const __m256i rows_23 = _mm256_shuffle_epi8(_mm256_castps_si256(_mm256_shuffle_ps(a, b, 0xDD)), order);
        const ptrdiff_t at = flip ? 3 * (width - 4 - x) - 4 : 3 * x;
        _mm_storeu_si128((__m128i *)(to[0] + at), _mm256_castsi256_si128(rows_01));
        _mm_storeu_si128((__m128i *)(to[1] + at), _mm256_extracti128_si256(rows_01, 1));
        _mm_storeu_si128((__m128i *)(to[2] + at), _mm256_castsi256_si128(rows_23));
        _mm_storeu_si128((__m128i *)(to[3] + at), _mm256_extracti128_si256(rows_23, 1));
    }
    for (; x < width; x++, weight += padded) {
        const __m256i words = pixel_across(rows, 3 * (ptrdiff_t)firsts[x], weight, bits, pairs);
        const __m256i levels = _mm256_packus_epi16(words, words);
        const __m128i rows_02 = _mm256_castsi256_si128(levels), rows_13 = _mm256_extracti128_si256(levels, 1);
        const int32_t pixels[4] = {_mm_cvtsi128_si32(rows_02), _mm_cvtsi128_si32(rows_13),
                                   _mm_extract_epi32(rows_02, 1), _mm_extract_epi32(rows_13, 1)};
        for (int row = 0; row < 4; row++) memcpy(to[row] + 3 * (flip ? width - 1 - x : x), &pixels[row], 3);
    }
}

TARGET void avx2_resize_across(const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights,
                                 int64_t left, int64_t width, bool flip) {
#define CASE(num, mirrored) \
    case 2 * num + mirrored: resize_across_in(rows, to, weights, left, width, mirrored, num); break;
    switch (2 * weights->pairs + flip) {
        CASE(1, 0) CASE(1, 1) CASE(2, 0) CASE(2, 1) CASE(3, 0) CASE(3, 1) CASE(4, 0) CASE(4, 1)
    default: resize_across_in(rows, to, weights, left, width, flip, weights->pairs);
    }
#undef CASE
}

/* Sums of 32 bytes, in the order in which unpacking and packing again leaves them. */
typedef struct {
    __m256i total[4];
} Sums;

TARGET static inline __attribute__((always_inline)) void add_pair(Sums *sums, __m256i a, __m256i b, __m256i weights) {
    const __m256i zero = _mm256_setzero_si256();
    const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
    sums->total[0] = _mm256_add_epi32(sums->total[0], _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weights));
    sums->total[1] = _mm256_add_epi32(sums->total[1], _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weights));
    sums->total[2] = _mm256_add_epi32(sums->total[2], _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weights));
    sums->total[3] = _mm256_add_epi32(sums->total[3], _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weights));
}

TARGET static inline __m256i levels_of(const Sums *sums, __m128i bits) {
    const __m256i low = _mm256_packs_epi32(_mm256_sra_epi32(sums->total[0], bits), _mm256_sra_epi32(sums->total[1], bits));
    const __m256i high = _mm256_packs_epi32(_mm256_sra_epi32(sums->total[2], bits), _mm256_sra_epi32(sums->total[3], bits));
    return _mm256_packus_epi16(low, high);
}

TARGET static inline __m256i load(const uint8_t *from) { return _mm256_loadu_si256((const __m256i *)from); }

TARGET static inline __attribute__((always_inline)) void weigh_32(const uint8_t *const *rows, const int16_t *weights,
                                                                   int taps, __m256i round, __m128i bits, uint8_t *to,
                                                                   ptrdiff_t i) {
    Sums sums = {{round, round, round, round}};
    int tap = 0;
    for (; tap + 1 < taps; tap += 2) add_pair(&sums, load(rows[tap] + i), load(rows[tap + 1] + i), two_weights(weights + tap));
    if (tap < taps)
        add_pair(&sums, load(rows[tap] + i), _mm256_setzero_si256(), _mm256_set1_epi32((uint16_t)weights[tap]));
    _mm256_storeu_si256((__m256i *)(to + i), levels_of(&sums, bits));
}

TARGET void avx2_weigh_rows(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round, int bits,
                              uint8_t *to, ptrdiff_t num_bytes) {
    const __m256i rounds = _mm256_set1_epi32(round);
    const __m128i shift = _mm_cvtsi32_si128(bits);
    if (num_bytes < 32) {
        for (ptrdiff_t i = 0; i < num_bytes; i++) to[i] = weighed_byte(rows, weights, taps, round, bits, i);
        return;
    }
    ptrdiff_t i = 0;
    for (; i + 32 <= num_bytes; i += 32) weigh_32(rows, weights, taps, rounds, shift, to, i);
    if (i < num_bytes) weigh_32(rows, weights, taps, rounds, shift, to, num_bytes - 32); /* some once more */
}

TARGET void avx2_weigh_columns(const uint8_t *from, uint8_t *to, int64_t height, ptrdiff_t stride, int64_t first,
                                 int window, const int16_t (*weights)[32]) {
    __m256i pairs[WINDOW / 2][4]; /* of two rows' weights, in the order in which unpacking leaves the levels */
    for (int row = 0; row < window; row += 2) {
        const __m256i a = load((const uint8_t *)weights[row]), a_on = load((const uint8_t *)(weights[row] + 16));
        const __m256i b = load((const uint8_t *)weights[row + 1]), b_on = load((const uint8_t *)(weights[row + 1] + 16));
        const __m256i a_low = _mm256_permute2x128_si256(a, a_on, 0x20), a_high = _mm256_permute2x128_si256(a, a_on, 0x31);
        const __m256i b_low = _mm256_permute2x128_si256(b, b_on, 0x20), b_high = _mm256_permute2x128_si256(b, b_on, 0x31);
        pairs[row / 2][0] = _mm256_unpacklo_epi16(a_low, b_low);
        pairs[row / 2][1] = _mm256_unpackhi_epi16(a_low, b_low);
        pairs[row / 2][2] = _mm256_unpacklo_epi16(a_high, b_high);
        pairs[row / 2][3] = _mm256_unpackhi_epi16(a_high, b_high);
    }
    const __m256i zero = _mm256_setzero_si256();
    const __m128i shift = _mm_cvtsi32_si128(TAP_BITS);
    for (int64_t y = 0; y < height; y++, to += stride) {
        Sums sums = {{zero, zero, zero, zero}};
        for (int row = 0; row < window; row += 2) {
            const __m256i a = load(from + clamped(y + first + row, height) * stride);
            const __m256i b = load(from + clamped(y + first + row + 1, height) * stride);
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            const __m256i parts[4] = {_mm256_unpacklo_epi8(low, zero), _mm256_unpackhi_epi8(low, zero),
                                      _mm256_unpacklo_epi8(high, zero), _mm256_unpackhi_epi8(high, zero)};
            for (int part = 0; part < 4; part++)
                sums.total[part] =
                    _mm256_add_epi32(sums.total[part], _mm256_madd_epi16(parts[part], pairs[row / 2][part]));
        }
        _mm256_storeu_si256((__m256i *)to, levels_of(&sums, shift));
    }
}

TARGET void avx2_rotate_row(const uint8_t *bordered, ptrdiff_t stride, const PhaseTaps *taps, Places places,
                              uint8_t *to, int64_t num_pixels) {
    const __m256i mask_01 = pairs_01(), mask_23 = pairs_23();
    for (int64_t x = 0; x < num_pixels; x++, places.x += places.step_x, places.y += places.step_y) {
        const int32_t place_x = places.x + 128, place_y = places.y + 128; /* the nearest phase */
        const uint8_t *corner = bordered + ((place_y >> 16) - 1) * stride + 3 * (ptrdiff_t)((place_x >> 16) - 1);
        const int16_t *across = taps->across[place_x >> 8 & 255];
        const int32_t *down = taps->down[place_y >> 8 & 255];
        const __m256i near = two_weights(across), far = two_weights(across + 2);
        const __m256i rows_01 = two_rows(corner, corner + stride);
        const __m256i rows_23 = two_rows(corner + 2 * stride, corner + 3 * stride);
        const __m256i lines_01 = _mm256_add_epi32(_mm256_madd_epi16(_mm256_shuffle_epi8(rows_01, mask_01), near),
                                                  _mm256_madd_epi16(_mm256_shuffle_epi8(rows_01, mask_23), far));
        const __m256i lines_23 = _mm256_add_epi32(_mm256_madd_epi16(_mm256_shuffle_epi8(rows_23, mask_01), near),
                                                  _mm256_madd_epi16(_mm256_shuffle_epi8(rows_23, mask_23), far));
        const __m256i total = _mm256_add_epi32(
            _mm256_mullo_epi32(_mm256_srai_epi32(lines_01, 4), load((const uint8_t *)down)),
            _mm256_mullo_epi32(_mm256_srai_epi32(lines_23, 4), load((const uint8_t *)(down + 8))));
        __m128i levels = _mm_add_epi32(_mm256_castsi256_si128(total), _mm256_extracti128_si256(total, 1));
        levels = _mm_srai_epi32(levels, 20);
        levels = _mm_packs_epi32(levels, levels);
        const int32_t pixel = _mm_cvtsi128_si32(_mm_packus_epi16(levels, levels));
        if (x + 1 < num_pixels) store_pixel(to + 3 * x, pixel);
        else memcpy(to + 3 * x, &pixel, 3);
    }
}

const Kernels avx2_kernels = {
    .name = "avx2",
    .resize_across = avx2_resize_across,
    .weigh_rows = avx2_weigh_rows,
    .weigh_columns = avx2_weigh_columns,
    .rotate_row = avx2_rotate_row,
    .look_up = look_up_singly,
    LOOPS,
};

#endif
