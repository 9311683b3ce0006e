/* Views from decoded pictures, to the bytes of the pixel specification: teacher_cache/replay/{resample,geometry,colour,
 * erase,mix}.py say what every number here means. Pictures and views are rows of RGB bytes without gaps. */

#ifndef REPLAY_H
#define REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define PUBLIC __declspec(dllexport)
#else
#define PUBLIC __attribute__((visibility("default")))
#endif

enum fault { FINE, NO_MEMORY, OUT_OF_BOUNDS }; /* what calls return */
enum { BICUBIC, BILINEAR };
enum { MOST_SIDE = 8192 }; /* of a view */
/* A PNG may be longer than a JPEG, and a centre of a thin picture is cut out of a far longer one. */
enum { MOST_PICTURE_SIDE = 1 << 24 };
enum { TAP_BITS = 14, ROTATED_BITS = 12, PHASES = 256 };

/* In the order of params.NAMES. */
enum operation {
    NONE = -1,
    AUTOCONTRAST, EQUALIZE, INVERT, POSTERIZE, SOLARIZE, SOLARIZE_ADD,
    BRIGHTNESS, CONTRAST, COLOR, SHARPNESS, HUE,
    ROTATE, SHEAR_X, SHEAR_Y, TRANSLATE_X, TRANSLATE_Y,
    OPERATIONS
};

enum erase_mode { ERASE_CONST, ERASE_PIXEL, ERASE_RAND };

/* What one side of a picture is resized with: result x is the sum over taps of level[first[x] + tap] times
 * weights[x * padded + tap], plus 2**(bits - 1), >> bits. All taps are in 2 * pairs; padded is a multiple of 4, and what
 * lies beyond a result's own taps has no weight. */
typedef struct {
    int64_t size_in, size_out;
    int interpolation;
    int bits, pairs, padded;
    int32_t *first;
    int16_t *weights;
    size_t num_bytes;
} Weights;

/* A view's line (row or column) and where it moves: whole pixels, the places whose source is inside, four taps. */
typedef struct {
    int64_t whole, first, last;
    int16_t taps[4];
} Line;

/* Taps of a rotation by phase; down has each tap four times, for the channels of a pixel. */
typedef struct {
    int16_t across[PHASES][4];
    int32_t down[PHASES][16];
} PhaseTaps;

/* A row of a rotated view: places in the source in units of 2**-16, from the first pixel on. */
typedef struct {
    int32_t x, y, step_x, step_y;
} Places;

/* What takes most of the time, once for each set of instructions. */
typedef struct {
    const char *name;
    /* Four rows of a picture, of which bytes_after may be read beyond the last pixel with a weight, resized across:
     * results left..left + width - 1, mirrored or not. WRITTEN_BESIDE bytes before and after a row's results may be written, too. */
    void (*resize_across)(const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights, int64_t left,
                          int64_t width, bool flip);
    /* The weighted sum of rows, plus round, >> bits, clipped. Reads and writes num_bytes of each, no more. */
    void (*weigh_rows)(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round, int bits,
                       uint8_t *to, ptrdiff_t num_bytes);
    /* 32 bytes of each row of a view: place y is the sum of `window` rows from y + first on, clamped to the view, times
     * weights[row][byte], >> TAP_BITS, clipped. window is even, at most WINDOW. */
    void (*weigh_columns)(const uint8_t *from, uint8_t *to, int64_t height, ptrdiff_t stride, int64_t first, int window,
                          const int16_t (*weights)[32]);
    /* Pixels of a row whose sources are all inside. bordered: the place of source (0, 0). */
    void (*rotate_row)(const uint8_t *bordered, ptrdiff_t stride, const PhaseTaps *taps, Places places, uint8_t *to,
                       int64_t num_pixels);
    void (*look_up)(uint8_t *pixels, int64_t num_pixels, const uint8_t tables[3][256]);
    void (*invert)(uint8_t *levels, int64_t num);
    void (*posterize)(uint8_t *levels, int64_t num, uint8_t mask);
    void (*solarize)(uint8_t *levels, int64_t num, int threshold);
    void (*solarize_add)(uint8_t *levels, int64_t num, uint8_t added);
    void (*extremes)(const uint8_t *pixels, int64_t num_pixels, uint8_t low[3], uint8_t high[3]);
    int64_t (*sum_grey)(const uint8_t *pixels, int64_t num_pixels);
    void (*blend_with_grey)(uint8_t *pixels, int64_t num_pixels, int32_t factor);
    /* step: what is added to a hue of 8 bits, which wraps around. */
    void (*shift_hue)(uint8_t *pixels, int64_t num_pixels, int step);
    /* One inner row: above, own and below, the result's row; the first and the last pixel stay. */
    void (*sharpen_row)(const uint8_t *above, const uint8_t *own, const uint8_t *below, uint8_t *to, int64_t width,
                        int32_t factor);
    /* Each with the other, by an even share of 65536. */
    void (*blend_pair)(uint8_t *a, uint8_t *b, int64_t num, int32_t share);
} Kernels;

enum { WINDOW = 8 };      /* most rows of weigh_columns */
enum { WRITTEN_BESIDE = 4 };
enum { READ_AFTER = 16 }; /* bytes that resize_across may read after the last pixel with a weight, at most */

extern const Kernels plain_kernels;
void look_up_singly(uint8_t *pixels, int64_t num_pixels, const uint8_t tables[3][256]);
#if defined(__x86_64__) || defined(_M_X64)
#define HAVE_X86 1
extern const Kernels sse41_kernels, avx2_kernels, avx512_kernels;
void avx2_resize_across(const uint8_t *const rows[4], uint8_t *const to[4], const Weights *weights, int64_t left,
                        int64_t width, bool flip);
void avx2_weigh_rows(const uint8_t *const *rows, const int16_t *weights, int taps, int32_t round, int bits, uint8_t *to,
                     ptrdiff_t num_bytes);
void avx2_weigh_columns(const uint8_t *from, uint8_t *to, int64_t height, ptrdiff_t stride, int64_t first, int window,
                        const int16_t (*weights)[32]);
void avx2_rotate_row(const uint8_t *bordered, ptrdiff_t stride, const PhaseTaps *taps, Places places, uint8_t *to,
                     int64_t num_pixels);
#elif defined(__aarch64__)
#define HAVE_NEON 1
extern const Kernels neon_kernels;
#endif

/* What this was compiled with, the most demanding first, then NULL; and the first that this processor has. */
extern const Kernels *const all_kernels[];
const Kernels *best_kernels(void);

/* Memory that one thread uses again and again. */
typedef struct Workspace Workspace;

typedef struct {
    uint8_t *memory;
    size_t size;
} Scratch;

struct Workspace {
    const Kernels *kernels;
    Weights **known; /* by hash, open addressing */
    size_t num_known, num_places, known_bytes;
    Scratch across, edge, view, bordered, lines, fill_row, numbers;
    PhaseTaps *phases[2];
};

/* The first source pixel of a result's place, the one after its last, and the centre among them. */
typedef struct {
    int64_t first, beyond;
    double centre;
} Tapped;
Tapped tapped(int64_t size_in, int64_t size_out, int64_t place, int interpolation);

/* At least num_bytes, aligned to 64, with what is in it lost; NULL without memory. */
uint8_t *scratch(Scratch *held, size_t num_bytes);

/* NULL without memory. Valid until the next call of forget_weights. */
const Weights *find_weights(Workspace *workspace, int64_t size_in, int64_t size_out, int interpolation);
void forget_weights(Workspace *workspace, size_t budget_bytes);

/* Parts of a picture, resized; false without memory. */
typedef struct {
    const uint8_t *pixels;
    int64_t height, width;
    int64_t crop[4], resized[2], window[4]; /* top, left, height, width */
    int interpolation;
    bool flip;
} Resizing;
bool resize(Workspace *workspace, const Resizing *resizing, uint8_t *to);

/* Of a whole view; `from` and `to` are different memory. */
typedef struct {
    int64_t height, width;
    int interpolation;
    uint8_t fill[3];
} Shape;
bool move_view(Workspace *workspace, enum operation operation, double value, const Shape *shape, const uint8_t *from,
               uint8_t *to);
bool rotate_view(Workspace *workspace, double degrees, const Shape *shape, const uint8_t *from, uint8_t *to);
void sharpen(const Kernels *kernels, double factor, const Shape *shape, const uint8_t *from, uint8_t *to);
void recolour(const Kernels *kernels, enum operation operation, double value, uint8_t *pixels, int64_t num_pixels);
bool is_sound_operation(int64_t operation, double value);
void level_table(enum operation operation, double value, uint8_t table[256]); /* of one that knows no other pixel */
int hue_step(double shift);
/* A line of size pixels whose source is its place + shift. */
Line line_moved(double shift, int64_t size, int interpolation);
/* Steps of a source along a row and a column, and the first pixel's, as geometry.py: x, then y. */
void rotation_steps(double degrees, int64_t height, int64_t width, int32_t steps[2][3]);
void integer_taps(double fraction, int interpolation, int bits, int16_t taps[4]);

/* A box of a view, filled; first_word: how many words of the stream boxes before it have used. The words used. */
int64_t erase_box(uint8_t *view, int64_t width, const int64_t box[4], enum erase_mode mode, const uint8_t fill[3],
                  const uint8_t *noise, const uint64_t stream[4], int64_t first_word);

/* A real as a whole number of 2**-20; what `round` of Python gives. */
static inline double rounded(double value) { return __builtin_nearbyint(value); }

static inline uint8_t clipped(int32_t level) { return (uint8_t)(level < 0 ? 0 : level > 255 ? 255 : level); }

/* Whether a box, its top, left, height and width, has pixels and lies in a picture. */
static inline bool holds(int64_t height, int64_t width, const int64_t box[4]) {
    return box[0] >= 0 && box[1] >= 0 && box[2] > 0 && box[3] > 0 && box[2] <= height && box[3] <= width &&
           box[0] <= height - box[2] && box[1] <= width - box[3];
}

static inline int64_t clamped(int64_t place, int64_t size) {
    return place < 0 ? 0 : place >= size ? size - 1 : place;
}

#endif
