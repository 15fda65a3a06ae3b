/* A product with a packed matrix outside of any graph: what gradients are made with. */
#include "product.h"

#include "kernel.h"
#include "pool.h"

#include <stdlib.h>

typedef struct Work {
    Matrix matrix;
    const float *x;
    float *y;
    Rounded rounded;
    int64_t rows, row_step, tile_step, tile_tasks;
} Work;

enum { ROWS_AT_ONCE = 128, ROUNDED_AT_ONCE = 16, BYTES_AT_ONCE = 32768, MAX_TASKS = 16 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void round_some(void *argument, size_t index) {
    Work *work = argument;
    const int64_t first = (int64_t)index * ROUNDED_AT_ONCE;
    const int64_t end = least(first + ROUNDED_AT_ONCE, work->rows);
    kernels()->round_rows(work->x, work->matrix.inputs, first, end, &work->rounded);
}

static void multiply_some(void *argument, size_t index) {
    const Work *work = argument;
    const Matrix *m = &work->matrix;
    const int64_t tile = (int64_t)index % work->tile_tasks * work->tile_step;
    const int64_t last = least(tile + work->tile_step, matrix_tiles(m));
    const int64_t first = (int64_t)index / work->tile_tasks * ROWS_AT_ONCE;
    const int64_t end = least(first + ROWS_AT_ONCE, work->rows);
    if (tile >= last) return;
    if (m->bits == 32)
        kernels()->multiply_floats(m, work->x, NULL, tile, last, first, end, work->y);
    else
        kernels()->multiply_rows(m, &work->rounded, NULL, tile, last, first, end, work->y);
}

const char *run_product(const Matrix *m, int input_bits, const float *x, int64_t rows, float *y) {
    Work work = {.matrix = *m, .x = x, .y = y, .rows = rows};
    void *room = NULL;
    if (rows == 0) return NULL;
    if (m->bits != 32) {
        const int64_t blocks = matrix_blocks(m);
        room = malloc((size_t)rounded_bytes(rows, blocks, input_bits) + 1);
        if (room == NULL) return "out of memory";
        work.rounded = place_rounded(room, rows, blocks, input_bits);
        pool_run(round_some, &work, (rows + ROUNDED_AT_ONCE - 1) / ROUNDED_AT_ONCE);
    }
    int64_t tasks = least(matrix_bytes(m) / BYTES_AT_ONCE, MAX_TASKS);
    tasks = tasks < 2 ? 2 : tasks;
    work.tile_step = (matrix_tiles(m) + tasks - 1) / tasks;
    work.tile_tasks = (matrix_tiles(m) + work.tile_step - 1) / work.tile_step;
    pool_run(multiply_some, &work, (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE * work.tile_tasks);
    free(room);
    return NULL;
}

const char *check_product(const Matrix *m, int64_t data_bytes, int input_bits) {
    if (m->outputs < 1 || m->inputs < 1) return "sizes must be positive";
    const char *wrong = check_matrix(m);
    if (wrong != NULL) return wrong;
    if (input_bits != 8 && input_bits != 15) return "input_bits must be 8 or 15";
    if (data_bytes != matrix_bytes(m)) return "data does not have the size of the matrix";
    return choose_kernels();
}

/* `run_product`, checked. */
__attribute__((visibility("default"))) const char *
fluvial_multiply(const uint8_t *data, int64_t data_bytes, int64_t outputs, int64_t inputs, int bits,
                 int has_minimum, int scale_bytes, int input_bits, const float *x, int64_t rows,
                 float *y) {
    const Matrix matrix = {data, outputs, inputs, bits, has_minimum, scale_bytes};
    const char *wrong = check_product(&matrix, data_bytes, input_bits);
    if (wrong == NULL && rows < 0) wrong = "sizes must be positive";
    return wrong != NULL ? wrong : run_product(&matrix, input_bits, x, rows, y);
}
