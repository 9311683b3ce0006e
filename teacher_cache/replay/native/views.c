/* What Python calls: a workspace a thread, and views rendered and mixed in one call each. */

#include <stdlib.h>
#include <string.h>

#include "replay.h"

#ifndef SOURCES
#define SOURCES "unknown"
#endif

enum { WEIGHTS_BYTES = 32 << 20, MOST_SLOTS = 1 << 16 };

/* Views of one policy, in columns. */
typedef struct {
    int64_t num, height, width; /* of every view */
    const int64_t *crops, *resized, *windows; /* (num, 4), (num, 2), (num, 4) */
    const uint8_t *flips;                     /* (num,) */
    const int64_t *operations;                /* (num, most_operations), NONE after the last */
    const double *values;                     /* the same */
    const int64_t *erased;                    /* (num, most_boxes, 4), a height of 0 after the last */
    const uint64_t *noise_streams;            /* (num, 4) */
    const uint8_t *noise;                     /* (3, 65536) levels by 16 random bits */
    int64_t most_operations, most_boxes;
    int64_t interpolation, geometry, erase_mode;
    uint8_t fill[3];
} Views;

typedef struct {
    const uint8_t *pixels;
    int64_t height, width;
} Picture;

/* What the sources were when this was compiled. */
PUBLIC const char *replay_sources(void) { return SOURCES; }

/* wanted: the most that is used of what the processor has; NULL for all. NULL without memory, or where the processor
 * has not what is wanted. */
PUBLIC Workspace *replay_open(const char *wanted) {
    const Kernels *kernels = best_kernels();
    if (wanted) {
        const Kernels *const *at = all_kernels;
        while (*at != kernels) at++;
        while (*at && strcmp((*at)->name, wanted)) at++;
        if (!*at) return NULL;
        kernels = *at;
    }
    Workspace *workspace = calloc(1, sizeof *workspace);
    if (workspace) workspace->kernels = kernels;
    return workspace;
}

PUBLIC const char *replay_kernels(const Workspace *workspace) { return workspace->kernels->name; }

PUBLIC void replay_close(Workspace *workspace) {
    if (!workspace) return;
    forget_weights(workspace, 0);
    Scratch *held[] = {&workspace->across, &workspace->edge,     &workspace->view, &workspace->bordered,
                       &workspace->lines,  &workspace->fill_row, &workspace->numbers};
    for (size_t i = 0; i < sizeof held / sizeof *held; i++) free(held[i]->memory);
    free(workspace->known), free(workspace->phases[0]), free(workspace->phases[1]), free(workspace);
}

static bool is_within(int64_t number, int64_t least, int64_t most) { return number >= least && number <= most; }

bool is_sound_operation(int64_t operation, double value) {
    if (operation < NONE || operation >= OPERATIONS || !(value >= -360.0 && value <= 360.0)) return false;
    if ((operation == COLOR || operation == SHARPNESS) && !(value >= -8.0 && value <= 8.0)) return false;
    if (operation == POSTERIZE && value < 0) return false;
    return operation != SOLARIZE_ADD || (value >= 0 && value <= 128);
}

/* Whether a view's numbers stay within its picture and what is computed with them within 32 bits. */
static bool is_sound(const Views *views, int64_t number, const Picture *picture) {
    if (number < 0 || number >= views->num) return false;
    if (!is_within(views->height, 1, MOST_SIDE) || !is_within(views->width, 1, MOST_SIDE)) return false;
    if (!is_within(views->interpolation, BICUBIC, BILINEAR) || !is_within(views->geometry, BICUBIC, BILINEAR) ||
        !is_within(views->erase_mode, ERASE_CONST, ERASE_RAND))
        return false;
    if (!is_within(views->most_operations, 0, MOST_SLOTS) || !is_within(views->most_boxes, 0, MOST_SLOTS)) return false;
    const int64_t *resized = views->resized + 2 * number, *window = views->windows + 4 * number;
    if (picture->height > MOST_PICTURE_SIDE || picture->width > MOST_PICTURE_SIDE) return false;
    if (!holds(picture->height, picture->width, views->crops + 4 * number)) return false;
    if (resized[0] > MOST_PICTURE_SIDE || resized[1] > MOST_PICTURE_SIDE) return false;
    if (!holds(resized[0], resized[1], window) || window[2] != views->height || window[3] != views->width) return false;
    for (int64_t i = 0; i < views->most_operations; i++) {
        const int64_t at = number * views->most_operations + i;
        if (!is_sound_operation(views->operations[at], views->values[at])) return false;
    }
    for (int64_t i = 0; i < views->most_boxes; i++) {
        const int64_t *box = views->erased + 4 * (number * views->most_boxes + i);
        if (box[2] == 0) continue;
        if (!holds(views->height, views->width, box)) return false;
        if (views->erase_mode != ERASE_CONST && !views->noise) return false;
    }
    return true;
}

static bool needs_other_memory(int64_t operation) { return operation == SHARPNESS || operation >= ROTATE; }

static bool render_view(Workspace *workspace, const Views *views, int64_t number, const Picture *picture,
                        uint8_t *to) {
    const int64_t num_bytes = 3 * views->height * views->width;
    const int64_t *operations = views->operations + number * views->most_operations;
    const double *values = views->values + number * views->most_operations;
    const Shape shape = {views->height, views->width, (int)views->geometry,
                         {views->fill[0], views->fill[1], views->fill[2]}};
    uint8_t *other = scratch(&workspace->view, (size_t)num_bytes);
    if (!other) return false;
    int64_t num_moves = 0;
    for (int64_t i = 0; i < views->most_operations; i++) num_moves += needs_other_memory(operations[i]);
    uint8_t *held = num_moves % 2 ? other : to; /* each move goes to the other memory, the last one to the view's */
    Resizing resizing = {
        .pixels = picture->pixels,
        .height = picture->height,
        .width = picture->width,
        .interpolation = (int)views->interpolation,
        .flip = views->flips[number],
    };
    memcpy(resizing.crop, views->crops + 4 * number, sizeof resizing.crop);
    memcpy(resizing.resized, views->resized + 2 * number, sizeof resizing.resized);
    memcpy(resizing.window, views->windows + 4 * number, sizeof resizing.window);
    if (!resize(workspace, &resizing, held)) return false;
    for (int64_t i = 0; i < views->most_operations; i++) {
        if (operations[i] == NONE) continue;
        const enum operation operation = (enum operation)operations[i];
        if (!needs_other_memory(operation)) {
            recolour(workspace->kernels, operation, values[i], held, views->height * views->width);
            continue;
        }
        uint8_t *next = held == to ? other : to;
        if (operation == SHARPNESS) sharpen(workspace->kernels, values[i], &shape, held, next);
        else if (!(operation == ROTATE ? rotate_view(workspace, values[i], &shape, held, next)
                                       : move_view(workspace, operation, values[i], &shape, held, next)))
            return false;
        held = next;
    }
    int64_t words = 0;
    for (int64_t i = 0; i < views->most_boxes; i++) {
        const int64_t *box = views->erased + 4 * (number * views->most_boxes + i);
        if (box[2])
            words += erase_box(to, views->width, box, (enum erase_mode)views->erase_mode, views->fill, views->noise,
                               views->noise_streams + 4 * number, words);
    }
    return true;
}

/* A view of a picture (height, width, 3) to its place. */
PUBLIC int replay_render(Workspace *workspace, const Views *views, int64_t number, const uint8_t *pixels,
                         int64_t height, int64_t width, uint8_t *to) {
    const Picture picture = {pixels, height, width};
    if (!is_sound(views, number, &picture)) return OUT_OF_BOUNDS;
    forget_weights(workspace, WEIGHTS_BYTES);
    return render_view(workspace, views, number, &picture, to) ? FINE : NO_MEMORY;
}

static bool is_mixing_sound(int64_t num, int64_t height, int64_t width, const int64_t *partners,
                            const uint32_t *lambdas, const int32_t *boxes) {
    if (!is_within(height, 1, MOST_SIDE) || !is_within(width, 1, MOST_SIDE)) return false;
    for (int64_t first = 0; first < num; first++, boxes += 4) {
        if (!is_within(partners[first], 0, num - 1) || partners[partners[first]] != first) return false;
        const int64_t box[4] = {boxes[0], boxes[1], boxes[2], boxes[3]};
        if (box[2] == 0 ? lambdas[first] > 65536 || lambdas[first] % 2 : !holds(height, width, box)) return false;
    }
    return true;
}

/* As apply_mix: partners (num,), lambdas (num,), boxes (num, 4) of views in place. */
PUBLIC int replay_mix(const Workspace *workspace, int64_t num, int64_t height, int64_t width, uint8_t *const *views,
                      const int64_t *partners, const uint32_t *lambdas, const int32_t *boxes) {
    if (!is_mixing_sound(num, height, width, partners, lambdas, boxes)) return OUT_OF_BOUNDS;
    for (int64_t first = 0; first < num; first++) {
        const int64_t second = partners[first];
        const int32_t *box = boxes + 4 * first;
        if (first >= second) continue; /* alone, or done */
        if (box[2] == 0) {
            workspace->kernels->blend_pair(views[first], views[second], 3 * height * width, (int32_t)lambdas[first]);
            continue;
        }
        for (int64_t y = box[0]; y < box[0] + box[2]; y++) {
            const int64_t at = 3 * (y * width + box[1]);
            for (int64_t i = at; i < at + 3 * box[3]; i++) {
                const uint8_t level = views[first][i];
                views[first][i] = views[second][i], views[second][i] = level;
            }
        }
    }
    return FINE;
}
