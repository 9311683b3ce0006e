/* Operations that move no pixel, as colour.py. */

#include <string.h>

#include "replay.h"

static void look_up_same(const Kernels *kernels, const uint8_t table[256], uint8_t *pixels, int64_t num_pixels) {
    uint8_t tables[3][256];
    for (int channel = 0; channel < 3; channel++) memcpy(tables[channel], table, 256);
    kernels->look_up(pixels, num_pixels, (const uint8_t(*)[256])tables);
}

static void blended_levels(int64_t degenerate, double factor, uint8_t table[256]) {
    const int64_t scaled = (int64_t)rounded(factor * 1048576.0);
    for (int64_t level = 0; level < 256; level++) {
        const int64_t blended = ((level - degenerate) * scaled >> 20) + degenerate;
        table[level] = (uint8_t)(blended < 0 ? 0 : blended > 255 ? 255 : blended);
    }
}

static void blend_levels(const Kernels *kernels, int64_t degenerate, double factor, uint8_t *pixels,
                         int64_t num_pixels) {
    uint8_t table[256];
    blended_levels(degenerate, factor, table);
    look_up_same(kernels, table, pixels, num_pixels);
}

static uint8_t posterized_bits(double value) { return (uint8_t)(0xFF00 >> (value < 8 ? (int)value : 8) & 0xFF); }

int hue_step(double shift) { return (int)(shift * 255) & 0xFF; }

void level_table(enum operation operation, double value, uint8_t table[256]) {
    if (operation == BRIGHTNESS) {
        blended_levels(0, value, table);
        return;
    }
    for (int level = 0; level < 256; level++) {
        const int inverted = 255 - level, added = level < 128 ? level + (int)value : level;
        table[level] = (uint8_t)(operation == INVERT      ? inverted
                                 : operation == POSTERIZE ? level & posterized_bits(value)
                                 : operation == SOLARIZE  ? (level >= (int)value ? inverted : level)
                                                          : added); /* SOLARIZE_ADD */
    }
}

static void contrast(const Kernels *kernels, double factor, uint8_t *pixels, int64_t num_pixels) {
    const int64_t mean = (2 * kernels->sum_grey(pixels, num_pixels) + num_pixels) / (2 * num_pixels);
    blend_levels(kernels, mean, factor, pixels, num_pixels);
}

static void autocontrast(const Kernels *kernels, uint8_t *pixels, int64_t num_pixels) {
    uint8_t low[3], high[3], tables[3][256];
    kernels->extremes(pixels, num_pixels, low, high);
    for (int channel = 0; channel < 3; channel++) {
        const int range = high[channel] - low[channel];
        for (int level = 0; level < 256; level++) {
            const int above = level > low[channel] ? level - low[channel] : 0;
            tables[channel][level] = range <= 0 ? (uint8_t)level : clipped(above * 255 / range);
        }
    }
    kernels->look_up(pixels, num_pixels, (const uint8_t(*)[256])tables);
}

static void count_levels(const uint8_t *pixels, int64_t num_pixels, int64_t counts[3][256]) {
    enum { TOGETHER = 4 }; /* neighbours are often equal: each has counts of its own, so that none waits */
    uint32_t some[TOGETHER][3][256] = {{{0}}};
    int64_t i = 0;
    for (; i + TOGETHER <= num_pixels; i += TOGETHER)
        for (int j = 0; j < TOGETHER; j++)
            for (int channel = 0; channel < 3; channel++) some[j][channel][pixels[3 * (i + j) + channel]]++;
    for (; i < num_pixels; i++)
        for (int channel = 0; channel < 3; channel++) some[0][channel][pixels[3 * i + channel]]++;
    for (int channel = 0; channel < 3; channel++)
        for (int level = 0; level < 256; level++) {
            counts[channel][level] = 0;
            for (int j = 0; j < TOGETHER; j++) counts[channel][level] += some[j][channel][level];
        }
}

static void equalize(const Kernels *kernels, uint8_t *pixels, int64_t num_pixels) {
    int64_t counts[3][256];
    uint8_t tables[3][256];
    count_levels(pixels, num_pixels, counts);
    for (int channel = 0; channel < 3; channel++) {
        int64_t present = 0, last = 0;
        for (int level = 0; level < 256; level++)
            if (counts[channel][level]) present++, last = counts[channel][level];
        const int64_t step = (num_pixels - last) / 255;
        int64_t below = step / 2;
        for (int level = 0; level < 256; level++) {
            const int64_t equalized = present > 1 && step ? below / step : level;
            tables[channel][level] = (uint8_t)(equalized > 255 ? 255 : equalized);
            below += counts[channel][level];
        }
    }
    kernels->look_up(pixels, num_pixels, (const uint8_t(*)[256])tables);
}

void recolour(const Kernels *kernels, enum operation operation, double value, uint8_t *pixels, int64_t num_pixels) {
    switch (operation) {
    case AUTOCONTRAST: autocontrast(kernels, pixels, num_pixels); break;
    case EQUALIZE: equalize(kernels, pixels, num_pixels); break;
    case INVERT: kernels->invert(pixels, 3 * num_pixels); break;
    case POSTERIZE: kernels->posterize(pixels, 3 * num_pixels, posterized_bits(value)); break;
    case SOLARIZE: kernels->solarize(pixels, 3 * num_pixels, (int)value); break;
    case SOLARIZE_ADD: kernels->solarize_add(pixels, 3 * num_pixels, (uint8_t)value); break;
    case BRIGHTNESS: blend_levels(kernels, 0, value, pixels, num_pixels); break;
    case CONTRAST: contrast(kernels, value, pixels, num_pixels); break;
    case COLOR: kernels->blend_with_grey(pixels, num_pixels, (int32_t)rounded(value * 4096.0)); break;
    default: kernels->shift_hue(pixels, num_pixels, hue_step(value)); /* HUE */
    }
}

void sharpen(const Kernels *kernels, double factor, const Shape *shape, const uint8_t *from, uint8_t *to) {
    const int64_t height = shape->height, width = shape->width, row_bytes = 3 * width;
    if (height < 3 || width < 3) { /* no pixel has neighbours on all sides */
        memcpy(to, from, (size_t)(height * row_bytes));
        return;
    }
    const int32_t scaled = (int32_t)rounded(factor * 4096.0);
    memcpy(to, from, (size_t)row_bytes);
    for (int64_t y = 1; y < height - 1; y++) {
        const uint8_t *own = from + y * row_bytes;
        kernels->sharpen_row(own - row_bytes, own, own + row_bytes, to + y * row_bytes, width, scaled);
    }
    memcpy(to + (height - 1) * row_bytes, from + (height - 1) * row_bytes, (size_t)row_bytes);
}
