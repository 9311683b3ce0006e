/* Erased boxes, as erase.py, of the words that seeds.py draws. */

#include <string.h>

#include "stream.h"

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
                    corner[3 * (y * width + x) + channel] = noise[65536 * channel + (int)piece_at(&pieces, piece++)];
        return (3 * box[2] * box[3] + 3) / 4;
    }
    uint8_t colour[3];
    memcpy(colour, fill, 3);
    if (mode == ERASE_RAND) {
        Pieces pieces = {.stream = stream, .number = -1};
        for (int channel = 0; channel < 3; channel++)
            colour[channel] = noise[65536 * channel + (int)piece_at(&pieces, 4 * first_word + channel)];
    }
    for (int64_t y = 0; y < box[2]; y++)
        for (int64_t x = 0; x < box[3]; x++) memcpy(corner + 3 * (y * width + x), colour, 3);
    return mode == ERASE_RAND ? 1 : 0;
}
