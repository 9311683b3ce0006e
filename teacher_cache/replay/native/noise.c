/* Erased boxes, as erase.py, of the words that seeds.py draws: Philox 4x64-10 (Salmon et al. 2011). */

#include <string.h>

#include "replay.h"

enum { BLOCK_WORDS = 4, ROUNDS = 10 };

#if defined(__SIZEOF_INT128__)
__extension__ typedef unsigned __int128 Wide;
#else
#error "a compiler with integers of 128 bits is needed"
#endif

/* A block of a stream (key, then nonce) by its number, from 0. */
static void philox_block(const uint64_t stream[4], uint64_t number, uint64_t words[BLOCK_WORDS]) {
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

/* 16 bits at a time: four pieces a word. */
typedef struct {
    const uint64_t *stream;
    int64_t number; /* of the block held, -1 before the first */
    uint64_t words[BLOCK_WORDS];
} Pieces;

static inline unsigned piece_at(Pieces *pieces, int64_t piece) {
    const int64_t number = piece / (4 * BLOCK_WORDS);
    if (number != pieces->number) {
        pieces->number = number;
        philox_block(pieces->stream, (uint64_t)number, pieces->words);
    }
    return pieces->words[piece / 4 % BLOCK_WORDS] >> (16 * (piece % 4)) & 0xFFFF;
}

int64_t erase_box(uint8_t *view, int64_t width, const int64_t box[4], enum erase_mode mode, const uint8_t fill[3],
                  const uint8_t *noise, const uint64_t stream[4], int64_t first_word) {
    uint8_t *corner = view + 3 * (box[0] * width + box[1]);
    if (mode == ERASE_PIXEL) {
        int64_t piece = 4 * first_word;
        Pieces pieces = {.stream = stream, .number = -1};
        for (int channel = 0; channel < 3; channel++)
            for (int64_t y = 0; y < box[2]; y++)
                for (int64_t x = 0; x < box[3]; x++)
                    corner[3 * (y * width + x) + channel] = noise[65536 * channel + piece_at(&pieces, piece++)];
        return (3 * box[2] * box[3] + 3) / 4;
    }
    uint8_t colour[3];
    memcpy(colour, fill, 3);
    if (mode == ERASE_RAND) {
        Pieces pieces = {.stream = stream, .number = -1};
        for (int channel = 0; channel < 3; channel++)
            colour[channel] = noise[65536 * channel + piece_at(&pieces, 4 * first_word + channel)];
    }
    for (int64_t y = 0; y < box[2]; y++)
        for (int64_t x = 0; x < box[3]; x++) memcpy(corner + 3 * (y * width + x), colour, 3);
    return mode == ERASE_RAND ? 1 : 0;
}
