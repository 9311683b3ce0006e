/* Memory that a workspace keeps and uses again. */

#include <stdlib.h>

#include "replay.h"

uint8_t *scratch(Scratch *held, size_t num_bytes) {
    if (held->size < num_bytes) {
        free(held->memory);
        held->size = (num_bytes + num_bytes / 4 + 63) / 64 * 64;
        held->memory = aligned_alloc(64, held->size);
        if (!held->memory) held->size = 0;
    }
    return held->memory;
}
