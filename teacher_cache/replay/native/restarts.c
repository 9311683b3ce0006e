/* Entropy-coded data of a JPEG between its restart markers: teacher_cache/replay/restarts.py says what it is. */

#include <string.h>

#include "replay.h"

enum { RST = 0xD0, EOI = 0xD9, MOST_INTERVALS = 1 << 26 };

/* Whether data has num intervals, an end after the last; starts (num + 1,): where each begins, and one more would. */
PUBLIC int replay_find_restarts(const uint8_t *data, int64_t length, int64_t num, int64_t *starts) {
    if (length < 2 || num < 1 || num > MOST_INTERVALS) return OUT_OF_BOUNDS;
    const uint8_t *at = data, *last = data + length - 1; /* a marker is two bytes */
    starts[0] = 0;
    for (int64_t number = 0; number < num;) {
        at = memchr(at, 0xFF, (size_t)(last - at));
        if (!at) return OUT_OF_BOUNDS;
        const uint8_t marker = *++at;
        if (marker == 0x00 || marker == 0xFF) continue; /* a stuffed byte, the fill byte before a marker */
        if (marker != (number == num - 1 ? EOI : RST + number % 8)) return OUT_OF_BOUNDS;
        starts[++number] = at + 1 - data;
    }
    return FINE;
}

/* starts (rows, columns): of some intervals of some rows, and where each row's data ends; in order, each at least two
 * bytes after the one before. out: as long as all of them. */
PUBLIC int replay_join_intervals(const uint8_t *data, int64_t length, const int64_t *starts, int64_t rows,
                                 int64_t columns, uint8_t *out, int64_t num_bytes) {
    if (rows < 1 || columns < 2) return OUT_OF_BOUNDS;
    int64_t place = 0, number = 0;
    for (int64_t row = 0; row < rows; row++) {
        const int64_t *of_row = starts + row * columns;
        for (int64_t column = 0; column < columns; column++)
            if (of_row[column] < 0 || of_row[column] > length) return OUT_OF_BOUNDS;
        for (int64_t column = 1; column < columns; column++)
            if (of_row[column] - of_row[column - 1] < 2) return OUT_OF_BOUNDS;
        const int64_t size = of_row[columns - 1] - of_row[0];
        if (size > num_bytes - place) return OUT_OF_BOUNDS;
        memcpy(out + place, data + of_row[0], (size_t)size);
        for (int64_t column = 1; column < columns; column++, number++)
            out[place + of_row[column] - of_row[0] - 1] = (uint8_t)(RST + number % 8);
        place += size;
    }
    if (place != num_bytes) return OUT_OF_BOUNDS;
    out[place - 1] = EOI;
    return FINE;
}
