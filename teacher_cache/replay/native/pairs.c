/* Who is mixed with whom in a block at one view, as mix.py draws it. */

#include <math.h>
#include <stdlib.h>

#include "stream.h"

enum { LAMBDA_ONE = 65536, MOST_SAMPLES = 1 << 20 };

typedef struct {
    int64_t num, height, width; /* samples of the block; of every view */
    const uint64_t *seed;       /* (4,) */
    const uint8_t *skipped;     /* (num,) */
    int64_t mixes, cuts;        /* whether by Mixup, by CutMix; by neither, all are left alone */
    double mixup_alpha, cutmix_alpha, probability, switch_probability;
    int64_t *partners; /* (num,) */
    uint32_t *lambdas; /* (num,) */
    int32_t *boxes;    /* (num, 4) */
} Pairs;

typedef struct {
    uint64_t word;
    int64_t position;
} Placed;

static int by_word(const void *one, const void *other) {
    const Placed *a = one, *b = other;
    if (a->word != b->word) return a->word < b->word ? -1 : 1;
    return a->position < b->position ? -1 : 1; /* as a stable order has it */
}

typedef struct {
    uint32_t lambda;
    int32_t box[4];
} Mixed;

static const Mixed UNMIXED = {LAMBDA_ONE, {0, 0, 0, 0}};

static int64_t largest(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t smallest(int64_t a, int64_t b) { return a < b ? a : b; }

static Mixed draw_cut(const Pairs *pairs, Stream *stream, double lambda) {
    const int64_t height = pairs->height, width = pairs->width;
    const double side = sqrt(1.0 - lambda);
    const int64_t cut_height = (int64_t)((double)height * side), cut_width = (int64_t)((double)width * side);
    const int64_t centre_y = integer(stream, height), centre_x = integer(stream, width);
    const int64_t top = largest(0, centre_y - cut_height / 2);
    const int64_t bottom = smallest(height, centre_y + (cut_height + 1) / 2);
    const int64_t left = largest(0, centre_x - cut_width / 2);
    const int64_t right = smallest(width, centre_x + (cut_width + 1) / 2);
    const int64_t area = (bottom - top) * (right - left), all = height * width;
    if (area == 0) return UNMIXED;
    const Mixed mixed = {(uint32_t)((2 * LAMBDA_ONE * (all - area) + all) / (2 * all)),
                         {(int32_t)top, (int32_t)left, (int32_t)(bottom - top), (int32_t)(right - left)}};
    return mixed;
}

static Mixed draw_pair(const Pairs *pairs, Stream *stream) {
    const bool applied = uniform(stream, 0.0, 1.0) < pairs->probability;
    const bool switched = uniform(stream, 0.0, 1.0) < pairs->switch_probability;
    const bool cut = pairs->cuts && (!pairs->mixes || switched);
    const double alpha = cut ? pairs->cutmix_alpha : pairs->mixup_alpha, lambda = beta(stream, alpha, alpha);
    if (!applied) return UNMIXED;
    if (cut) return draw_cut(pairs, stream, lambda);
    const Mixed mixed = {2 * (uint32_t)rounded(lambda * (LAMBDA_ONE / 2)), {0, 0, 0, 0}}; /* even, for blending */
    return mixed;
}

static void put(const Pairs *pairs, int64_t position, int64_t partner, Mixed mixed) {
    pairs->partners[position] = partner;
    pairs->lambdas[position] = mixed.lambda;
    memcpy(pairs->boxes + 4 * position, mixed.box, sizeof mixed.box);
}

static bool is_alpha(double alpha) { return alpha > 0.0 && alpha < 1e39; } /* a float32 */

static bool are_sound_pairs(const Pairs *pairs) {
    return pairs->num >= 0 && pairs->num <= MOST_SAMPLES && pairs->height >= 1 && pairs->height <= MOST_SIDE &&
           pairs->width >= 1 && pairs->width <= MOST_SIDE && (!pairs->mixes || is_alpha(pairs->mixup_alpha)) &&
           (!pairs->cuts || is_alpha(pairs->cutmix_alpha));
}

PUBLIC int replay_pair(Workspace *workspace, const Pairs *pairs) {
    if (!are_sound_pairs(pairs)) return OUT_OF_BOUNDS;
    for (int64_t position = 0; position < pairs->num; position++) put(pairs, position, position, UNMIXED);
    if (!pairs->mixes && !pairs->cuts) return FINE;
    Stream stream = {.seed = pairs->seed};
    Placed *placed = (Placed *)(void *)scratch(&workspace->numbers, (size_t)pairs->num * sizeof *placed + 1);
    if (!placed) return NO_MEMORY;
    for (int64_t position = 0; position < pairs->num; position++) {
        placed[position].word = next_word(&stream);
        placed[position].position = position;
    }
    qsort(placed, (size_t)pairs->num, sizeof *placed, by_word);
    for (int64_t place = 0; place + 1 < pairs->num; place += 2) {
        const int64_t first = placed[place].position, second = placed[place + 1].position;
        const Mixed mixed = draw_pair(pairs, &stream); /* skipped or not */
        if ((mixed.lambda < LAMBDA_ONE || mixed.box[2] > 0) && !pairs->skipped[first] && !pairs->skipped[second])
            put(pairs, first, second, mixed), put(pairs, second, first, mixed);
    }
    return FINE;
}
