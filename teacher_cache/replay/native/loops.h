/* Loops that compilers turn into vector instructions. Each file of kernels includes them once, with TARGET naming the
 * instructions that they are compiled for. */

#include <string.h>

#include "hue.h"
#include "replay.h"

TARGET static void invert(uint8_t *levels, int64_t num) {
    for (int64_t i = 0; i < num; i++) levels[i] = (uint8_t)~levels[i];
}

TARGET static void posterize(uint8_t *levels, int64_t num, uint8_t mask) {
    for (int64_t i = 0; i < num; i++) levels[i] &= mask;
}

TARGET static void solarize(uint8_t *levels, int64_t num, int threshold) {
    if (threshold > 255) return;
    const uint8_t from = (uint8_t)(threshold < 0 ? 0 : threshold);
    for (int64_t i = 0; i < num; i++) levels[i] = (uint8_t)(levels[i] >= from ? ~levels[i] : levels[i]);
}

TARGET static void solarize_add(uint8_t *levels, int64_t num, uint8_t added) {
    for (int64_t i = 0; i < num; i++) levels[i] = (uint8_t)(levels[i] + (levels[i] < 128 ? added : 0));
}

TARGET static void extremes(const uint8_t *pixels, int64_t num_pixels, uint8_t low[3], uint8_t high[3]) {
    enum { TOGETHER = 192 }; /* bytes: whole pixels and whole vectors */
    uint8_t lows[TOGETHER], highs[TOGETHER];
    memset(lows, 255, TOGETHER);
    memset(highs, 0, TOGETHER);
    int64_t i = 0;
    for (; i + TOGETHER <= 3 * num_pixels; i += TOGETHER) {
        for (int j = 0; j < TOGETHER; j++) {
            const uint8_t level = pixels[i + j];
            lows[j] = level < lows[j] ? level : lows[j];
            highs[j] = level > highs[j] ? level : highs[j];
        }
    }
    for (int j = 0; i < 3 * num_pixels; i++, j++) {
        if (pixels[i] < lows[j]) lows[j] = pixels[i];
        if (pixels[i] > highs[j]) highs[j] = pixels[i];
    }
    for (int channel = 0; channel < 3; channel++) {
        low[channel] = 255, high[channel] = 0;
        for (int j = channel; j < TOGETHER; j += 3) {
            if (lows[j] < low[channel]) low[channel] = lows[j];
            if (highs[j] > high[channel]) high[channel] = highs[j];
        }
    }
}

TARGET static inline int32_t grey_of(const uint8_t *pixel) {
    return (pixel[0] * 9798 + pixel[1] * 19235 + pixel[2] * 3735 + 16384) >> 15;
}

TARGET static int64_t sum_grey(const uint8_t *pixels, int64_t num_pixels) {
    int64_t total = 0;
    for (int64_t begin = 0; begin < num_pixels; begin += 1 << 20) { /* so many greys fit 32 bits */
        const int64_t end = begin + (1 << 20) < num_pixels ? begin + (1 << 20) : num_pixels;
        int32_t some = 0;
        for (int64_t i = begin; i < end; i++) some += grey_of(pixels + 3 * i);
        total += some;
    }
    return total;
}

TARGET static void blend_with_grey(uint8_t *pixels, int64_t num_pixels, int32_t factor) {
    for (int64_t i = 0; i < num_pixels; i++) {
        uint8_t *pixel = pixels + 3 * i;
        const int32_t grey = grey_of(pixel) * (4096 - factor);
        pixel[0] = clipped((pixel[0] * factor + grey) >> 12);
        pixel[1] = clipped((pixel[1] * factor + grey) >> 12);
        pixel[2] = clipped((pixel[2] * factor + grey) >> 12);
    }
}

TARGET static void sharpen_row(const uint8_t *restrict above, const uint8_t *restrict own,
                               const uint8_t *restrict below, uint8_t *restrict to, int64_t width, int32_t factor) {
    memcpy(to, own, 3);
    for (int64_t i = 3; i < 3 * (width - 1); i++) {
        const int32_t total = above[i - 3] + above[i] + above[i + 3] + own[i - 3] + 5 * own[i] + own[i + 3] +
                              below[i - 3] + below[i] + below[i + 3];
        const int32_t smooth = (int32_t)((uint32_t)(total + 6) * 5042 >> 16); /* a thirteenth, rounded */
        to[i] = clipped((own[i] * factor + smooth * (4096 - factor)) >> 12);
    }
    memcpy(to + 3 * (width - 1), own + 3 * (width - 1), 3);
}

enum { HUES = 64 }; /* pixels, channel by channel */

/* Without a branch, for which a loop would not be turned into vector instructions. */
static inline int32_t chosen(int32_t condition, int32_t a, int32_t b) { return b ^ ((a ^ b) & -condition); }

/* Rounded, of whole numbers: what Pillow's floats give on the way back from HSV. */
TARGET static inline void shift_hues(uint8_t levels[3][HUES], int step) {
    for (int i = 0; i < HUES; i++) {
        const int32_t red = levels[0][i], green = levels[1][i], blue = levels[2][i];
        int32_t value = red > green ? red : green, least = red < green ? red : green;
        value = blue > value ? blue : value;
        least = blue < least ? blue : least;
        const int32_t chroma = value - least;
        int32_t sixths = chosen(green == value, 2 * chroma + blue - red, 4 * chroma + red - green);
        sixths = chosen(red == value, green - blue, sixths);
        sixths += chosen(sixths < 0, 6 * chroma, 0);
        const int32_t hue = (hue_of(sixths, chroma) + step) & 255, saturation = saturation_of(chroma, value);
        levels[0][i] = (uint8_t)level_away(value, saturation, away_from(hue, 0));
        levels[1][i] = (uint8_t)level_away(value, saturation, away_from(hue, 1));
        levels[2][i] = (uint8_t)level_away(value, saturation, away_from(hue, 2));
    }
}

TARGET static void shift_hue(uint8_t *pixels, int64_t num_pixels, int step) {
    uint8_t levels[3][HUES] = {{0}};
    for (int64_t begin = 0; begin < num_pixels; begin += HUES, pixels += 3 * HUES) {
        const int num = num_pixels - begin < HUES ? (int)(num_pixels - begin) : HUES;
        for (int i = 0; i < num; i++)
            for (int channel = 0; channel < 3; channel++) levels[channel][i] = pixels[3 * i + channel];
        shift_hues(levels, step);
        for (int i = 0; i < num; i++)
            for (int channel = 0; channel < 3; channel++) pixels[3 * i + channel] = levels[channel][i];
    }
}

TARGET static void blend_pair(uint8_t *restrict a, uint8_t *restrict b, int64_t num, int32_t share) {
    const int32_t own = share / 2, other = 32768 - own; /* an even share: half of it says as much, in 16 bits */
    for (int64_t i = 0; i < num; i++) {
        const int32_t x = a[i], y = b[i];
        a[i] = (uint8_t)((x * own + y * other + 16384) >> 15);
        b[i] = (uint8_t)((y * own + x * other + 16384) >> 15);
    }
}

/* ---- what files of kernels take where they have nothing better ---- */

TARGET static inline uint8_t weighed_byte(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round,
                                          int bits, ptrdiff_t i) {
    int32_t total = round;
    for (int tap = 0; tap < taps; tap++) total += rows[tap][i] * weights[tap];
    return clipped(total >> bits);
}

/* Of a set of kernels, those that are loops. */
#define LOOPS \
    .invert = invert, .posterize = posterize, .solarize = solarize, .solarize_add = solarize_add, .extremes = extremes, \
    .sum_grey = sum_grey, .blend_with_grey = blend_with_grey, .shift_hue = shift_hue, .sharpen_row = sharpen_row, .blend_pair = blend_pair
