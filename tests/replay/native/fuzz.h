/* What the fuzzes share: random numbers, memory of exact size, and numbers that nothing is to have. */

#ifndef FUZZ_H
#define FUZZ_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "replay.h"

/* ---- random numbers, and memory of exact size ---- */

static uint64_t state, seed, round_number;

static inline uint64_t random_word(void) { /* splitmix64 (Steele et al. 2014) */
    uint64_t mixed = state += 0x9E3779B97F4A7C15;
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9;
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB;
    return mixed ^ mixed >> 31;
}

static inline int64_t between(int64_t least, int64_t most) {
    return least + (int64_t)(random_word() % (uint64_t)(most - least + 1));
}

static inline double real_between(double least, double most) {
    return least + (most - least) * (double)(random_word() >> 11) / 9007199254740992.0;
}

static inline bool one_of(int64_t num) { return between(1, num) == 1; }

static inline void check(bool holds, const char *kernels, const char *what) {
    if (holds) return;
    fprintf(stderr, "%s: %s is not as it must be, in round %llu of seed %llu\n", kernels, what,
            (unsigned long long)round_number, (unsigned long long)seed);
    exit(1);
}

/* Bytes at an odd address, or between guards, or both; a sanitizer sees what is read beyond, the guards what is
 * written. */
typedef struct {
    uint8_t *memory, *bytes;
    size_t size, before, after;
} Buffer;

enum { GUARD = 0xA5, MOST_GUARD = 64 };

static inline Buffer new_buffer(int64_t size) {
    Buffer buffer = {.size = (size_t)size, .before = (size_t)(one_of(2) ? between(0, MOST_GUARD) : 0)};
    buffer.after = one_of(2) ? MOST_GUARD : 0;
    buffer.memory = malloc(buffer.before + buffer.size + buffer.after + 1);
    if (buffer.after == 0) { /* the memory ends with the buffer */
        free(buffer.memory);
        buffer.memory = malloc(buffer.before + buffer.size);
    }
    if (!buffer.memory) abort();
    memset(buffer.memory, GUARD, buffer.before + buffer.size + buffer.after);
    buffer.bytes = buffer.memory + buffer.before;
    return buffer;
}

/* Levels at random, or few of them, or only the darkest and the brightest, whose sums overshoot. */
static inline Buffer random_levels(int64_t size) {
    Buffer buffer = new_buffer(size);
    const int64_t kind = between(0, 3), some = between(0, 255);
    for (size_t i = 0; i < buffer.size; i++) {
        const uint8_t level = (uint8_t)random_word();
        buffer.bytes[i] = kind == 0   ? (uint8_t)(level & 128 ? 255 : 0)
                          : kind == 1 ? (uint8_t)(some + level % 3)
                                      : level;
    }
    return buffer;
}

static inline Buffer copied(const Buffer *buffer) {
    Buffer copy = new_buffer((int64_t)buffer->size);
    memcpy(copy.bytes, buffer->bytes, buffer->size);
    return copy;
}

static inline void check_guards(const Buffer *buffer, const char *kernels, const char *what) {
    for (size_t i = 0; i < buffer->before; i++) check(buffer->memory[i] == GUARD, kernels, what);
    for (size_t i = 0; i < buffer->after; i++) check(buffer->bytes[buffer->size + i] == GUARD, kernels, what);
}

static inline void free_buffer(Buffer *buffer) { free(buffer->memory); }

/* Both lose their memory. */
static inline void check_equal(Buffer *expected, Buffer *actual, const char *kernels, const char *what) {
    check_guards(actual, kernels, what);
    check(memcmp(expected->bytes, actual->bytes, expected->size) == 0, kernels, what);
    free_buffer(actual);
}

/* ---- numbers of views ---- */

static inline double random_value(int64_t operation) {
    switch (operation) {
    case POSTERIZE: return (double)between(0, 9);
    case SOLARIZE: return (double)between(0, 256);
    case SOLARIZE_ADD: return (double)between(0, 128);
    case COLOR: case SHARPNESS: return real_between(-8.0, 8.0);
    case ROTATE: return one_of(8) ? 90.0 * (double)between(-4, 4) : real_between(-360.0, 360.0);
    case HUE: return real_between(-0.5, 0.5);
    case SHEAR_X: case SHEAR_Y: case TRANSLATE_X: case TRANSLATE_Y:
        return one_of(8) ? real_between(-360.0, 360.0) : real_between(-1.1, 1.1);
    default: return real_between(-3.0, 3.0);
    }
}

static inline void random_box(int64_t height, int64_t width, int64_t box[4]) {
    box[2] = between(1, height), box[3] = between(1, width);
    box[0] = between(0, height - box[2]), box[1] = between(0, width - box[3]);
}

static inline int64_t nasty_integer(void) {
    static const int64_t some[] = {INT64_MIN,   INT64_MIN + 1, INT64_MAX, INT64_MAX - 1, INT32_MIN, INT32_MAX,
                                   1ll << 32,   -(1ll << 32),  -1,        -2,            0,         1,
                                   2,           3,             255,       256,           65535,     65536,
                                   1ll << 61,   -(1ll << 61),  1ll << 62, 8192,          8193,      17};
    return some[between(0, (int64_t)(sizeof some / sizeof *some) - 1)];
}

static inline double nasty_real(void) {
    const double some[] = {NAN, INFINITY, -INFINITY, 1e308, -1e308, 1e-320, 360.0, -360.0, 360.1, -360.1, 129.0,
                           -1.0, 8.1, -8.1, 0.0, -0.0, 2147483648.0, -2147483649.0, 1e19};
    return some[between(0, (int64_t)(sizeof some / sizeof *some) - 1)];
}

#endif
