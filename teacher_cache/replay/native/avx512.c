/* Kernels for x86 with AVX-512 of the kind that came with VBMI (Ice Lake, Zen 4). A row's weighing gains nothing from
 * wider vectors where memory and shuffles bound it: that is AVX2's. */

#include "replay.h"

#if HAVE_X86

#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx2,bmi,bmi2")))
#include "loops.h"

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

const Kernels avx512_kernels = {
    .name = "avx512",
    .resize_across = avx2_resize_across,
    .weigh_rows = avx2_weigh_rows,
    .weigh_columns = avx2_weigh_columns,
    .rotate_row = avx2_rotate_row,
    .look_up = look_up,
    LOOPS,
};

#endif
