/* Heads between the rows of a linear and attention: their layout, and rotary positions. */
#include "pool.h"

#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { ROWS_AT_ONCE = 16 };

typedef struct Turning {
    const float *x, *cosine, *sine;
    float *y;
    int64_t x_head, x_row, y_head, y_row;
    int64_t heads, rows, width, start, pairs;
    int interleaved;
    float sign;
} Turning;

/* Pairs (i, i + pairs). */
static void turn_halves(const float *restrict x, const float *restrict cosine,
                        const float *restrict sine, int64_t pairs, float sign, float *restrict y) {
    for (int64_t i = 0; i < pairs; i++) {
        const float s = sign * sine[i];
        y[i] = x[i] * cosine[i] - x[i + pairs] * s;
        y[i + pairs] = x[i + pairs] * cosine[i] + x[i] * s;
    }
}

/* Pairs (2 i, 2 i + 1). */
static void turn_neighbours(const float *restrict x, const float *restrict cosine,
                            const float *restrict sine, int64_t pairs, float sign,
                            float *restrict y) {
    for (int64_t i = 0; i < pairs; i++) {
        const float s = sign * sine[i];
        y[2 * i] = x[2 * i] * cosine[i] - x[2 * i + 1] * s;
        y[2 * i + 1] = x[2 * i + 1] * cosine[i] + x[2 * i] * s;
    }
}

static void turn_one(const Turning *t, int64_t row, int64_t head) {
    const float *x = t->x + head * t->x_head + row * t->x_row;
    float *y = t->y + head * t->y_head + row * t->y_row;
    const int64_t end = t->start + 2 * t->pairs;
    memcpy(y, x, (size_t)t->start * sizeof *x);
    memcpy(y + end, x + end, (size_t)(t->width - end) * sizeof *x);
    const float *cosine = t->cosine + row * t->pairs, *sine = t->sine + row * t->pairs;
    if (t->interleaved)
        turn_neighbours(x + t->start, cosine, sine, t->pairs, t->sign, y + t->start);
    else
        turn_halves(x + t->start, cosine, sine, t->pairs, t->sign, y + t->start);
}

static void turn_some(void *argument, size_t index) {
    const Turning *t = argument;
    const int64_t first = (int64_t)index * ROWS_AT_ONCE;
    for (int64_t row = first; row < t->rows && row < first + ROWS_AT_ONCE; row++)
        for (int64_t head = 0; head < t->heads; head++) turn_one(t, row, head);
}

/* y[head][row] = x[head][row], features [start, start + 2 pairs) turned by `cosine` and `sine`
   [rows][pairs], the other way with `back`. Heads and rows of x are x_head and x_row floats from one
   another, those of y likewise; x and y share no memory. */
EXPORT const char *fluvial_turn(const float *x, int64_t x_head, int64_t x_row, const float *cosine,
                                const float *sine, int64_t heads, int64_t rows, int64_t width,
                                int64_t start, int64_t pairs, int interleaved, int back, float *y,
                                int64_t y_head, int64_t y_row) {
    if (heads < 0 || rows < 0 || width < 1 || start < 0 || pairs < 0 || start > width ||
        pairs > (width - start) / 2)
        return "what turns must be inside of a head";
    Turning turning = {x,     cosine, sine, y,     x_head, x_row,       y_head,        y_row,
                       heads, rows,   width, start, pairs,  interleaved, back ? -1 : 1};
    pool_run(turn_some, &turning, (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE);
    return NULL;
}
