/* Random numbers of one derived seed, in the order in which they are asked for: seeds.py says what each is. */

#ifndef STREAM_H
#define STREAM_H

#include <string.h>

#include "replay.h"

enum { BLOCK_WORDS = 4, ROUNDS = 10 };

#if defined(__SIZEOF_INT128__)
__extension__ typedef unsigned __int128 Wide;
#else
#error "a compiler with integers of 128 bits is needed"
#endif

/* A block of a stream (key, then nonce) by its number, from 0: Philox 4x64-10 (Salmon et al. 2011). */
static inline void philox_block(const uint64_t stream[4], uint64_t number, uint64_t words[BLOCK_WORDS]) {
    uint64_t key[2] = {stream[0], stream[1]};
    uint64_t counter[4] = {number + 1, 0, stream[2], stream[3]}; /* NumPy's counts up before it makes a block */
    for (int round = 0; round < ROUNDS; round++) {
        const Wide first = (Wide)0xD2E7470EE14C6C93 * counter[0], third = (Wide)0xCA5A826395121157 * counter[2];
        counter[0] = (uint64_t)(third >> 64) ^ counter[1] ^ key[0];
        counter[1] = (uint64_t)third;
        counter[2] = (uint64_t)(first >> 64) ^ counter[3] ^ key[1];
        counter[3] = (uint64_t)first;
        key[0] += 0x9E3779B97F4A7C15, key[1] += 0xBB67AE8584CAA73B;
    }
    memcpy(words, counter, sizeof counter);
}

typedef struct {
    const uint64_t *seed;
    uint64_t next; /* word's place */
    uint64_t words[BLOCK_WORDS];
} Stream;

uint64_t next_word(Stream *stream);

/* In [low, high). */
double uniform(Stream *stream, double low, double high);

/* In [0, n); n below 2**32. */
int64_t integer(Stream *stream, int64_t n);

/* Rounded, as the last bits of logarithms, exponentials and cosines vary by library; never -0.0. */
double on_grid(double value);

/* (0, 1]. */
double above_zero(Stream *stream);

/* On the grid. */
double normal(Stream *stream);
double beta(Stream *stream, double a, double b);

#endif
