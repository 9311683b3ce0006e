/* View parameters of many views, as params.py draws them: each view's numbers come from its own stream, in order. */

#include <math.h>

#include "stream.h"

enum { TRIES = 10, JITTERS = 4 };

/* In the order of params.RULES; the policy's own operations follow. */
enum rule {
    AUTO_CONTRAST_RULE, EQUALIZE_RULE, INVERT_RULE, POSTERIZE_INCREASING, POSTERIZE_ORIGINAL,
    SOLARIZE_RULE, SOLARIZE_INCREASING, SOLARIZE_ADD_RULE, COLOR_RULE, CONTRAST_RULE, SHARPNESS_RULE,
    COLOR_INCREASING, CONTRAST_INCREASING, BRIGHTNESS_INCREASING, SHARPNESS_INCREASING,
    ROTATE_RULE, SHEAR_X_RULE, SHEAR_Y_RULE, TRANSLATE_X_REL, TRANSLATE_Y_REL,
    RULES
};

/* What is drawn for views of one policy and pictures of some sizes, and where it goes. */
typedef struct {
    int64_t num, height, width;   /* of every view */
    const uint64_t *seeds;        /* (num, 4) */
    const int64_t *picture_sizes; /* (num, 2) */

    int64_t crops_centre;
    int64_t least[2];                        /* the size that a picture is resized to cover where its centre is kept */
    double scale[2], ratio[2], log_ratio[2]; /* of other crops */
    int64_t flips_some;
    double flip;

    /* Each of num_slots operations is one of num_choices. Where one choice decides for all slots, each has choices of
     * its own, one slot's after another's; else they share them. */
    int64_t num_slots, num_choices, chosen_together;
    const int64_t *rules;                     /* (num_rules,) */
    const double *probabilities, *magnitudes; /* the same */
    int64_t num_rules;
    double magnitude_std;
    int64_t jitters_some, jitters[JITTERS]; /* whether brightness, contrast, saturation, hue */
    double jitter[JITTERS][2];              /* between what */

    int64_t erases_some, most_boxes;
    double erase, area[2], log_aspect[2];

    int64_t *crops, *resized, *windows;    /* (num, 4), (num, 2), (num, 4) */
    uint8_t *flips;                        /* (num,) */
    int64_t *operations;                   /* (num, row), NONE after the last */
    double *values;                        /* the same, 0 after the last */
    int64_t *erased;                       /* (num, boxes_row, 4), 0 after the last */
    int64_t row, boxes_row;                /* room for a view's operations and boxes */
    int64_t operations_found, boxes_found; /* the most that any view has */
} Draws;

/* Of a rectangle of an area: whole sides, which may fit nowhere. */
typedef struct {
    double longer, shorter; /* where aspect is above 1 */
} Sides;

static Sides sides_of(double area, double aspect) {
    const Sides sides = {rounded(sqrt(area * aspect)), rounded(sqrt(area / aspect))};
    return sides;
}

static void take_whole(const Draws *draws, int64_t height, int64_t width, int64_t crop[4]) {
    const double shape = (double)width / (double)height;
    crop[2] = height, crop[3] = width;
    if (shape < draws->ratio[0]) crop[2] = (int64_t)fmax(1.0, rounded((double)width / draws->ratio[0]));
    if (shape > draws->ratio[1]) crop[3] = (int64_t)fmax(1.0, rounded((double)height * draws->ratio[1]));
    crop[0] = (height - crop[2]) / 2, crop[1] = (width - crop[3]) / 2;
}

static void draw_crop(const Draws *draws, Stream *stream, int64_t height, int64_t width, int64_t crop[4]) {
    for (int try = 0; try < TRIES; try++) {
        const double area = uniform(stream, draws->scale[0], draws->scale[1]) * (double)(height * width);
        const double aspect = on_grid(exp(uniform(stream, draws->log_ratio[0], draws->log_ratio[1])));
        const Sides sides = sides_of(area, aspect);
        const double crop_width = sides.longer, crop_height = sides.shorter;
        if (crop_width <= (double)width && crop_height <= (double)height && crop_width > 0 && crop_height > 0) {
            crop[2] = (int64_t)crop_height, crop[3] = (int64_t)crop_width;
            crop[0] = integer(stream, height - crop[2] + 1);
            crop[1] = integer(stream, width - crop[3] + 1);
            return;
        }
    }
    take_whole(draws, height, width, crop);
}

/* The whole picture, resized to cover the view, whose window is its centre. */
static void centre_crop(const Draws *draws, int64_t height, int64_t width, int64_t resized[2], int64_t window[4]) {
    const int64_t least_height = draws->least[0], least_width = draws->least[1];
    const bool by_height = least_height * width >= least_width * height;
    resized[0] = by_height ? least_height : least_width * height / width;
    resized[1] = by_height ? least_height * width / height : least_width;
    window[0] = (int64_t)rounded((double)(resized[0] - draws->height) / 2);
    window[1] = (int64_t)rounded((double)(resized[1] - draws->width) / 2);
}

static double either_sign(Stream *stream, double value) { return uniform(stream, 0.0, 1.0) > 0.5 ? -value : value; }

static double changed_factor(Stream *stream, double level) {
    const double factor = 1.0 + either_sign(stream, level * 0.9);
    return factor > 0.1 ? factor : 0.1;
}

/* The operation that a rule names, and what it makes of a level in [0, 1]. */
static int64_t draw_operation(int64_t rule, double level, Stream *stream, double *value) {
    switch (rule) {
    case AUTO_CONTRAST_RULE: *value = 0; return AUTOCONTRAST;
    case EQUALIZE_RULE: *value = 0; return EQUALIZE;
    case INVERT_RULE: *value = 0; return INVERT;
    case POSTERIZE_INCREASING: *value = 4 - trunc(level * 4); return POSTERIZE;
    case POSTERIZE_ORIGINAL: *value = 4 + trunc(level * 4); return POSTERIZE;
    case SOLARIZE_RULE: *value = fmin(256, trunc(level * 256)); return SOLARIZE;
    case SOLARIZE_INCREASING: *value = 256 - fmin(256, trunc(level * 256)); return SOLARIZE;
    case SOLARIZE_ADD_RULE: *value = fmin(128, trunc(level * 110)); return SOLARIZE_ADD;
    case COLOR_RULE: *value = level * 1.8 + 0.1; return COLOR;
    case CONTRAST_RULE: *value = level * 1.8 + 0.1; return CONTRAST;
    case SHARPNESS_RULE: *value = level * 1.8 + 0.1; return SHARPNESS;
    case COLOR_INCREASING: *value = changed_factor(stream, level); return COLOR;
    case CONTRAST_INCREASING: *value = changed_factor(stream, level); return CONTRAST;
    case BRIGHTNESS_INCREASING: *value = changed_factor(stream, level); return BRIGHTNESS;
    case SHARPNESS_INCREASING: *value = changed_factor(stream, level); return SHARPNESS;
    case ROTATE_RULE: *value = either_sign(stream, level * 30); return ROTATE;
    case SHEAR_X_RULE: *value = either_sign(stream, level * 0.3); return SHEAR_X;
    case SHEAR_Y_RULE: *value = either_sign(stream, level * 0.3); return SHEAR_Y;
    case TRANSLATE_X_REL: *value = either_sign(stream, level * 0.45); return TRANSLATE_X;
    case TRANSLATE_Y_REL: *value = either_sign(stream, level * 0.45); return TRANSLATE_Y;
    default: *value = either_sign(stream, level); return OPERATIONS + (rule - RULES);
    }
}

/* Those of a view that are applied, one after another; their number. operations has room for one a slot. */
static int64_t draw_applied(const Draws *draws, Stream *stream, int64_t *operations, double *values) {
    int64_t found = 0;
    for (int64_t slot = 0; slot < draws->num_slots; slot++) /* the choices, until each is looked at */
        operations[slot] = slot && draws->chosen_together ? operations[0] + slot * draws->num_choices
                                                          : integer(stream, draws->num_choices);
    for (int64_t slot = 0; slot < draws->num_slots; slot++) {
        const int64_t choice = operations[slot];
        const double probability = draws->probabilities[choice];
        if (probability < 1 && uniform(stream, 0.0, 1.0) > probability) continue;
        double magnitude = draws->magnitudes[choice], value;
        if (draws->magnitude_std > 0) magnitude += draws->magnitude_std * normal(stream);
        const double level = fmax(0.0, fmin(magnitude, 10.0)) / 10;
        operations[found] = draw_operation(draws->rules[choice], level, stream, &value);
        values[found++] = on_grid(value);
    }
    return found;
}

/* The jitter's operations that are on, in an order that is drawn first; their number. */
static int64_t draw_jitter(const Draws *draws, Stream *stream, int64_t *operations, double *values) {
    static const enum operation jitter[JITTERS] = {BRIGHTNESS, CONTRAST, COLOR, HUE};
    uint64_t words[JITTERS];
    int order[JITTERS];
    double drawn[JITTERS] = {0};
    for (int i = 0; i < JITTERS; i++) {
        words[i] = next_word(stream);
        int place = i;
        for (; place > 0 && words[order[place - 1]] > words[i]; place--) order[place] = order[place - 1];
        order[place] = i;
    }
    for (int i = 0; i < JITTERS; i++)
        if (draws->jitters[i]) drawn[i] = on_grid(uniform(stream, draws->jitter[i][0], draws->jitter[i][1]));
    int64_t found = 0;
    for (int i = 0; i < JITTERS; i++) {
        if (!draws->jitters[order[i]]) continue;
        operations[found] = jitter[order[i]];
        values[found++] = drawn[order[i]];
    }
    return found;
}

/* A box within a view; false where none of the tries fits, or what fits has no pixels. */
static bool draw_box(const Draws *draws, Stream *stream, int64_t sharing, int64_t box[4]) {
    for (int try = 0; try < TRIES; try++) {
        const double area =
            uniform(stream, draws->area[0], draws->area[1]) * (double)(draws->height * draws->width) / (double)sharing;
        const double aspect = on_grid(exp(uniform(stream, draws->log_aspect[0], draws->log_aspect[1])));
        const Sides sides = sides_of(area, aspect);
        if (sides.longer < (double)draws->height && sides.shorter < (double)draws->width) {
            const int64_t height = (int64_t)sides.longer, width = (int64_t)sides.shorter;
            box[0] = integer(stream, draws->height - height + 1);
            box[1] = integer(stream, draws->width - width + 1);
            box[2] = height, box[3] = width;
            return height > 0 && width > 0;
        }
    }
    return false;
}

/* A view's boxes one after another; their number. */
static int64_t draw_boxes(const Draws *draws, Stream *stream, int64_t *boxes) {
    if (!(uniform(stream, 0.0, 1.0) <= draws->erase)) return 0;
    const int64_t sharing = draws->most_boxes > 1 ? 1 + integer(stream, draws->most_boxes) : 1;
    int64_t found = 0;
    for (int64_t number = 0; number < sharing; number++) {
        int64_t box[4];
        if (draw_box(draws, stream, sharing, box)) memcpy(boxes + 4 * found++, box, sizeof box);
    }
    return found;
}

static bool are_sound_draws(const Draws *draws) {
    const int64_t most_side = INT32_MAX, most = 1 << 20;
    const int64_t places = draws->num_slots + (draws->jitters_some ? JITTERS : 0);
    if (draws->num < 0 || draws->height < 1 || draws->width < 1 || draws->height > MOST_SIDE ||
        draws->width > MOST_SIDE)
        return false;
    for (int64_t i = 0; i < 2 * draws->num; i++)
        if (draws->picture_sizes[i] < 1 || draws->picture_sizes[i] > most_side) return false;
    for (int side = 0; side < 2; side++)
        if (draws->crops_centre && (draws->least[side] < 1 || draws->least[side] > most)) return false;
    if (draws->num_slots < 0 || draws->num_slots > most || draws->num_choices < 0 || draws->num_choices > most)
        return false;
    if (draws->num_slots && (draws->num_choices < 1 || draws->num_rules < 0)) return false;
    if (draws->num_slots && draws->num_choices * (draws->chosen_together ? draws->num_slots : 1) > draws->num_rules)
        return false;
    for (int64_t i = 0; i < draws->num_rules; i++)
        if (draws->rules[i] < 0 || draws->rules[i] > most) return false;
    if (draws->row < places) return false;
    return !draws->erases_some ||
           (draws->most_boxes >= 1 && draws->most_boxes <= most && draws->boxes_row >= draws->most_boxes);
}

static void draw_view(const Draws *draws, int64_t number, int64_t *num_operations, int64_t *num_boxes) {
    const int64_t height = draws->picture_sizes[2 * number], width = draws->picture_sizes[2 * number + 1];
    int64_t *crop = draws->crops + 4 * number, *resized = draws->resized + 2 * number;
    int64_t *window = draws->windows + 4 * number, *operations = draws->operations + number * draws->row;
    double *values = draws->values + number * draws->row;
    Stream stream = {.seed = draws->seeds + 4 * number};
    crop[0] = crop[1] = window[0] = window[1] = 0;
    resized[0] = window[2] = draws->height, resized[1] = window[3] = draws->width;
    if (draws->crops_centre) {
        crop[2] = height, crop[3] = width;
        centre_crop(draws, height, width, resized, window);
    } else {
        draw_crop(draws, &stream, height, width, crop);
    }
    draws->flips[number] = draws->flips_some && uniform(&stream, 0.0, 1.0) < draws->flip;
    int64_t found = draw_applied(draws, &stream, operations, values);
    if (draws->jitters_some) found += draw_jitter(draws, &stream, operations + found, values + found);
    for (int64_t place = found; place < draws->row; place++) operations[place] = NONE, values[place] = 0;
    *num_operations = found, *num_boxes = 0;
    if (!draws->erases_some) return;
    int64_t *boxes = draws->erased + 4 * number * draws->boxes_row;
    *num_boxes = draw_boxes(draws, &stream, boxes);
    memset(boxes + 4 * *num_boxes, 0, (size_t)(draws->boxes_row - *num_boxes) * 4 * sizeof *boxes);
}

PUBLIC int replay_draw(Draws *draws) {
    if (!are_sound_draws(draws)) return OUT_OF_BOUNDS;
    draws->operations_found = draws->boxes_found = 0;
    for (int64_t number = 0; number < draws->num; number++) {
        int64_t num_operations, num_boxes;
        draw_view(draws, number, &num_operations, &num_boxes);
        if (num_operations > draws->operations_found) draws->operations_found = num_operations;
        if (num_boxes > draws->boxes_found) draws->boxes_found = num_boxes;
    }
    return FINE;
}
