#include "stream.h"

#include <math.h>

static const double GRID = 1 << 20, UNIT = 0x1p-53, TWO_PI = 6.283185307179586;

uint64_t next_word(Stream *stream) {
    const uint64_t place = stream->next++;
    if (place % BLOCK_WORDS == 0) philox_block(stream->seed, place / BLOCK_WORDS, stream->words);
    return stream->words[place % BLOCK_WORDS];
}

double uniform(Stream *stream, double low, double high) {
    return low + (high - low) * ((double)(next_word(stream) >> 11) * UNIT);
}

int64_t integer(Stream *stream, int64_t n) { return (int64_t)((Wide)next_word(stream) * (uint64_t)n >> 64); }

double on_grid(double value) { return rounded(value * GRID) / GRID + 0.0; }

double above_zero(Stream *stream) { return (double)((next_word(stream) >> 11) + 1) * UNIT; }

double normal(Stream *stream) {
    const double radius = sqrt(-2.0 * log(above_zero(stream)));
    return on_grid(radius * cos(TWO_PI * uniform(stream, 0.0, 1.0)));
}

/* Of a gamma variate of a shape from 1 on (Marsaglia and Tsang 2000). */
static double log_large_gamma(Stream *stream, double shape) {
    const double d = shape - 1.0 / 3.0, c = 1.0 / sqrt(9.0 * d);
    for (;;) {
        const double x = normal(stream), t = 1.0 + c * x, log_u = log(above_zero(stream));
        if (t > 0.0 && log_u < 0.5 * x * x + d - d * t * t * t + 3.0 * d * log(t)) return log(d * t * t * t);
    }
}

static double log_gamma(Stream *stream, double shape) {
    if (shape >= 1.0) return log_large_gamma(stream, shape);
    const double larger = log_large_gamma(stream, shape + 1.0);
    return larger + log(above_zero(stream)) / shape; /* by section 6 */
}

double beta(Stream *stream, double a, double b) {
    const double of_b = log_gamma(stream, b), difference = of_b - log_gamma(stream, a);
    return on_grid(1.0 / (1.0 + exp(difference < 700.0 ? difference : 700.0)));
}
