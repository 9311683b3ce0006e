/* Kernels for x86 with SSE 4.1, which processors without AVX2 have: AVX2's at half their width. */

#include "replay.h"

#if HAVE_X86

#include <immintrin.h>

#define TARGET __attribute__((target("ssse3,sse4.1")))
#include "loops.h"

TARGET static inline __m128i load(const void *from) { return _mm_loadu_si128((const __m128i *)from); }

/* Of four pixels the pairs of levels that two taps weigh: first and second pixel's red, green, blue, as words. */
TARGET static inline __m128i first_pair(__m128i levels) {
    return _mm_shuffle_epi8(levels, _mm_setr_epi8(0, -1, 3, -1, 1, -1, 4, -1, 2, -1, 5, -1, -1, -1, -1, -1));
}
TARGET static inline __m128i second_pair(__m128i levels) {
    return _mm_shuffle_epi8(levels, _mm_setr_epi8(6, -1, 9, -1, 7, -1, 10, -1, 8, -1, 11, -1, -1, -1, -1, -1));
}

TARGET static inline __m128i two_weights(const int16_t *weights) {
    int32_t pair;
    memcpy(&pair, weights, 4);
    return _mm_set1_epi32(pair);
}

/* Four rows' pixel as words, rows 0 and 1, then 2 and 3. */
typedef struct {
    __m128i rows_01, rows_23;
} Words;

TARGET static inline __attribute__((always_inline)) Words pixel_across(const uint8_t *const rows[4], ptrdiff_t first,
                                                                       const int16_t *weight, int bits,
                                                                       const int pairs) {
    const __m128i half = _mm_set1_epi32(1 << (bits - 1)), shift = _mm_cvtsi32_si128(bits);
    __m128i total[4] = {half, half, half, half};
    for (int pair = 0; pair < pairs; pair += 2, first += 12, weight += 4) {
        const __m128i near = two_weights(weight), far = two_weights(weight + 2);
        for (int row = 0; row < 4; row++) {
            const __m128i levels = load(rows[row] + first);
            total[row] = _mm_add_epi32(total[row], _mm_madd_epi16(first_pair(levels), near));
            if (pair + 1 < pairs) total[row] = _mm_add_epi32(total[row], _mm_madd_epi16(second_pair(levels), far));
        }
    }
    for (int row = 0; row < 4; row++) total[row] = _mm_sra_epi32(total[row], shift);
    const Words words = {_mm_packs_epi32(total[0], total[1]), _mm_packs_epi32(total[2], total[3])};
    return words;
}

/* Four pixels of two rows, 16 bytes each, of which 4 lie outside of the pixels: after, or before if mirrored. */
TARGET static inline void store_two(__m128i a, __m128i b, __m128i order, uint8_t *first, uint8_t *second) {
    const __m128 near = _mm_castsi128_ps(a), far = _mm_castsi128_ps(b);
    _mm_storeu_si128((__m128i *)first, _mm_shuffle_epi8(_mm_castps_si128(_mm_shuffle_ps(near, far, 0x88)), order));
    _mm_storeu_si128((__m128i *)second, _mm_shuffle_epi8(_mm_castps_si128(_mm_shuffle_ps(near, far, 0xDD)), order));
}

TARGET static inline __attribute__((always_inline)) void resize_across_in(
    const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights, int64_t left, int64_t width,
    const bool flip, const int pairs) {
    const int32_t *firsts = weights->first + left;
    const int16_t *weight = weights->weights + left * weights->padded;
    const int bits = weights->bits, padded = weights->padded;
    const __m128i order = flip ? _mm_setr_epi8(-1, -1, -1, -1, 12, 13, 14, 8, 9, 10, 4, 5, 6, 0, 1, 2)
                               : _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    int64_t x = 0;
    for (; x + 4 <= width; x += 4) {
        Words words[4];
        for (int i = 0; i < 4; i++, weight += padded)
            words[i] = pixel_across(rows, 3 * (ptrdiff_t)firsts[x + i], weight, bits, pairs);
        const ptrdiff_t at = flip ? 3 * (width - 4 - x) - 4 : 3 * x;
        store_two(_mm_packus_epi16(words[0].rows_01, words[1].rows_01),
                  _mm_packus_epi16(words[2].rows_01, words[3].rows_01), order, to[0] + at, to[1] + at);
        store_two(_mm_packus_epi16(words[0].rows_23, words[1].rows_23),
                  _mm_packus_epi16(words[2].rows_23, words[3].rows_23), order, to[2] + at, to[3] + at);
    }
    for (; x < width; x++, weight += padded) {
        const Words words = pixel_across(rows, 3 * (ptrdiff_t)firsts[x], weight, bits, pairs);
        uint8_t pixels[16];
        _mm_storeu_si128((__m128i *)pixels, _mm_packus_epi16(words.rows_01, words.rows_23));
        for (int row = 0; row < 4; row++) memcpy(to[row] + 3 * (flip ? width - 1 - x : x), pixels + 4 * row, 3);
    }
}

TARGET static void resize_across(const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights,
                                 int64_t left, int64_t width, bool flip) {
#define CASE(num, mirrored) \
    case 2 * num + mirrored: resize_across_in(rows, to, weights, left, width, mirrored, num); break;
    switch (2 * weights->pairs + flip) {
        CASE(1, 0) CASE(1, 1) CASE(2, 0) CASE(2, 1) CASE(3, 0) CASE(3, 1) CASE(4, 0) CASE(4, 1)
    default: resize_across_in(rows, to, weights, left, width, flip, weights->pairs);
    }
#undef CASE
}

/* Sums of 16 bytes. */
typedef struct {
    __m128i total[4];
} Sums;

TARGET static inline __attribute__((always_inline)) void add_pair(Sums *sums, __m128i a, __m128i b,
                                                                  const __m128i weights[4]) {
    const __m128i zero = _mm_setzero_si128(), low = _mm_unpacklo_epi8(a, b), high = _mm_unpackhi_epi8(a, b);
    const __m128i parts[4] = {_mm_unpacklo_epi8(low, zero), _mm_unpackhi_epi8(low, zero),
                              _mm_unpacklo_epi8(high, zero), _mm_unpackhi_epi8(high, zero)};
    for (int part = 0; part < 4; part++)
        sums->total[part] = _mm_add_epi32(sums->total[part], _mm_madd_epi16(parts[part], weights[part]));
}

TARGET static inline __m128i levels_of(const Sums *sums, __m128i bits) {
    const __m128i low = _mm_packs_epi32(_mm_sra_epi32(sums->total[0], bits), _mm_sra_epi32(sums->total[1], bits));
    const __m128i high = _mm_packs_epi32(_mm_sra_epi32(sums->total[2], bits), _mm_sra_epi32(sums->total[3], bits));
    return _mm_packus_epi16(low, high);
}

TARGET static inline __attribute__((always_inline)) void weigh_16(const uint8_t *const *rows, const int16_t *weights,
                                                                  int taps, __m128i round, __m128i bits, uint8_t *to,
                                                                  ptrdiff_t i) {
    Sums sums = {{round, round, round, round}};
    int tap = 0;
    for (; tap + 1 < taps; tap += 2) {
        const __m128i pair = two_weights(weights + tap), all[4] = {pair, pair, pair, pair};
        add_pair(&sums, load(rows[tap] + i), load(rows[tap + 1] + i), all);
    }
    if (tap < taps) {
        const __m128i one = _mm_set1_epi32((uint16_t)weights[tap]), all[4] = {one, one, one, one};
        add_pair(&sums, load(rows[tap] + i), _mm_setzero_si128(), all);
    }
    _mm_storeu_si128((__m128i *)(to + i), levels_of(&sums, bits));
}

TARGET static void weigh_rows(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round, int bits,
                              uint8_t *to, ptrdiff_t num_bytes) {
    const __m128i rounds = _mm_set1_epi32(round), shift = _mm_cvtsi32_si128(bits);
    if (num_bytes < 16) {
        for (ptrdiff_t i = 0; i < num_bytes; i++) to[i] = weighed_byte(rows, weights, taps, round, bits, i);
        return;
    }
    ptrdiff_t i = 0;
    for (; i + 16 <= num_bytes; i += 16) weigh_16(rows, weights, taps, rounds, shift, to, i);
    if (i < num_bytes) weigh_16(rows, weights, taps, rounds, shift, to, num_bytes - 16); /* some once more */
}

TARGET static void weigh_columns(const uint8_t *from, uint8_t *to, int64_t height, ptrdiff_t stride, int64_t first,
                                 int window, const int16_t (*weights)[32]) {
    const __m128i zero = _mm_setzero_si128(), shift = _mm_cvtsi32_si128(TAP_BITS);
    for (int begin = 0; begin < 32; begin += 16, from += 16, to += 16) {
        __m128i pairs[WINDOW / 2][4]; /* of two rows' weights */
        for (int row = 0; row < window; row += 2) {
            const int16_t *a = weights[row] + begin, *b = weights[row + 1] + begin;
            for (int half = 0; half < 2; half++) {
                pairs[row / 2][2 * half] = _mm_unpacklo_epi16(load(a + 8 * half), load(b + 8 * half));
                pairs[row / 2][2 * half + 1] = _mm_unpackhi_epi16(load(a + 8 * half), load(b + 8 * half));
            }
        }
        for (int64_t y = 0; y < height; y++) {
            Sums sums = {{zero, zero, zero, zero}};
            for (int row = 0; row < window; row += 2)
                add_pair(&sums, load(from + clamped(y + first + row, height) * stride),
                         load(from + clamped(y + first + row + 1, height) * stride), pairs[row / 2]);
            _mm_storeu_si128((__m128i *)(to + y * stride), levels_of(&sums, shift));
        }
    }
}

TARGET static void rotate_row(const uint8_t *bordered, ptrdiff_t stride, const PhaseTaps *taps, Places places,
                              uint8_t *to, int64_t num_pixels) {
    for (int64_t x = 0; x < num_pixels; x++, places.x += places.step_x, places.y += places.step_y) {
        const int32_t place_x = places.x + 128, place_y = places.y + 128; /* the nearest phase */
        const uint8_t *corner = bordered + ((place_y >> 16) - 1) * stride + 3 * (ptrdiff_t)((place_x >> 16) - 1);
        const int16_t *across = taps->across[place_x >> 8 & 255];
        const int32_t *down = taps->down[place_y >> 8 & 255];
        const __m128i near = two_weights(across), far = two_weights(across + 2);
        __m128i total = _mm_setzero_si128();
        for (int row = 0; row < 4; row++) {
            const __m128i levels = load(corner + row * stride);
            const __m128i line =
                _mm_add_epi32(_mm_madd_epi16(first_pair(levels), near), _mm_madd_epi16(second_pair(levels), far));
            total = _mm_add_epi32(total, _mm_mullo_epi32(_mm_srai_epi32(line, 4), load(down + 4 * row)));
        }
        total = _mm_srai_epi32(total, 20);
        total = _mm_packs_epi32(total, total);
        const int32_t pixel = _mm_cvtsi128_si32(_mm_packus_epi16(total, total));
        memcpy(to + 3 * x, &pixel, x + 1 < num_pixels ? 4 : 3); /* the byte after it is the next one's */
    }
}

const Kernels sse41_kernels = {
    .name = "sse41",
    .resize_across = resize_across,
    .weigh_rows = weigh_rows,
    .weigh_columns = weigh_columns,
    .rotate_row = rotate_row,
    .look_up = look_up_singly,
    LOOPS,
};

#endif
