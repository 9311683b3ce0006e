/* Quotients of a hue's way from RGB to HSV and back, in floats, of which a vector is divided at once.
 *
 * All are exact: numerators are below 2**24, so floats hold them; a quotient of whole numbers that is no whole number
 * itself lies at least 1 / 65025 below the next one, and floats below 256 lie closer than that. */

#ifndef HUE_H
#define HUE_H

#include <stdint.h>
#include <stdlib.h>

enum { SQUARE = 255 * 255 };

static inline int32_t quotient(int32_t numerator, int32_t denominator) {
    return (int32_t)((float)numerator / (float)denominator);
}

/* Of a hue in sixths of the circle, times chroma: 0..255; 0 of greys. */
static inline int32_t hue_of(int32_t sixths, int32_t chroma) {
    return quotient(255 * sixths, 6 * chroma + (chroma == 0));
}

static inline int32_t saturation_of(int32_t chroma, int32_t value) {
    return quotient(255 * chroma, value + (value == 0));
}

/* How far a hue is away from those in which a channel has the value, a third of the circle: 0..255, a sixth of it. */
static inline int32_t away_from(int32_t hue, int32_t channel) {
    const int32_t distance = 765 - abs(abs(6 * hue - 510 * channel) - 765); /* the shorter way around */
    const int32_t beyond = distance > 255 ? distance - 255 : 0;
    return beyond < 255 ? beyond : 255;
}

/* A channel's level; rounded. */
static inline int32_t level_away(int32_t value, int32_t saturation, int32_t away) {
    return quotient(value * (SQUARE - saturation * away) + SQUARE / 2, SQUARE);
}

#endif
