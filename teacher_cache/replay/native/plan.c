/* What a device is told of drawn views: entries of its kernels and their tables in one buffer, as gpu/plan.py plans. */

#include <math.h>
#include <string.h>

#include "replay.h"

enum { ALIGNED = 16, COUNTS_TABLES = 768, TABLE = 256, LINE = 8 };
enum { LAUNCHES_A_PLACE = 11, LAUNCH_FIELDS = 6 };
enum { RESIZED, OPERATED, ERASED, MIXED }; /* turns */

/* In the order of plans.KERNELS. */
enum kernel {
    RESIZE_KERNEL, COUNT_LEVELS, TABLES_OF_COUNTS, SUM_GREY, TABLES_OF_SUMS, LOOK_UP, BLEND_WITH_GREY, SHARPEN,
    SHIFT_HUE, ROTATE_KERNEL, MOVE_ROWS, MOVE_COLUMNS, ERASE_KERNEL, MIX_KERNEL
};

typedef struct {
    int64_t num, num_views, height, width; /* views that are drawn; of the batch */
    const int64_t *numbers;                /* (num,), among the batch's */
    const int64_t *offsets, *parts;        /* (num,), (num, 4): where the crops' pixels are */
    const int64_t *crops, *resized, *windows;
    const uint8_t *flips;
    const int64_t *operations; /* (num, most_operations) */
    const double *values;
    const int64_t *erased; /* (num, most_boxes, 4) */
    const int64_t *noise;  /* (num, 4) */
    int64_t most_operations, most_boxes, interpolation, geometry, erase_mode, fill;
    int64_t num_runs;
    const int64_t *runs;     /* (num_runs,): how many views each has */
    const int64_t *partners; /* (num_views,), from the run's first on */
    const uint32_t *lambdas; /* (num_views,) */
    const int32_t *boxes;    /* (num_views, 4) */

    uint8_t *buffer;   /* of zeros */
    int64_t *launches; /* (most_launches, LAUNCH_FIELDS) */
    int64_t *sides;    /* (num, 2, 2) */
    int64_t room, most_launches;
    int64_t num_bytes, num_launches, most_rows, across_bytes, num_counts, num_sums;
} Plan;

/* A plan that is being made. Views are told by their numbers among those drawn. */
typedef struct {
    Plan *plan;
    int64_t turn, turn_place, view_bytes;
    int64_t *at;          /* each view's slot now */
    int64_t *first_words; /* of the noise that a view has used */
    int64_t *which;       /* views by the operation in a place */
    int64_t *look_ups, *moved_rows, *moved_columns; /* entries that are launched after all others of a place */
    int64_t num_look_ups, num_moved_rows, num_moved_columns;
} Planner;

static int64_t num_fields(enum kernel kernel) {
    return kernel == RESIZE_KERNEL ? 17 : kernel == ROTATE_KERNEL ? 16 : kernel == ERASE_KERNEL ? 12 : 8;
}

static int64_t aligned(int64_t num_bytes) { return (num_bytes + ALIGNED - 1) / ALIGNED * ALIGNED; }

/* The place of so many bytes of the buffer; it has them, as `room` says. */
static int64_t leave(Planner *planner, int64_t num_bytes) {
    const int64_t place = planner->plan->num_bytes;
    planner->plan->num_bytes += aligned(num_bytes);
    return place;
}

/* The entries of a launch, to be written. */
static int64_t *launch(Planner *planner, enum kernel kernel, int64_t num, int64_t most_pixels) {
    Plan *plan = planner->plan;
    const int64_t place = leave(planner, num * num_fields(kernel) * (int64_t)sizeof(int64_t));
    const int64_t launched[LAUNCH_FIELDS] = {kernel, planner->turn, planner->turn_place, place, num, most_pixels};
    memcpy(plan->launches + LAUNCH_FIELDS * plan->num_launches++, launched, sizeof launched);
    return (int64_t *)(void *)(plan->buffer + place);
}

/* A view goes from its slot to its other one. */
static void move(Planner *planner, int64_t view, int64_t slots[2]) {
    const int64_t all_bytes = planner->plan->num_views * planner->view_bytes;
    slots[0] = planner->at[view];
    slots[1] = slots[0] < all_bytes ? slots[0] + all_bytes : slots[0] - all_bytes;
    planner->at[view] = slots[1];
}

static void look_up_later(Planner *planner, const int64_t slots[2], int64_t table, int64_t channel_step) {
    const int64_t entry[4] = {slots[0], slots[1], table, channel_step};
    memcpy(planner->look_ups + 4 * planner->num_look_ups++, entry, sizeof entry);
}

static void plan_resizing(Planner *planner) {
    Plan *plan = planner->plan;
    const int interpolation = (int)plan->interpolation;
    if (!plan->num) return;
    int64_t *entry = launch(planner, RESIZE_KERNEL, plan->num, 0);
    for (int64_t view = 0; view < plan->num; view++, entry += num_fields(RESIZE_KERNEL)) {
        const int64_t *crop = plan->crops + 4 * view, *resized = plan->resized + 2 * view;
        const int64_t *window = plan->windows + 4 * view, *part = plan->parts + 4 * view;
        const Tapped top = tapped(crop[2], resized[0], window[0], interpolation);
        const Tapped bottom = tapped(crop[2], resized[0], window[0] + plan->height - 1, interpolation);
        const int64_t rows = bottom.beyond - top.first, pitch = 3 * part[3];
        const int64_t begin = plan->offsets[view] + (crop[0] - part[0] + top.first) * pitch + 3 * (crop[1] - part[1]);
        const int64_t fields[17] = {
            begin, pitch, rows, 0, window[1], window[1], 0, plan->across_bytes, plan->flips[view],
            0, window[0], window[0], 0, top.first, resized[1], resized[0], planner->at[view]};
        memcpy(entry, fields, sizeof fields);
        const int64_t sides[4] = {crop[3], resized[1], crop[2], resized[0]};
        memcpy(plan->sides + 4 * view, sides, sizeof sides);
        plan->across_bytes += rows * 3 * plan->width;
        if (rows > plan->most_rows) plan->most_rows = rows;
    }
}

/* -- operations: of each kind the views that have it in a place ---------------------------------------------------- */

typedef struct {
    const int64_t *which;
    int64_t num;
    const double *values; /* of all views in a place, most_operations apart */
} Those;

static double value_of(const Planner *planner, const Those *those, int64_t number) {
    return those->values[those->which[number] * planner->plan->most_operations];
}

/* Histograms, and tables of them. */
static void plan_counts(Planner *planner, const Those *equalized, const Those *stretched) {
    Plan *plan = planner->plan;
    const int64_t num = equalized->num + stretched->num;
    if (!num) return;
    const int64_t tables = leave(planner, COUNTS_TABLES * num);
    int64_t *count = launch(planner, COUNT_LEVELS, num, 0), *table = launch(planner, TABLES_OF_COUNTS, num, 0);
    for (int64_t i = 0; i < num; i++, count += num_fields(COUNT_LEVELS), table += num_fields(TABLES_OF_COUNTS)) {
        const bool is_stretched = i >= equalized->num;
        int64_t slots[2];
        move(planner, is_stretched ? stretched->which[i - equalized->num] : equalized->which[i], slots);
        count[0] = slots[0], count[1] = table[0] = COUNTS_TABLES * plan->num_counts++;
        table[1] = tables + COUNTS_TABLES * i, table[2] = is_stretched;
        look_up_later(planner, slots, table[1], TABLE);
    }
}

static void plan_contrast(Planner *planner, const Those *those) {
    Plan *plan = planner->plan;
    if (!those->num) return;
    const int64_t tables = leave(planner, TABLE * those->num);
    int64_t *sum = launch(planner, SUM_GREY, those->num, 0), *table = launch(planner, TABLES_OF_SUMS, those->num, 0);
    for (int64_t i = 0; i < those->num; i++, sum += num_fields(SUM_GREY), table += num_fields(TABLES_OF_SUMS)) {
        int64_t slots[2];
        move(planner, those->which[i], slots);
        sum[0] = slots[0], sum[1] = table[0] = plan->num_sums++;
        table[1] = tables + TABLE * i, table[2] = (int64_t)rounded(value_of(planner, those, i) * 1048576.0);
        look_up_later(planner, slots, table[1], 0);
    }
}

static void plan_table(Planner *planner, enum operation operation, const Those *those) {
    const int64_t tables = leave(planner, TABLE * those->num);
    for (int64_t i = 0; i < those->num; i++) {
        int64_t slots[2];
        move(planner, those->which[i], slots);
        level_table(operation, value_of(planner, those, i), planner->plan->buffer + tables + TABLE * i);
        look_up_later(planner, slots, tables + TABLE * i, 0);
    }
}

static void plan_factor(Planner *planner, enum operation operation, const Those *those) {
    if (!those->num) return;
    const enum kernel kernel = operation == COLOR ? BLEND_WITH_GREY : operation == SHARPNESS ? SHARPEN : SHIFT_HUE;
    int64_t *entry = launch(planner, kernel, those->num, 0);
    for (int64_t i = 0; i < those->num; i++, entry += num_fields(kernel)) {
        const double value = value_of(planner, those, i);
        move(planner, those->which[i], entry);
        entry[2] = operation == HUE ? hue_step(value) : (int64_t)rounded(value * 4096.0);
    }
}

static void plan_rotation(Planner *planner, const Those *those) {
    const Plan *plan = planner->plan;
    if (!those->num) return;
    int64_t *entry = launch(planner, ROTATE_KERNEL, those->num, 0);
    for (int64_t i = 0; i < those->num; i++, entry += num_fields(ROTATE_KERNEL)) {
        int32_t steps[2][3];
        rotation_steps(value_of(planner, those, i), plan->height, plan->width, steps);
        move(planner, those->which[i], entry);
        entry[2] = plan->fill;
        for (int step = 0; step < 6; step++) entry[3 + step] = steps[step / 3][step % 3];
        entry[9] = plan->geometry;
    }
}

/* How many lines say how a view is moved, and pixels they have. */
static int64_t lines_of(const Plan *plan, int64_t operation, int64_t *size) {
    const bool rows = operation == SHEAR_X || operation == TRANSLATE_X;
    *size = rows ? plan->width : plan->height;
    return operation == TRANSLATE_X || operation == TRANSLATE_Y ? 1 : rows ? plan->height : plan->width;
}

static void plan_moves(Planner *planner, enum operation operation, const Those *those) {
    const Plan *plan = planner->plan;
    const bool is_shear = operation == SHEAR_X || operation == SHEAR_Y;
    int64_t size, num_lines = lines_of(plan, operation, &size);
    const int64_t place = leave(planner, those->num * num_lines * LINE * (int64_t)sizeof(int32_t));
    int32_t *to = (int32_t *)(void *)(plan->buffer + place);
    for (int64_t i = 0; i < those->num; i++) {
        const double value = value_of(planner, those, i);
        int64_t slots[2];
        move(planner, those->which[i], slots);
        const int64_t entry[5] = {slots[0], slots[1], place / 4 + num_lines * LINE * i, num_lines > 1 ? LINE : 0,
                                  plan->fill};
        memcpy(operation == SHEAR_X || operation == TRANSLATE_X
                   ? planner->moved_rows + 5 * planner->num_moved_rows++
                   : planner->moved_columns + 5 * planner->num_moved_columns++,
               entry, sizeof entry);
        for (int64_t number = 0; number < num_lines; number++, to += LINE) {
            const double shift = value * (is_shear ? (double)number + 0.5 : (double)size);
            const Line line = line_moved(shift, size, (int)plan->geometry);
            to[0] = (int32_t)line.whole, to[1] = (int32_t)line.first, to[2] = (int32_t)line.last;
            for (int tap = 0; tap < 4; tap++) to[3 + tap] = line.taps[tap];
        }
    }
}

static void launch_later(Planner *planner, enum kernel kernel, const int64_t *entries, int64_t num, int64_t fields) {
    if (!num) return;
    int64_t *entry = launch(planner, kernel, num, 0);
    for (int64_t i = 0; i < num; i++, entry += num_fields(kernel))
        memcpy(entry, entries + i * fields, (size_t)fields * sizeof *entries);
}

static void plan_operations(Planner *planner, int64_t place) {
    const Plan *plan = planner->plan;
    int64_t nums[OPERATIONS] = {0}, *which = planner->which;
    Those of[OPERATIONS];
    for (int64_t view = 0; view < plan->num; view++) {
        const int64_t operation = plan->operations[view * plan->most_operations + place];
        if (operation != NONE) nums[operation]++;
    }
    for (int operation = 0; operation < OPERATIONS; which += nums[operation++])
        of[operation] = (Those){which, 0, plan->values + place};
    for (int64_t view = 0; view < plan->num; view++) {
        const int64_t operation = plan->operations[view * plan->most_operations + place];
        if (operation != NONE) planner->which[of[operation].which - planner->which + of[operation].num++] = view;
    }
    planner->num_look_ups = planner->num_moved_rows = planner->num_moved_columns = 0;
    plan_counts(planner, &of[EQUALIZE], &of[AUTOCONTRAST]);
    for (int number = INVERT; number < OPERATIONS; number++) {
        const enum operation operation = (enum operation)number;
        const Those *those = &of[number];
        if (operation <= BRIGHTNESS) plan_table(planner, operation, those);
        else if (operation == CONTRAST) plan_contrast(planner, those);
        else if (operation <= HUE) plan_factor(planner, operation, those);
        else if (operation == ROTATE) plan_rotation(planner, those);
        else plan_moves(planner, operation, those);
    }
    launch_later(planner, LOOK_UP, planner->look_ups, planner->num_look_ups, 4);
    const bool rows_first = of[SHEAR_X].num > 0 || of[SHEAR_Y].num == 0; /* in the order of their first operations */
    if (rows_first) launch_later(planner, MOVE_ROWS, planner->moved_rows, planner->num_moved_rows, 5);
    launch_later(planner, MOVE_COLUMNS, planner->moved_columns, planner->num_moved_columns, 5);
    if (!rows_first) launch_later(planner, MOVE_ROWS, planner->moved_rows, planner->num_moved_rows, 5);
}

static void plan_erasing(Planner *planner, int64_t place) {
    const Plan *plan = planner->plan;
    int64_t num = 0, most_pixels = 0;
    for (int64_t view = 0; view < plan->num; view++) {
        const int64_t *box = plan->erased + 4 * (view * plan->most_boxes + place);
        if (box[2]) num++;
        if (box[2] * box[3] > most_pixels) most_pixels = box[2] * box[3];
    }
    if (!num) return;
    int64_t *entry = launch(planner, ERASE_KERNEL, num, most_pixels);
    for (int64_t view = 0; view < plan->num; view++) {
        const int64_t *box = plan->erased + 4 * (view * plan->most_boxes + place), *noise = plan->noise + 4 * view;
        if (!box[2]) continue;
        const int64_t first = planner->at[view] + 3 * (box[0] * plan->width + box[1]);
        const int64_t fields[10] = {first, box[2], box[3], plan->erase_mode, plan->fill, planner->first_words[view],
                                    noise[0], noise[1], noise[2], noise[3]};
        memcpy(entry, fields, sizeof fields);
        entry += num_fields(ERASE_KERNEL);
        if (plan->erase_mode == ERASE_PIXEL) planner->first_words[view] += (3 * box[2] * box[3] + 3) / 4;
        if (plan->erase_mode == ERASE_RAND) planner->first_words[view]++;
    }
}

/* An entry for each view of the batch; the slot of one that is not drawn is -1. */
static void plan_mixing(Planner *planner) {
    const Plan *plan = planner->plan;
    if (!plan->num_views) return;
    int64_t *entries = launch(planner, MIX_KERNEL, plan->num_views, 0);
    const int64_t fields = num_fields(MIX_KERNEL);
    for (int64_t view = 0; view < plan->num_views; view++) entries[view * fields] = -1;
    for (int64_t i = 0; i < plan->num; i++) entries[plan->numbers[i] * fields] = planner->at[i];
    int64_t first = 0, view = 0;
    for (int64_t run = 0; run < plan->num_runs; first += plan->runs[run++]) {
        for (; view < first + plan->runs[run]; view++) {
            int64_t *entry = entries + view * fields;
            const int32_t *box = plan->boxes + 4 * view;
            entry[1] = entries[(first + plan->partners[view]) * fields];
            entry[2] = plan->lambdas[view];
            entry[3] = box[0], entry[4] = (int64_t)box[0] + box[2], entry[5] = box[1];
            entry[6] = (int64_t)box[1] + box[3];
        }
    }
}

/* -- what Python calls --------------------------------------------------------------------------------------------- */

/* Whether a part has what a window's size pixels are made of, along a side. */
static bool is_in_part(const Plan *plan, const int64_t crop[4], int64_t resized, const int64_t window[4],
                       const int64_t part[4], int side, int64_t size) {
    const int interpolation = (int)plan->interpolation;
    const Tapped first = tapped(crop[2 + side], resized, window[side], interpolation);
    const Tapped last = tapped(crop[2 + side], resized, window[side] + size - 1, interpolation);
    const int64_t before = crop[side] - part[side];
    return before + first.first >= 0 && before + last.beyond <= part[2 + side];
}

/* Whether a drawn view's numbers can be computed with, and name no pixels but those that are there. */
static bool is_sound_view(const Plan *plan, int64_t view) {
    const int64_t *crop = plan->crops + 4 * view, *resized = plan->resized + 2 * view;
    const int64_t *window = plan->windows + 4 * view, *part = plan->parts + 4 * view;
    if (plan->numbers[view] < 0 || plan->numbers[view] >= plan->num_views) return false;
    if (plan->offsets[view] < 0 || plan->offsets[view] > (int64_t)1 << 48) return false;
    if (!holds(MOST_PICTURE_SIDE, MOST_PICTURE_SIDE, crop) || !holds(MOST_PICTURE_SIDE, MOST_PICTURE_SIDE, part))
        return false;
    if (resized[0] > INT32_MAX || resized[1] > INT32_MAX || !holds(resized[0], resized[1], window) ||
        window[2] != plan->height || window[3] != plan->width)
        return false;
    if (!is_in_part(plan, crop, resized[0], window, part, 0, plan->height) ||
        !is_in_part(plan, crop, resized[1], window, part, 1, plan->width))
        return false;
    for (int64_t i = 0; i < plan->most_operations; i++)
        if (!is_sound_operation(plan->operations[view * plan->most_operations + i],
                                plan->values[view * plan->most_operations + i]))
            return false;
    for (int64_t i = 0; i < plan->most_boxes; i++) {
        const int64_t *box = plan->erased + 4 * (view * plan->most_boxes + i);
        if (box[2] && !holds(plan->height, plan->width, box)) return false;
    }
    return true;
}

static bool is_sound_plan(const Plan *plan) {
    const int64_t most = 1 << 24;
    if (plan->num < 0 || plan->num > plan->num_views || plan->num_views > most || plan->height < 1 ||
        plan->width < 1 || plan->height > MOST_SIDE || plan->width > MOST_SIDE)
        return false;
    if (plan->most_operations < 0 || plan->most_operations > most || plan->most_boxes < 0 || plan->most_boxes > most)
        return false;
    for (int64_t view = 0; view < plan->num; view++)
        if (!is_sound_view(plan, view)) return false;
    int64_t num_views = 0;
    for (int64_t run = 0; run < plan->num_runs; run++) {
        const int64_t num = plan->runs[run];
        if (num < 0 || num > plan->num_views - num_views) return false;
        for (int64_t view = num_views; view < num_views + num; view++) {
            const int32_t *pasted = plan->boxes + 4 * view;
            const int64_t box[4] = {pasted[0], pasted[1], pasted[2], pasted[3]};
            if (plan->partners[view] < 0 || plan->partners[view] >= num) return false;
            if (box[2] && !holds(plan->height, plan->width, box)) return false;
        }
        num_views += num;
    }
    return num_views == plan->num_views;
}

static int64_t most_launches(const Plan *plan) {
    return LAUNCHES_A_PLACE * plan->most_operations + plan->most_boxes + 2;
}

/* Of the buffer and of the launches what a plan takes at most; or that its numbers are out of bounds. */
PUBLIC int replay_plan_room(Plan *plan) {
    if (!is_sound_plan(plan)) return OUT_OF_BOUNDS;
    const int64_t field = sizeof(int64_t);
    int64_t room = (plan->num * num_fields(RESIZE_KERNEL) + plan->num_views * num_fields(MIX_KERNEL)) * field;
    for (int64_t i = 0; i < plan->num * plan->most_operations; i++) {
        int64_t size;
        if (plan->operations[i] == NONE) continue;
        if (plan->operations[i] < SHEAR_X) room += COUNTS_TABLES + 3 * num_fields(LOOK_UP) * field;
        else
            room += num_fields(MOVE_ROWS) * field +
                    lines_of(plan, plan->operations[i], &size) * LINE * (int64_t)sizeof(int32_t);
    }
    for (int64_t i = 0; i < plan->num * plan->most_boxes; i++)
        if (plan->erased[4 * i + 2]) room += num_fields(ERASE_KERNEL) * field;
    plan->most_launches = most_launches(plan);
    plan->room = room + (2 * plan->most_launches + 1) * ALIGNED;
    return FINE;
}

PUBLIC int replay_plan(Workspace *workspace, Plan *plan) {
    const int64_t room = plan->room, launches = plan->most_launches;
    const int fault = replay_plan_room(plan);
    if (fault != FINE || room < plan->room || launches < plan->most_launches) return OUT_OF_BOUNDS;
    int64_t *memory = (int64_t *)(void *)scratch(&workspace->numbers, (size_t)(17 * plan->num) * sizeof *memory + 1);
    if (!memory) return NO_MEMORY;
    Planner planner = {
        .plan = plan,
        .turn = RESIZED,
        .view_bytes = 3 * plan->height * plan->width,
        .at = memory,
        .first_words = memory + plan->num,
        .which = memory + 2 * plan->num,
        .look_ups = memory + 3 * plan->num,
        .moved_rows = memory + 7 * plan->num,
        .moved_columns = memory + 12 * plan->num,
    };
    for (int64_t view = 0; view < plan->num; view++)
        planner.at[view] = plan->numbers[view] * planner.view_bytes, planner.first_words[view] = 0;
    plan->num_bytes = plan->num_launches = plan->most_rows = plan->across_bytes = 0;
    plan->num_counts = plan->num_sums = 0;
    plan_resizing(&planner);
    planner.turn = OPERATED;
    for (int64_t place = 0; place < plan->most_operations; place++)
        planner.turn_place = place, plan_operations(&planner, place);
    planner.turn = ERASED;
    for (int64_t place = 0; place < plan->most_boxes; place++)
        planner.turn_place = place, plan_erasing(&planner, place);
    planner.turn = MIXED, planner.turn_place = 0;
    plan_mixing(&planner);
    return FINE;
}
