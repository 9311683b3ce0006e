/* Draws views and mixes and plans them, with settings of all kinds, and holds what is drawn and written to its bounds.
 *
 *     fuzz_draws [ROUNDS [SEED]]
 *
 * says a hash of all that was drawn and planned, which is the same on every processor, by every compiler: so random
 * numbers are asked for one after another, never within one expression. It ends with 1 at the first fault; compiled with
 * -fsanitize=address,undefined at the first byte read or written out of bounds, too. */

#include "fuzz.h"

#include "draw.c" /* with their types and their bounds, which no header shows */
#include "pairs.c"
#include "plan.c"

Workspace *replay_open(const char *wanted);
void replay_close(Workspace *workspace);

/* A new one each time, whose memory fits what comes next, not what came before. */
static Workspace *opened(void) {
    Workspace *workspace = replay_open(NULL);
    if (!workspace) abort();
    return workspace;
}

static uint64_t hashed = 0xCBF29CE484222325;

static void add_to_hash(const void *bytes, size_t size) { /* FNV-1a, 64 bits */
    for (size_t i = 0; i < size; i++) hashed = (hashed ^ ((const uint8_t *)bytes)[i]) * 0x100000001B3;
}

static void *room(int64_t num, size_t size) { /* of exact size, with nothing in it that a reader could use */
    const size_t num_bytes = (size_t)num * size;
    void *memory = malloc(num_bytes + (num_bytes == 0));
    if (!memory) abort();
    memset(memory, GUARD, num_bytes);
    return memory;
}

static void two_reals(double least, double most, double pair[2]) {
    const double one = real_between(least, most), other = real_between(least, most);
    pair[0] = one < other ? one : other;
    pair[1] = one < other ? other : one;
}

static int64_t side(int64_t most) { return one_of(6) ? between(1, most) : between(1, most < 60 ? most : 60); }

/* ---- view parameters ---- */

enum { MOST_DRAWN = 5, MOST_SLOTS_DRAWN = 6, MOST_CHOICES = 5, MOST_BOXES_DRAWN = 5 };
enum { MOST_RULES = MOST_SLOTS_DRAWN * MOST_CHOICES };

typedef struct {
    Draws draws;
    uint64_t seeds[4 * MOST_DRAWN];
    int64_t sizes[2 * MOST_DRAWN], rules[MOST_RULES];
    double probabilities[MOST_RULES], magnitudes[MOST_RULES];
} Drawing;

static void point_out(Drawing *drawing) {
    Draws *draws = &drawing->draws;
    const int64_t num = draws->num;
    draws->seeds = drawing->seeds, draws->picture_sizes = drawing->sizes, draws->rules = drawing->rules;
    draws->probabilities = drawing->probabilities, draws->magnitudes = drawing->magnitudes;
    draws->crops = room(4 * num, sizeof(int64_t)), draws->resized = room(2 * num, sizeof(int64_t));
    draws->windows = room(4 * num, sizeof(int64_t)), draws->flips = room(num, 1);
    draws->operations = room(num * draws->row, sizeof(int64_t));
    draws->values = room(num * draws->row, sizeof(double));
    draws->erased = room(4 * num * draws->boxes_row, sizeof(int64_t));
}

static void free_drawing(Drawing *drawing) {
    Draws *draws = &drawing->draws;
    free(draws->crops), free(draws->resized), free(draws->windows), free(draws->flips), free(draws->operations);
    free(draws->values), free(draws->erased);
}

static void random_settings(Drawing *drawing) {
    Draws *draws = &drawing->draws;
    memset(drawing, 0, sizeof *drawing);
    draws->num = between(0, MOST_DRAWN);
    draws->height = side(MOST_SIDE);
    draws->width = side(MOST_SIDE);
    for (int64_t i = 0; i < 4 * draws->num; i++) drawing->seeds[i] = random_word();
    for (int64_t i = 0; i < 2 * draws->num; i++) drawing->sizes[i] = side(one_of(3) ? 1 << 24 : 700);
    draws->crops_centre = one_of(4);
    for (int i = 0; i < 2; i++) draws->least[i] = (i ? draws->width : draws->height) + between(0, 100);
    two_reals(0.001, 1.0, draws->scale);
    two_reals(-7.0, 7.0, draws->log_ratio);
    for (int i = 0; i < 2; i++) draws->ratio[i] = exp(draws->log_ratio[i]);
    draws->flips_some = one_of(2);
    draws->flip = real_between(0.0, 1.0);
    draws->num_slots = between(0, MOST_SLOTS_DRAWN);
    draws->num_choices = between(1, MOST_CHOICES);
    draws->chosen_together = one_of(3);
    draws->num_rules = draws->num_choices * (draws->chosen_together ? draws->num_slots : 1);
    for (int64_t i = 0; i < draws->num_rules; i++) {
        drawing->rules[i] = between(0, RULES + 2);
        drawing->probabilities[i] = one_of(3) ? 1.0 : real_between(0.0, 1.0);
        drawing->magnitudes[i] = real_between(-1.0, 11.0);
    }
    draws->magnitude_std = one_of(3) ? 0.0 : real_between(0.0, 9.0);
    draws->jitters_some = one_of(3);
    for (int i = 0; i < JITTERS; i++) {
        draws->jitters[i] = one_of(2);
        two_reals(i == JITTERS - 1 ? -0.5 : 0.0, i == JITTERS - 1 ? 0.5 : 5.0, draws->jitter[i]);
    }
    draws->erases_some = one_of(2);
    draws->most_boxes = draws->erases_some ? between(1, MOST_BOXES_DRAWN) : 0;
    draws->erase = real_between(0.0, 1.5);
    two_reals(0.001, 1.0, draws->area);
    two_reals(-7.0, 7.0, draws->log_aspect);
    draws->row = draws->num_slots + JITTERS * draws->jitters_some + between(0, 1);
    draws->boxes_row = draws->most_boxes + between(0, 1) * draws->erases_some;
}

static void check_drawn(const Draws *draws) {
    for (int64_t view = 0; view < draws->num; view++) {
        const int64_t *picture = draws->picture_sizes + 2 * view, *resized = draws->resized + 2 * view;
        const int64_t *window = draws->windows + 4 * view;
        check(holds(picture[0], picture[1], draws->crops + 4 * view), "draw.c", "a crop");
        check(holds(resized[0], resized[1], window), "draw.c", "a window");
        check(window[2] == draws->height && window[3] == draws->width, "draw.c", "a window's size");
        check(draws->flips[view] <= 1, "draw.c", "a flip");
        for (int64_t place = 0; place < draws->row; place++) {
            const int64_t at = view * draws->row + place, operation = draws->operations[at];
            check(operation >= NONE && operation <= OPERATIONS + 2, "draw.c", "an operation");
            check(operation == NONE || place < draws->operations_found, "draw.c", "how many operations there are");
            check(operation >= OPERATIONS || is_sound_operation(operation, draws->values[at]), "draw.c", "a value");
        }
        for (int64_t place = 0; place < draws->boxes_row; place++) {
            const int64_t *box = draws->erased + 4 * (view * draws->boxes_row + place);
            check(box[2] == 0 || holds(draws->height, draws->width, box), "draw.c", "an erased box");
            check(box[2] == 0 || place < draws->boxes_found, "draw.c", "how many boxes there are");
        }
    }
}

static void add_drawn(const Draws *draws) {
    const size_t num = (size_t)draws->num;
    add_to_hash(draws->crops, 4 * num * sizeof *draws->crops);
    add_to_hash(draws->resized, 2 * num * sizeof *draws->resized);
    add_to_hash(draws->windows, 4 * num * sizeof *draws->windows);
    add_to_hash(draws->flips, num);
    add_to_hash(draws->operations, num * (size_t)draws->row * sizeof *draws->operations);
    add_to_hash(draws->values, num * (size_t)draws->row * sizeof *draws->values);
    add_to_hash(draws->erased, 4 * num * (size_t)draws->boxes_row * sizeof *draws->erased);
}

/* Settings beyond what there is room for, or that name nothing. */
static void break_settings(Draws *draws) {
    const int64_t far = one_of(2) ? INT64_MAX : between(1, 1000);
    switch (between(0, 11)) {
    case 0: draws->num = -far; break;
    case 1: draws->height = one_of(2) ? -far : MOST_SIDE + 1; break;
    case 2: draws->width = one_of(2) ? 0 : INT64_MAX; break;
    case 3: draws->num_slots = -far; break;
    case 4: draws->num_slots = draws->row + (far & 0xFFFF); break;
    case 5: draws->num_slots = draws->num_slots ? draws->num_slots : 1, draws->row += 1, draws->num_choices = 1 - far; break;
    case 6: draws->num_slots += !draws->num_slots, draws->num_choices = draws->num_rules + far % 1000 + 1; break;
    case 7: draws->num_rules = -far, draws->num_slots += !draws->num_slots; break;
    case 8: draws->row = draws->num_slots - far % 1000 - 1; break;
    case 9: draws->erases_some = 1, draws->most_boxes = one_of(2) ? 1 - far : draws->boxes_row + far % 1000 + 1; break;
    case 10: draws->crops_centre = 1, draws->least[between(0, 1)] = one_of(2) ? 1 - far : (1 << 20) + far % 1000 + 1; break;
    default: draws->num_choices = INT64_MIN;
    }
}

static void fuzz_drawing(void) {
    Drawing drawing;
    random_settings(&drawing);
    point_out(&drawing);
    Draws *draws = &drawing.draws;
    check(replay_draw(draws) == FINE, "draw.c", "whether sound settings are drawn");
    check_drawn(draws);
    add_drawn(draws);
    double *const reals[] = {draws->scale,          draws->ratio,  draws->log_ratio,   &draws->flip,
                             &draws->magnitude_std, &draws->erase, draws->area,        draws->log_aspect,
                             draws->jitter[0],      draws->jitter[3], drawing.magnitudes, drawing.probabilities};
    for (int64_t left = between(1, 4); left > 0; left--) /* whatever is drawn of these, it is in its place */
        *reals[between(0, (int64_t)(sizeof reals / sizeof *reals) - 1)] = nasty_real();
    replay_draw(draws);
    break_settings(draws);
    check(replay_draw(draws) == OUT_OF_BOUNDS, "draw.c", "whether unsound settings are refused");
    free_drawing(&drawing);
}

/* ---- mixes ---- */

static double random_alpha(void) { return exp(one_of(2) ? real_between(-3.0, 3.0) : real_between(-87.0, 88.0)); }

static void fuzz_pairs(void) {
    Workspace *workspace = opened();
    const int64_t num = between(0, 70);
    uint64_t words[4];
    for (int i = 0; i < 4; i++) words[i] = random_word();
    uint8_t *skipped = room(num, 1);
    for (int64_t i = 0; i < num; i++) skipped[i] = one_of(9);
    Pairs pairs = {.num = num, .seed = words, .skipped = skipped};
    pairs.height = side(MOST_SIDE);
    pairs.width = side(MOST_SIDE);
    pairs.mixes = one_of(2);
    pairs.cuts = one_of(2);
    pairs.mixup_alpha = random_alpha();
    pairs.cutmix_alpha = random_alpha();
    pairs.probability = real_between(0.0, 1.2);
    pairs.switch_probability = real_between(0.0, 1.0);
    pairs.partners = room(num, sizeof(int64_t));
    pairs.lambdas = room(num, sizeof(uint32_t)), pairs.boxes = room(4 * num, sizeof(int32_t));
    check(replay_pair(workspace, &pairs) == FINE, "pairs.c", "whether sound settings are drawn");
    for (int64_t i = 0; i < num; i++) {
        const int64_t partner = pairs.partners[i];
        const int32_t *of = pairs.boxes + 4 * i;
        const int64_t box[4] = {of[0], of[1], of[2], of[3]};
        check(partner >= 0 && partner < num && pairs.partners[partner] == i, "pairs.c", "a partner");
        check(partner == i || (!skipped[i] && !skipped[partner]), "pairs.c", "a partner of what is skipped");
        check(pairs.lambdas[i] <= LAMBDA_ONE && pairs.lambdas[i] == pairs.lambdas[partner], "pairs.c", "a lambda");
        check(memcmp(of, pairs.boxes + 4 * partner, sizeof(int32_t[4])) == 0, "pairs.c", "a box of two");
        check(of[2] == 0 ? pairs.lambdas[i] % 2 == 0 : holds(pairs.height, pairs.width, box), "pairs.c", "a box");
    }
    add_to_hash(pairs.partners, (size_t)num * sizeof *pairs.partners);
    add_to_hash(pairs.lambdas, (size_t)num * sizeof *pairs.lambdas);
    add_to_hash(pairs.boxes, 4 * (size_t)num * sizeof *pairs.boxes);
    pairs.mixes = pairs.cuts = 1;
    pairs.probability = nasty_real();
    pairs.switch_probability = nasty_real();
    check(replay_pair(workspace, &pairs) == FINE, "pairs.c", "whether any chances are drawn");
    switch (between(0, 4)) {
    case 0: pairs.num = one_of(2) ? -1 : INT64_MAX; break;
    case 1: pairs.height = one_of(2) ? 0 : MOST_SIDE + 1; break;
    case 2: pairs.width = one_of(2) ? INT64_MIN : INT64_MAX; break;
    case 3: pairs.mixup_alpha = one_of(2) ? NAN : 0.0; break;
    default: pairs.cutmix_alpha = one_of(2) ? INFINITY : -1.0;
    }
    check(replay_pair(workspace, &pairs) == OUT_OF_BOUNDS, "pairs.c", "whether unsound settings are refused");
    free(skipped), free(pairs.partners), free(pairs.lambdas), free(pairs.boxes);
    replay_close(workspace);
}

/* ---- plans ---- */

enum { MOST_PLANNED = 8, MOST_PLACES = 4, MOST_RUNS = 3 };

typedef struct {
    Plan plan;
    int64_t numbers[MOST_PLANNED], offsets[MOST_PLANNED], parts[4 * MOST_PLANNED], crops[4 * MOST_PLANNED];
    int64_t resized[2 * MOST_PLANNED], windows[4 * MOST_PLANNED], operations[MOST_PLANNED * MOST_PLACES];
    int64_t erased[4 * MOST_PLANNED * MOST_PLACES], noise[4 * MOST_PLANNED], runs[MOST_RUNS], partners[MOST_PLANNED];
    double values[MOST_PLANNED * MOST_PLACES];
    uint8_t flips[MOST_PLANNED];
    uint32_t lambdas[MOST_PLANNED];
    int32_t boxes[4 * MOST_PLANNED];
} Planning;

static void random_view(Planning *planning, int64_t view) {
    Plan *plan = &planning->plan;
    int64_t *crop = planning->crops + 4 * view, *part = planning->parts + 4 * view;
    int64_t *resized = planning->resized + 2 * view, *window = planning->windows + 4 * view;
    const int64_t height = side(one_of(4) ? MOST_PICTURE_SIDE : 600), width = side(600);
    random_box(height, width, crop);
    memcpy(part, crop, 4 * sizeof *part);
    for (int i = 0; i < 2; i++) {
        const int64_t before = between(0, crop[i]), whole = i ? width : height;
        part[i] -= before, part[2 + i] += before;
        part[2 + i] = between(part[2 + i], whole - part[i]);
    }
    planning->offsets[view] = between(0, 1 << 30);
    window[2] = plan->height, window[3] = plan->width;
    for (int i = 0; i < 2; i++) {
        resized[i] = window[2 + i] + (one_of(2) ? 0 : between(0, one_of(9) ? INT32_MAX - MOST_SIDE : 50));
        window[i] = between(0, resized[i] - window[2 + i]);
    }
    planning->flips[view] = one_of(2);
    for (int i = 0; i < 4; i++) planning->noise[4 * view + i] = (int64_t)random_word();
    for (int64_t i = view * plan->most_operations; i < (view + 1) * plan->most_operations; i++) {
        planning->operations[i] = between(NONE, OPERATIONS - 1);
        planning->values[i] = random_value(planning->operations[i]);
    }
    for (int64_t i = view * plan->most_boxes; i < (view + 1) * plan->most_boxes; i++)
        if (!one_of(3)) random_box(plan->height, plan->width, planning->erased + 4 * i);
}

static void random_planning(Planning *planning) {
    Plan *plan = &planning->plan;
    memset(planning, 0, sizeof *planning);
    plan->num_views = between(0, MOST_PLANNED);
    for (int64_t view = 0; view < plan->num_views; view++)
        if (!one_of(5)) planning->numbers[plan->num++] = view; /* the others are skipped */
    plan->height = side(300);
    plan->width = side(300);
    plan->most_operations = between(0, MOST_PLACES);
    plan->most_boxes = between(0, MOST_PLACES);
    plan->interpolation = between(BICUBIC, BILINEAR);
    plan->geometry = between(BICUBIC, BILINEAR);
    plan->erase_mode = between(ERASE_CONST, ERASE_RAND);
    plan->fill = between(0, 0xFFFFFF);
    for (int64_t view = 0; view < plan->num; view++) random_view(planning, view);
    for (int64_t left = plan->num_views; plan->num_runs < MOST_RUNS; left -= planning->runs[plan->num_runs++])
        planning->runs[plan->num_runs] = plan->num_runs == MOST_RUNS - 1 ? left : between(0, left);
    for (int64_t run = 0, first = 0; run < plan->num_runs; first += planning->runs[run++])
        for (int64_t i = 0; i < planning->runs[run]; i++) {
            int64_t box[4] = {0};
            planning->partners[first + i] = between(0, planning->runs[run] - 1);
            planning->lambdas[first + i] = (uint32_t)between(0, LAMBDA_ONE);
            if (one_of(2)) random_box(plan->height, plan->width, box);
            for (int j = 0; j < 4; j++) planning->boxes[4 * (first + i) + j] = (int32_t)box[j];
        }
    plan->numbers = planning->numbers, plan->offsets = planning->offsets, plan->parts = planning->parts;
    plan->crops = planning->crops, plan->resized = planning->resized, plan->windows = planning->windows;
    plan->flips = planning->flips, plan->operations = planning->operations, plan->values = planning->values;
    plan->erased = planning->erased, plan->noise = planning->noise, plan->runs = planning->runs;
    plan->partners = planning->partners, plan->lambdas = planning->lambdas, plan->boxes = planning->boxes;
}

/* Whether an entry names no pixels but those that there are. */
static void check_entry(const Planning *planning, const int64_t *launched, int64_t number) {
    const Plan *plan = &planning->plan;
    const int64_t *places = (const int64_t *)(void *)(plan->buffer + launched[3]);
    const int64_t *entry = places + number * num_fields((enum kernel)launched[0]);
    if (launched[0] == RESIZE_KERNEL) {
        const int64_t *crop = planning->crops + 4 * number, *part = planning->parts + 4 * number;
        const int64_t bytes = entry[0] - planning->offsets[number] - 3 * (crop[1] - part[1]), rows = entry[2];
        check(entry[1] == 3 * part[3] && bytes >= 0 && bytes % entry[1] == 0, "plan.c", "where rows begin");
        check(rows > 0 && bytes / entry[1] + rows <= part[2], "plan.c", "how many rows are read");
    }
    if (launched[0] == ERASE_KERNEL) {
        const int64_t end = entry[0] + 3 * ((entry[1] - 1) * plan->width + entry[2]);
        check(entry[1] > 0 && entry[2] > 0 && entry[0] >= 0, "plan.c", "where an erased box begins");
        check(end <= 6 * plan->num_views * plan->height * plan->width, "plan.c", "where an erased box ends");
    }
    if (launched[0] == MIX_KERNEL && entry[3] != entry[4]) {
        const int64_t box[4] = {entry[3], entry[5], entry[4] - entry[3], entry[6] - entry[5]};
        check(holds(plan->height, plan->width, box), "plan.c", "a pasted box");
    }
}

/* With memory of exact size for all that is written; what the library says of it. */
static int planned(Planning *planning, bool is_hashed) {
    Plan *plan = &planning->plan;
    const int fault = replay_plan_room(plan);
    if (fault != FINE) return fault;
    plan->buffer = calloc((size_t)plan->room, 1);
    plan->launches = room(LAUNCH_FIELDS * plan->most_launches, sizeof(int64_t));
    plan->sides = room(4 * plan->num, sizeof(int64_t));
    if (!plan->buffer) abort();
    Workspace *workspace = opened();
    check(replay_plan(workspace, plan) == FINE, "plan.c", "whether a plan has the room that it asks for");
    replay_close(workspace);
    check(plan->num_bytes <= plan->room && plan->num_launches <= plan->most_launches, "plan.c", "a plan's size");
    for (int64_t i = 0; i < plan->num_launches; i++) {
        const int64_t *launched = plan->launches + LAUNCH_FIELDS * i;
        const int64_t size = launched[4] * num_fields((enum kernel)launched[0]) * (int64_t)sizeof(int64_t);
        check(launched[3] % ALIGNED == 0 && launched[3] + size <= plan->num_bytes, "plan.c", "entries of a launch");
        for (int64_t number = 0; number < launched[4]; number++) check_entry(planning, launched, number);
    }
    if (is_hashed) {
        add_to_hash(plan->buffer, (size_t)plan->num_bytes);
        add_to_hash(plan->launches, (size_t)(LAUNCH_FIELDS * plan->num_launches) * sizeof(int64_t));
        add_to_hash(plan->sides, (size_t)(4 * plan->num) * sizeof(int64_t));
    }
    free(plan->buffer), free(plan->launches), free(plan->sides);
    return FINE;
}

/* Any numbers at all; which of them can be planned, is_sound_plan says. */
static void scramble(Planning *planning) {
    Plan *plan = &planning->plan;
    int64_t *const fields[] = {planning->numbers, planning->offsets, planning->parts,  planning->crops, planning->resized,
                               planning->windows, planning->erased,  planning->runs, planning->partners, planning->operations};
    const int64_t sizes[] = {1, 1, 4, 4, 2, 4, 4, MOST_RUNS, 1, 1};
    for (int64_t left = between(1, 3); left > 0; left--) {
        const int64_t field = between(0, 13);
        if (field < 10) {
            const int64_t place = between(0, sizes[field] - 1);
            fields[field][place] = nasty_integer();
        } else if (field == 10) planning->values[0] = nasty_real();
        else if (field == 11) planning->boxes[between(0, 3)] = (int32_t)nasty_integer();
        else if (field == 12) plan->height = nasty_integer();
        else if (one_of(2)) plan->num = plan->num_views + 1;
    }
}

static void fuzz_plans(void) {
    Planning planning;
    random_planning(&planning);
    check(planned(&planning, true) == FINE, "plan.c", "whether a sound plan is made");
    scramble(&planning);
    planned(&planning, false);
}

int main(int num_words, char **words) {
    const uint64_t num_rounds = num_words > 1 ? strtoull(words[1], NULL, 10) : 300;
    seed = num_words > 2 ? strtoull(words[2], NULL, 10) : 7;
    for (round_number = 0; round_number < num_rounds; round_number++) {
        state = seed * 0xD1342543DE82EF95 + round_number;
        fuzz_drawing();
        fuzz_pairs();
        fuzz_plans();
    }
    printf("%llu rounds of seed %llu: %016llx\n", (unsigned long long)num_rounds, (unsigned long long)seed,
           (unsigned long long)hashed);
    return 0;
}
