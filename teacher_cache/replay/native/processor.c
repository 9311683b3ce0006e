/* Which sets of kernels there are, and which of them this processor has. */

#include "replay.h"

#if HAVE_X86
#include <cpuid.h>
#endif

const Kernels *const all_kernels[] = {
#if HAVE_X86
    &avx512_kernels, &avx2_kernels, &sse41_kernels,
#elif HAVE_NEON
    &neon_kernels,
#endif
    &plain_kernels, NULL};

#if HAVE_X86

/* Asked of the processor itself: of compilers' own __builtin_cpu_supports not each can be relied on. */
typedef struct {
    unsigned basic, extended, more; /* registers C of leaf 1, B and C of leaf 7 */
    unsigned saved;                 /* what the system keeps of registers */
} Features;

static Features features(void) {
    Features found = {0};
    unsigned a, b, d;
    if (!__get_cpuid(1, &a, &b, &found.basic, &d)) return found;
    if (!__get_cpuid_count(7, 0, &a, &found.extended, &found.more, &d)) found.extended = found.more = 0;
    if (found.basic & bit_OSXSAVE) __asm__("xgetbv" : "=a"(found.saved), "=d"(d) : "c"(0));
    return found;
}

static bool has(unsigned found, unsigned wanted) { return (found & wanted) == wanted; }

const Kernels *best_kernels(void) {
    enum { YMM = 0x6, ZMM = 0xE6 };
    const Features found = features();
    if (has(found.saved, YMM) && has(found.extended, bit_AVX2 | bit_BMI | bit_BMI2)) {
        if (has(found.saved, ZMM) && has(found.more, bit_AVX512VBMI) &&
            has(found.extended, bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL))
            return &avx512_kernels;
        return &avx2_kernels;
    }
    return has(found.basic, bit_SSSE3 | bit_SSE4_1) ? &sse41_kernels : &plain_kernels;
}

#else

const Kernels *best_kernels(void) { return all_kernels[0]; }

#endif
