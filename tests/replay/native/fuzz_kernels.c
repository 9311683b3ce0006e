/* Holds every set of kernels that the processor has to plain's bytes, and what Python calls to its bounds.
 *
 *     fuzz_kernels [ROUNDS [SEED]]
 *
 * ends with 1 at the first difference, having said what differed and in which round of which seed. Compiled with
 * -fsanitize=address,undefined it ends at the first byte read or written out of bounds, too. */

#include "fuzz.h"
#include "hue.h"
#include "views.c" /* with its types and its bounds, which no header shows */

/* ---- a kernel each: plain's bytes, then those of another set ---- */

static void fuzz_weigh_rows(const Kernels *kernels) {
    enum { MOST_TAPS = 40 };
    const int64_t num_bytes = one_of(4) ? between(0, 3000) : between(0, 200);
    const int taps = (int)between(1, MOST_TAPS), bits = (int)between(10, 22);
    Buffer levels = random_levels(num_bytes + 3 * taps);
    int16_t *weights = malloc((size_t)taps * sizeof *weights); /* no more, for what is read in pairs */
    if (!weights) abort();
    const uint8_t *rows[MOST_TAPS];
    const bool is_line = one_of(2); /* rows that are one, moved by a pixel each */
    Buffer singly[MOST_TAPS];
    for (int tap = 0; tap < taps; tap++) {
        weights[tap] = (int16_t)(between(-32768, 32767) / (one_of(2) ? 1 : taps));
        if (!is_line) singly[tap] = random_levels(num_bytes);
        rows[tap] = is_line ? levels.bytes + 3 * tap : singly[tap].bytes;
    }
    const int32_t round = one_of(2) ? 0 : 1 << (bits - 1);
    Buffer expected = new_buffer(num_bytes), actual = new_buffer(num_bytes);
    plain_kernels.weigh_rows(rows, weights, taps, round, bits, expected.bytes, num_bytes);
    kernels->weigh_rows(rows, weights, taps, round, bits, actual.bytes, num_bytes);
    check_equal(&expected, &actual, kernels->name, "weigh_rows");
    for (int tap = 0; tap < taps && !is_line; tap++) free_buffer(&singly[tap]);
    free(weights), free_buffer(&levels), free_buffer(&expected);
}

/* Weights that no resizing has, but whose sums fit; their first pixels go on as those of a resizing do. */
static Weights *random_weights(int64_t size_out) {
    Weights *made = calloc(1, sizeof *made);
    if (!made) abort();
    made->size_out = size_out;
    made->padded = 4 * (int)(one_of(3) ? between(1, 20) : between(1, 4));
    made->pairs = made->padded / 2 - (int)between(0, 1);
    made->bits = (int)between(12, 22);
    made->first = malloc((size_t)size_out * sizeof *made->first);
    made->weights = malloc((size_t)(size_out * made->padded) * sizeof *made->weights);
    if (!made->first || !made->weights) abort();
    int32_t first = 0;
    for (int64_t x = 0; x < size_out; x++) {
        made->first[x] = first;
        first += (int32_t)between(0, 4);
        for (int tap = 0; tap < made->padded; tap++)
            made->weights[x * made->padded + tap] = (int16_t)(tap < 2 * made->pairs ? between(-32768, 32767) : 0);
    }
    made->size_in = made->first[size_out - 1] + made->padded;
    return made;
}

static int64_t random_size(void) { return one_of(5) ? between(1, 1200) : between(1, 90); }

static void fuzz_resize_across(const Kernels *kernels) {
    Workspace workspace = {.kernels = kernels};
    const bool is_real = one_of(2);
    Weights *invented = is_real ? NULL : random_weights(between(1, 90));
    const Weights *weights =
        is_real ? find_weights(&workspace, random_size(), random_size(), (int)between(BICUBIC, BILINEAR)) : invented;
    if (!weights) abort();
    const int64_t left = between(0, weights->size_out - 1), width = between(1, weights->size_out - left);
    const int64_t readable = 3 * ((int64_t)weights->first[left + width - 1] + weights->padded) + READ_AFTER;
    const bool flip = one_of(2);
    Buffer from[4], expected[4], actual[4];
    const uint8_t *rows[4];
    uint8_t *to[4], *to_actual[4];
    for (int row = 0; row < 4; row++) {
        from[row] = random_levels(readable), rows[row] = from[row].bytes;
        expected[row] = new_buffer(3 * width + 2 * WRITTEN_BESIDE), to[row] = expected[row].bytes + WRITTEN_BESIDE;
        actual[row] = new_buffer(3 * width + 2 * WRITTEN_BESIDE), to_actual[row] = actual[row].bytes + WRITTEN_BESIDE;
    }
    plain_kernels.resize_across(rows, to, weights, left, width, flip);
    kernels->resize_across(rows, to_actual, weights, left, width, flip);
    for (int row = 0; row < 4; row++) {
        memcpy(to_actual[row] - WRITTEN_BESIDE, to[row] - WRITTEN_BESIDE, WRITTEN_BESIDE); /* may be anything */
        memcpy(to_actual[row] + 3 * width, to[row] + 3 * width, WRITTEN_BESIDE);
        check_equal(&expected[row], &actual[row], kernels->name, "resize_across");
        free_buffer(&from[row]), free_buffer(&expected[row]);
    }
    forget_weights(&workspace, 0);
    free(workspace.known);
    if (invented) free(invented->first), free(invented->weights), free(invented);
}

static void fuzz_weigh_columns(const Kernels *kernels) {
    const int64_t height = between(1, 40), stride = between(32, 120), first = between(-height - 4, height + 4);
    const int window = 2 * (int)between(1, WINDOW / 2);
    int16_t weights[WINDOW][32];
    for (int row = 0; row < WINDOW; row++)
        for (int i = 0; i < 32; i++) weights[row][i] = (int16_t)between(-32768, 32767);
    const int64_t size = (height - 1) * stride + 32;
    Buffer from = random_levels(size), expected = new_buffer(size), actual = new_buffer(size);
    const int16_t(*given)[32] = (const int16_t(*)[32])weights;
    plain_kernels.weigh_columns(from.bytes, expected.bytes, height, stride, first, window, given);
    kernels->weigh_columns(from.bytes, actual.bytes, height, stride, first, window, given);
    check_equal(&expected, &actual, kernels->name, "weigh_columns");
    free_buffer(&from), free_buffer(&expected);
}

static void make_phases(PhaseTaps *taps, int interpolation) {
    for (int phase = 0; phase < PHASES; phase++) {
        integer_taps((double)phase / (double)PHASES, interpolation, ROTATED_BITS, taps->across[phase]);
        for (int i = 0; i < 16; i++) taps->down[phase][i] = taps->across[phase][i / 4];
    }
}

static bool is_on(int64_t place, int64_t size) { return place >= -32768 && place < size * 65536 - 32768; }

static void fuzz_rotate_row(const Kernels *kernels) {
    enum { BORDER = 2 };
    static PhaseTaps taps[2];
    if (taps[0].across[0][1] == 0) make_phases(&taps[0], BICUBIC), make_phases(&taps[1], BILINEAR);
    const int64_t height = between(1, 40), width = between(1, 40);
    const ptrdiff_t stride = 3 * (width + 2 * BORDER);
    const Places places = {
        .x = (int32_t)between(-32768, width * 65536 - 32769),
        .y = (int32_t)between(-32768, height * 65536 - 32769),
        .step_x = (int32_t)between(-65536, 65536),
        .step_y = (int32_t)between(-65536, 65536),
    };
    int64_t num = 0;
    const int64_t most = between(1, 100);
    while (num < most && is_on(places.x + num * places.step_x, width) && is_on(places.y + num * places.step_y, height))
        num++;
    Buffer from = random_levels((height + 2 * BORDER) * stride + READ_AFTER);
    Buffer expected = new_buffer(3 * num), actual = new_buffer(3 * num);
    const uint8_t *origin = from.bytes + BORDER * stride + 3 * BORDER;
    const PhaseTaps *given = &taps[between(BICUBIC, BILINEAR)];
    plain_kernels.rotate_row(origin, stride, given, places, expected.bytes, num);
    kernels->rotate_row(origin, stride, given, places, actual.bytes, num);
    check_equal(&expected, &actual, kernels->name, "rotate_row");
    free_buffer(&from), free_buffer(&expected);
}

static int32_t random_factor(void) { return (int32_t)between(-8 * 4096, 8 * 4096); }

/* What changes the levels of pixels where they lie. */
static void fuzz_levels(const Kernels *kernels) {
    const int64_t num_pixels = one_of(4) ? between(1, 5000) : between(1, 150), num = 3 * num_pixels;
    uint8_t tables[3][256];
    for (int i = 0; i < 3 * 256; i++) tables[i / 256][i % 256] = (uint8_t)random_word();
    const uint8_t mask = (uint8_t)random_word(), added = (uint8_t)between(0, 128);
    const int threshold = (int)between(-3, 258);
    const int32_t factor = random_factor();
    static const char *const names[] = {"look_up",      "invert",          "posterize", "solarize",
                                        "solarize_add", "blend_with_grey"};
    Buffer from = random_levels(num);
    for (size_t which = 0; which < sizeof names / sizeof *names; which++) {
        Buffer results[2] = {copied(&from), copied(&from)};
        for (int result = 0; result < 2; result++) {
            const Kernels *by = result ? kernels : &plain_kernels;
            uint8_t *levels = results[result].bytes;
            switch (which) {
            case 0: by->look_up(levels, num_pixels, (const uint8_t(*)[256])tables); break;
            case 1: by->invert(levels, num); break;
            case 2: by->posterize(levels, num, mask); break;
            case 3: by->solarize(levels, num, threshold); break;
            case 4: by->solarize_add(levels, num, added); break;
            default: by->blend_with_grey(levels, num_pixels, factor);
            }
        }
        check_equal(&results[0], &results[1], kernels->name, names[which]);
        free_buffer(&results[0]);
    }
    uint8_t extremes[2][2][3];
    plain_kernels.extremes(from.bytes, num_pixels, extremes[0][0], extremes[0][1]);
    kernels->extremes(from.bytes, num_pixels, extremes[1][0], extremes[1][1]);
    check(memcmp(extremes[0], extremes[1], sizeof extremes[0]) == 0, kernels->name, "extremes");
    check(plain_kernels.sum_grey(from.bytes, num_pixels) == kernels->sum_grey(from.bytes, num_pixels), kernels->name,
          "sum_grey");
    free_buffer(&from);
}

/* A hue's shift by divisions of whole numbers, as they are written in colour.py and Pillow. */
static void shift_singly(uint8_t pixel[3], int step) {
    const int red = pixel[0], green = pixel[1], blue = pixel[2];
    int value = red > green ? red : green, least = red < green ? red : green;
    if (blue > value) value = blue;
    if (blue < least) least = blue;
    const int chroma = value - least;
    int sixths = red == value     ? green - blue
                 : green == value ? 2 * chroma + blue - red
                                  : 4 * chroma + red - green;
    if (sixths < 0) sixths += 6 * chroma;
    const int hue = ((chroma ? 255 * sixths / (6 * chroma) : 0) + step) & 255;
    const int saturation = value ? 255 * chroma / value : 0;
    const int within = 6 * hue % 255, sextant = 6 * hue / 255 % 6;
    const uint8_t bottom = (uint8_t)((2 * value * (255 - saturation) + 255) / 510);
    const uint8_t falling = (uint8_t)((2 * value * (65025 - saturation * within) + 65025) / 130050);
    const uint8_t rising = (uint8_t)((2 * value * (65025 - saturation * (255 - within)) + 65025) / 130050);
    const uint8_t top = (uint8_t)value;
    const uint8_t shifted[6][3] = {{top, rising, bottom}, {falling, top, bottom}, {bottom, top, rising},
                                   {bottom, falling, top}, {rising, bottom, top}, {top, bottom, falling}};
    memcpy(pixel, shifted[sextant], 3);
}

static void fuzz_hues(const Kernels *kernels) {
    const int64_t num_pixels = between(1, 300);
    const int step = (int)between(0, 255);
    Buffer expected = random_levels(3 * num_pixels), actual = copied(&expected);
    for (int64_t i = 0; i < num_pixels; i++) shift_singly(expected.bytes + 3 * i, step);
    kernels->shift_hue(actual.bytes, num_pixels, step);
    check_equal(&expected, &actual, kernels->name, "shift_hue");
    free_buffer(&expected);
}

/* Of every quotient of a hue, in floats and in whole numbers. */
static void check_quotients(void) {
    for (int32_t chroma = 1; chroma < 256; chroma++) {
        for (int32_t sixths = 0; sixths < 6 * chroma; sixths++)
            check(hue_of(sixths, chroma) == 255 * sixths / (6 * chroma), "hue.h", "hue_of");
        for (int32_t value = chroma; value < 256; value++)
            check(saturation_of(chroma, value) == 255 * chroma / value, "hue.h", "saturation_of");
    }
    for (int32_t value = 0; value < 256; value++) {
        check(hue_of(0, 0) == 0 && saturation_of(0, value) == 0, "hue.h", "a grey's hue");
        for (int32_t saturation = 0; saturation < 256; saturation++)
            for (int32_t away = 0; away < 256; away++) {
                const int32_t rounded_level = (2 * value * (65025 - saturation * away) + 65025) / 130050;
                check(level_away(value, saturation, away) == rounded_level, "hue.h", "level_away");
            }
    }
}

static void fuzz_sharpen_row(const Kernels *kernels) {
    const int64_t width = one_of(4) ? between(3, 900) : between(3, 90);
    const int32_t factor = random_factor();
    Buffer rows[3] = {random_levels(3 * width), random_levels(3 * width), random_levels(3 * width)};
    Buffer expected = new_buffer(3 * width), actual = new_buffer(3 * width);
    plain_kernels.sharpen_row(rows[0].bytes, rows[1].bytes, rows[2].bytes, expected.bytes, width, factor);
    kernels->sharpen_row(rows[0].bytes, rows[1].bytes, rows[2].bytes, actual.bytes, width, factor);
    check_equal(&expected, &actual, kernels->name, "sharpen_row");
    for (int row = 0; row < 3; row++) free_buffer(&rows[row]);
    free_buffer(&expected);
}

static void fuzz_blend_pair(const Kernels *kernels) {
    const int64_t num = between(1, 700);
    const int32_t share = 2 * (int32_t)between(0, 32768);
    Buffer a = random_levels(num), b = random_levels(num), other_a = copied(&a), other_b = copied(&b);
    plain_kernels.blend_pair(a.bytes, b.bytes, num, share);
    kernels->blend_pair(other_a.bytes, other_b.bytes, num, share);
    check_equal(&a, &other_a, kernels->name, "blend_pair");
    check_equal(&b, &other_b, kernels->name, "blend_pair");
    free_buffer(&a), free_buffer(&b);
}

/* ---- what Python calls ---- */

enum { LONG_SIDE = 1 << 17, MOST_OPERATIONS = 4, MOST_BOXES = 3, NUM_NOISE = 3 * 65536 };

/* One view and where its numbers lie. */
typedef struct {
    Views views;
    Picture picture;
    int64_t crop[4], resized[2], window[4], operations[MOST_OPERATIONS], erased[MOST_BOXES][4];
    double values[MOST_OPERATIONS];
    uint64_t stream[4];
    uint8_t flip;
    bool has_noise;
} Given;

static uint8_t noise[NUM_NOISE];

/* Sides shorter than most, rarely longer. */
static int64_t random_side(int64_t most) { return one_of(6) ? between(1, most) : between(1, most < 60 ? most : 60); }

/* As long as may be, and narrow. */
static void stretch(int64_t *height, int64_t *width, int64_t most) {
    *height = one_of(2) ? most : between(1, 3);
    *width = *height == most ? between(1, 3) : most;
}

static void point(Given *given) {
    Views *views = &given->views;
    views->crops = given->crop, views->resized = given->resized, views->windows = given->window;
    views->flips = &given->flip, views->operations = given->operations, views->values = given->values;
    views->erased = given->erased[0], views->noise_streams = given->stream;
    views->noise = given->has_noise ? noise : NULL;
}

/* A sound view; its pixels lie in a buffer of exact size. */
static Given random_view(Buffer *pixels) {
    Given given = {.views = {.num = 1,
                             .height = random_side(300),
                             .width = random_side(300),
                             .most_operations = between(0, MOST_OPERATIONS),
                             .most_boxes = between(0, MOST_BOXES),
                             .interpolation = between(BICUBIC, BILINEAR),
                             .geometry = between(BICUBIC, BILINEAR),
                             .erase_mode = between(ERASE_CONST, ERASE_RAND),
                             .fill = {(uint8_t)random_word(), (uint8_t)random_word(), (uint8_t)random_word()}},
                   .picture = {.height = random_side(600), .width = random_side(600)},
                   .flip = (uint8_t)between(0, 1),
                   .has_noise = true};
    Views *views = &given.views;
    if (one_of(40)) stretch(&views->height, &views->width, MOST_SIDE);
    if (one_of(40)) stretch(&given.picture.height, &given.picture.width, LONG_SIDE);
    *pixels = random_levels(3 * given.picture.height * given.picture.width);
    given.picture.pixels = pixels->bytes;
    random_box(given.picture.height, given.picture.width, given.crop);
    if (one_of(4)) { /* at the picture's end */
        given.crop[0] = given.picture.height - given.crop[2];
        given.crop[1] = given.picture.width - given.crop[3];
    }
    const int64_t margin = one_of(40) ? LONG_SIDE - MOST_SIDE : 50;
    given.resized[0] = views->height + (one_of(2) ? 0 : between(0, margin));
    given.resized[1] = views->width + (one_of(2) ? 0 : between(0, margin));
    given.window[2] = views->height, given.window[3] = views->width;
    given.window[0] = between(0, given.resized[0] - views->height);
    given.window[1] = between(0, given.resized[1] - views->width);
    for (int64_t i = 0; i < views->most_operations; i++) {
        given.operations[i] = between(NONE, OPERATIONS - 1); /* NONE also between others */
        given.values[i] = given.operations[i] == NONE ? 0.0 : random_value(given.operations[i]);
    }
    for (int64_t i = 0; i < views->most_boxes; i++)
        if (!one_of(3)) random_box(views->height, views->width, given.erased[i]);
    for (int i = 0; i < 4; i++) given.stream[i] = random_word();
    return given;
}

static int rendered(Workspace *workspace, Given *given, int64_t number, uint8_t *to) {
    point(given);
    return replay_render(workspace, &given->views, number, given->picture.pixels, given->picture.height,
                         given->picture.width, to);
}

static void fuzz_views(Workspace *plain, Workspace *other) {
    Buffer pixels;
    Given given = random_view(&pixels);
    const int64_t size = 3 * given.views.height * given.views.width;
    Buffer expected = new_buffer(size), actual = new_buffer(size);
    const char *name = replay_kernels(other);
    check(rendered(plain, &given, 0, expected.bytes) == FINE, "plain", "whether a sound view is rendered");
    check(rendered(other, &given, 0, actual.bytes) == FINE, name, "whether a sound view is rendered");
    check_equal(&expected, &actual, name, "a whole view");
    free_buffer(&expected), free_buffer(&pixels);
}

/* One number of a view for which there is no such view. The memory that is written is as large as the view says, and
 * the memory that is read as the picture says: of these sides nobody but the caller knows. */
static bool break_view(Given *given, int64_t *number) {
    Views *views = &given->views;
    const double sides[] = {NAN, INFINITY, -INFINITY, 360.5, -1e300};
    const int64_t half = between(0, 1), far = one_of(2) ? INT64_MAX : between(1, 1000);
    const int64_t operation = between(0, MOST_OPERATIONS - 1);
    switch (between(0, 22)) {
    case 0: *number = one_of(2) ? 1 : INT64_MIN + far; return true;
    case 1: *number = -far; return true;
    case 2: given->crop[half] = -far; return true;
    case 3: given->crop[2 + half] = between(-2, 0); return true;
    case 4: given->crop[0] = given->picture.height - given->crop[2] + 1 + far % 1000; return true;
    case 5: given->crop[3] = given->picture.width - given->crop[1] + 1 + far % 1000; return true;
    case 6: given->crop[half] = INT64_MAX, given->crop[2 + half] = INT64_MAX; return true;
    case 7: given->resized[half] = between(-3, 0); return true;
    case 8: given->resized[half] = MOST_PICTURE_SIDE + far % 1000 + 1; return true;
    case 9: given->window[half] = given->resized[half] - given->window[2 + half] + 1; return true;
    case 10: given->window[half] = -far; return true;
    case 11: given->window[2 + half] += one_of(2) ? 1 : -1; return true;
    case 12: views->interpolation = one_of(2) ? 2 : nasty_integer() | 4; return true;
    case 13: views->geometry = one_of(2) ? -1 : nasty_integer() | 4; return true;
    case 14: views->erase_mode = one_of(2) ? 3 : nasty_integer() | 4; return true;
    case 15: views->most_operations = -far; return true;
    case 16: views->most_boxes = -far; return true;
    case 17:
        views->most_operations = MOST_OPERATIONS;
        given->operations[operation] = one_of(2) ? OPERATIONS : one_of(2) ? NONE - far : (1ll << 32) + ROTATE;
        return true;
    case 18:
        views->most_operations = MOST_OPERATIONS;
        given->operations[operation] = between(0, OPERATIONS - 1), given->values[operation] = sides[between(0, 4)];
        return true;
    case 19:
        views->most_operations = MOST_OPERATIONS;
        given->operations[operation] = one_of(2) ? COLOR : SHARPNESS;
        given->values[operation] = one_of(2) ? 8.01 : -8.01;
        return true;
    case 20:
        views->most_boxes = MOST_BOXES;
        random_box(views->height, views->width, given->erased[0]);
        given->erased[0][half] = given->erased[0][2 + half] = one_of(2) ? INT64_MAX : 8192;
        return true;
    case 21:
        views->most_boxes = MOST_BOXES, views->erase_mode = one_of(2) ? ERASE_PIXEL : ERASE_RAND;
        random_box(views->height, views->width, given->erased[MOST_BOXES - 1]);
        given->has_noise = false;
        return true;
    default:
        views->most_boxes = MOST_BOXES;
        random_box(views->height, views->width, given->erased[1]);
        given->erased[1][one_of(2) ? half : 2 + half] = -far;
        return true;
    }
}

/* Any numbers at all; which of them are a view, is_sound says. */
static void scramble(Given *given, int64_t *number) {
    int64_t *const fields[] = {given->crop, given->resized, given->window, given->operations, given->erased[0]};
    const int64_t sizes[] = {4, 2, 4, MOST_OPERATIONS, 4 * MOST_BOXES};
    for (int64_t left = between(1, 4); left > 0; left--) {
        const int64_t field = between(0, 9);
        if (field < 5) fields[field][between(0, sizes[field] - 1)] = nasty_integer();
        else if (field == 5) given->values[between(0, MOST_OPERATIONS - 1)] = nasty_real();
        else if (field == 6) given->views.interpolation = nasty_integer();
        else if (field == 7) given->views.geometry = nasty_integer();
        else if (field == 8) given->views.erase_mode = nasty_integer();
        else if (one_of(4)) *number = nasty_integer();
    }
}

static bool is_untouched(const Buffer *buffer) {
    for (size_t i = 0; i < buffer->size; i++)
        if (buffer->bytes[i] != GUARD) return false;
    return true;
}

static void fuzz_unsound_views(Workspace *workspace) {
    Buffer pixels;
    Given given = random_view(&pixels);
    Buffer to = new_buffer(3 * given.views.height * given.views.width);
    const char *name = replay_kernels(workspace);
    int64_t number = 0;
    const bool is_broken = one_of(2) && break_view(&given, &number);
    if (!is_broken) scramble(&given, &number);
    const int fault = rendered(workspace, &given, number, to.bytes);
    check(fault == OUT_OF_BOUNDS || (fault == FINE && !is_broken), name, "whether an unsound view is refused");
    check(fault == FINE || is_untouched(&to), name, "what a refusal leaves");
    check_guards(&to, name, "an unsound view");
    free_buffer(&to), free_buffer(&pixels);
}

enum { MOST_VIEWS = 6 };

/* Views, who is mixed with whom, and how. */
typedef struct {
    int64_t num, height, width, partners[MOST_VIEWS];
    uint32_t lambdas[MOST_VIEWS];
    int32_t boxes[MOST_VIEWS][4];
} Mixing;

static Mixing random_mixing(void) {
    Mixing mixing = {.num = between(0, MOST_VIEWS), .height = random_side(60), .width = random_side(60)};
    for (int64_t i = 0; i < mixing.num; i++) mixing.partners[i] = i;
    for (int64_t i = 0; i + 1 < mixing.num; i += 2) {
        const int64_t second = i + 1;
        mixing.partners[i] = second, mixing.partners[second] = i;
        int64_t box[4] = {0};
        if (one_of(2)) random_box(mixing.height, mixing.width, box);
        for (int side = 0; side < 4; side++) mixing.boxes[i][side] = mixing.boxes[second][side] = (int32_t)box[side];
        mixing.lambdas[i] = mixing.lambdas[second] = 2 * (uint32_t)between(0, 32768);
    }
    return mixing;
}

/* Of which nothing may be mixed. */
static void break_mixing(Mixing *mixing) {
    if (mixing->num < 2) *mixing = (Mixing){.num = 2, .height = 3, .width = 3, .partners = {1, 0}, .lambdas = {2, 2}};
    int32_t *box = mixing->boxes[0];
    const int half = (int)between(0, 1);
    switch (between(0, 7)) {
    case 0: mixing->partners[between(0, mixing->num - 1)] = one_of(2) ? mixing->num : nasty_integer() | 1 << 20; break;
    case 1: mixing->partners[between(0, mixing->num - 1)] = one_of(2) ? -1 : INT64_MIN; break;
    case 2: mixing->partners[0] = 1, mixing->partners[1] = 1; break;
    case 3: box[2] = 0, mixing->lambdas[0] = one_of(2) ? 65538 : UINT32_MAX; break;
    case 4: box[2] = 0, mixing->lambdas[0] = 2 * (uint32_t)between(0, 32767) + 1; break;
    case 5: box[2] = 1, box[3] = 1, box[half] = one_of(2) ? -1 : INT32_MAX; break;
    case 6: box[0] = box[1] = 0, box[2] = one_of(2) ? INT32_MAX : -1, box[3] = one_of(2) ? 0 : 1; break;
    default: *(half ? &mixing->height : &mixing->width) = one_of(2) ? INT64_MAX : between(-3, 0);
    }
}

static int mixed(const Workspace *workspace, const Mixing *mixing, Buffer views[MOST_VIEWS]) {
    uint8_t *places[MOST_VIEWS];
    for (int64_t i = 0; i < MOST_VIEWS; i++) places[i] = views[i].bytes;
    return replay_mix(workspace, mixing->num, mixing->height, mixing->width, places, mixing->partners, mixing->lambdas,
                      mixing->boxes[0]);
}

static void fuzz_mixing(const Workspace *plain, const Workspace *other) {
    Mixing mixing = random_mixing();
    Buffer expected[MOST_VIEWS], actual[MOST_VIEWS];
    for (int64_t i = 0; i < MOST_VIEWS; i++) {
        expected[i] = random_levels(3 * mixing.height * mixing.width);
        actual[i] = copied(&expected[i]);
    }
    const bool is_broken = one_of(3);
    if (is_broken) break_mixing(&mixing);
    else check(mixed(plain, &mixing, expected) == FINE, "plain", "whether a sound mixing is done");
    const int fault = mixed(other, &mixing, actual);
    check(fault == (is_broken ? OUT_OF_BOUNDS : FINE), replay_kernels(other), "whether a mixing is refused");
    for (int64_t i = 0; i < MOST_VIEWS; i++) {
        check_equal(&expected[i], &actual[i], replay_kernels(other), "mixing");
        free_buffer(&expected[i]);
    }
}

/* ---- a JPEG's intervals ---- */

int replay_find_restarts(const uint8_t *data, int64_t length, int64_t num, int64_t *starts);
int replay_join_intervals(const uint8_t *data, int64_t length, const int64_t *starts, int64_t rows, int64_t columns,
                          uint8_t *joined, int64_t num_bytes);

enum { MOST_INTERVALS_TRIED = 24 };

/* Data of num intervals with their markers; what is not sound lacks some of it, or has bytes that are not its own. */
static void fuzz_intervals(void) {
    const int64_t rows = between(1, 4), columns = between(1, MOST_INTERVALS_TRIED / 4), num = rows * columns;
    int64_t ends[MOST_INTERVALS_TRIED], length = 0;
    for (int64_t i = 0; i < num; i++) ends[i] = length += between(0, 6) + 2;
    Buffer data = new_buffer(length);
    for (int64_t i = 0; i < length; i++) data.bytes[i] = (uint8_t)between(0, 0xFE);
    for (int64_t i = 0; i < num; i++) {
        data.bytes[ends[i] - 2] = 0xFF;
        data.bytes[ends[i] - 1] = (uint8_t)(i == num - 1 ? 0xD9 : 0xD0 + i % 8);
    }
    int64_t *found = malloc((size_t)(num + 1) * sizeof(int64_t)), *chosen = malloc((size_t)(num + rows) * sizeof(int64_t));
    if (!found || !chosen) abort();
    if (one_of(3)) { /* whatever it is, nothing is read or written out of bounds */
        data.bytes[between(0, length - 1)] = one_of(2) ? 0xFF : (uint8_t)random_word();
        replay_find_restarts(data.bytes, between(0, length), between(1, num), found);
    } else {
        check(replay_find_restarts(data.bytes, length, num, found) == FINE, "restarts.c", "whether intervals are found");
        for (int64_t i = 0; i < num; i++) check(found[i + 1] == ends[i], "restarts.c", "where an interval begins");
        const int64_t first = between(0, columns - 1), end = between(first + 1, columns);
        int64_t size = 0, place = 0;
        for (int64_t row = 0; row < rows; row++) {
            for (int64_t column = first; column <= end; column++) chosen[place++] = found[row * columns + column];
            size += found[row * columns + end] - found[row * columns + first];
        }
        const bool is_broken = one_of(3);
        if (is_broken) {
            int64_t *broken = chosen + between(0, place - 1);
            *broken = one_of(2) ? INT64_MIN + between(0, 40) : *broken + (one_of(2) ? length : -length - 1);
        }
        Buffer joined = new_buffer(size);
        const int fault = replay_join_intervals(data.bytes, length, chosen, rows, end - first + 1, joined.bytes, size);
        check(fault == (is_broken ? OUT_OF_BOUNDS : FINE), "restarts.c", "whether intervals are joined");
        if (!is_broken) {
            const int64_t again = rows * (end - first);
            int64_t *of_joined = malloc((size_t)(again + 1) * sizeof(int64_t));
            if (!of_joined) abort();
            check(replay_find_restarts(joined.bytes, size, again, of_joined) == FINE && of_joined[again] == size,
                  "restarts.c", "what intervals are joined to");
            free(of_joined);
        }
        free_buffer(&joined);
    }
    free(found), free(chosen);
    free_buffer(&data);
}

/* ---- all of it ---- */

enum { MOST_SETS = 8 };

static void fuzz(Workspace *plain, Workspace *other) {
    const Kernels *kernels = other->kernels;
    fuzz_weigh_rows(kernels);
    fuzz_resize_across(kernels);
    fuzz_weigh_columns(kernels);
    fuzz_rotate_row(kernels);
    fuzz_levels(kernels);
    fuzz_hues(kernels);
    fuzz_sharpen_row(kernels);
    fuzz_blend_pair(kernels);
    fuzz_views(plain, other);
    fuzz_unsound_views(other);
    fuzz_mixing(plain, other);
    fuzz_intervals();
}

int main(int num_words, char **words) {
    const uint64_t num_rounds = num_words > 1 ? strtoull(words[1], NULL, 10) : 300;
    seed = num_words > 2 ? strtoull(words[2], NULL, 10) : 7;
    for (size_t i = 0; i < NUM_NOISE; i++) noise[i] = (uint8_t)(i * 2654435761u >> 24);
    Workspace *plain = replay_open("plain"), *others[MOST_SETS];
    size_t num_others = 0;
    for (const Kernels *const *set = all_kernels; *set; set++) {
        others[num_others] = replay_open((*set)->name);
        if (others[num_others]) printf("%s ", others[num_others]->kernels->name), num_others++;
    }
    printf("\n");
    if (!plain || replay_open("none")) return 1;
    check_quotients();
    for (round_number = 0; round_number < num_rounds; round_number++)
        for (size_t i = 0; i < num_others; i++) {
            state = seed * 0xD1342543DE82EF95 + round_number; /* of every set the same */
            fuzz(plain, others[i]);
            if (round_number % 50 == 49) { /* memory that fits what comes next, not what came before */
                const char *name = others[i]->kernels->name;
                replay_close(others[i]);
                if (!(others[i] = replay_open(name))) return 1;
            }
        }
    for (size_t i = 0; i < num_others; i++) replay_close(others[i]);
    replay_close(plain);
    printf("%llu rounds of seed %llu\n", (unsigned long long)num_rounds, (unsigned long long)seed);
    return 0;
}
