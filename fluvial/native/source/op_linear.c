/* Linear: y = x W' + bias + (x A) B, W packed (linear.h), A and B the adapter of each token.

   Attributes: in_width, out_width, bits, has_minimum, scale_bytes; of an adapted linear also unit (the
   sum of inputs and outputs of all groups before it), units and gains (adapter.h). */
#include "adapter.h"

typedef struct Linear {
    Matrix matrix;
    int64_t unit, units, gains;
} Linear;

typedef struct Work {
    const Linear *linear;
    Matrix matrix;
    const float *x, *bias;
    float *y, *low;
    Adapters adapters;
    Rounded rounded;
    int64_t rows, row_step, tile_step, tile_tasks;
} Work;

enum { ROWS_AT_ONCE = 128, BYTES_AT_ONCE = 32768, MAX_TASKS = 16 };

static void *create(Info *info) {
    Linear *linear = calloc(1, sizeof *linear);
    if (linear == NULL) return NULL;
    Matrix *m = &linear->matrix;
    m->inputs = attribute_int(info, "in_width", 1, 1 << 24);
    m->outputs = attribute_int(info, "out_width", 1, 1 << 24);
    m->bits = (int)attribute_int(info, "bits", 4, 32);
    m->has_minimum = (int)attribute_int_or(info, "has_minimum", 0, 0, 1);
    m->scale_bytes = (int)attribute_int_or(info, "scale_bytes", 2, 2, 4);
    linear->unit = attribute_int_or(info, "unit", -1, -1, INT64_C(1) << 40);
    linear->units = attribute_int_or(info, "units", 0, 0, INT64_C(1) << 40);
    linear->gains = attribute_int_or(info, "gains", 0, 0, INT64_C(1) << 40);
    const char *wrong = check_matrix(m);
    if (wrong != NULL) fail_info(info, "%s", wrong);
    return linear;
}

static const float *find_a(const Work *work, int64_t row) {
    if (work->linear->unit < 0) return NULL;
    const float *adapter = adapter_of(&work->adapters, row);
    if (adapter == NULL) return NULL;
    return adapter + work->linear->gains + work->linear->unit * work->adapters.rank;
}

static void prepare(void *argument, size_t index) {
    Work *work = argument;
    const Matrix *m = &work->matrix;
    const int64_t first = (int64_t)index * work->row_step;
    const int64_t end = first + work->row_step < work->rows ? first + work->row_step : work->rows;
    if (m->bits != 32) kernels()->round_rows(work->x, m->inputs, first, end, &work->rounded);
    const int64_t rank = work->adapters.rank;
    for (int64_t row = first; row < end && rank > 0; row++) {
        const float *a = find_a(work, row);
        if (a != NULL)
            kernels()->reduce_row(work->x + row * m->inputs, a, m->inputs, rank,
                                  work->low + row * rank);
    }
}

static void run(void *argument, size_t index) {
    const Work *work = argument;
    const Matrix *m = &work->matrix;
    const int64_t tiles = matrix_tiles(m), rank = work->adapters.rank;
    const int64_t tile = (int64_t)index % work->tile_tasks * work->tile_step;
    const int64_t last = tile + work->tile_step < tiles ? tile + work->tile_step : tiles;
    const int64_t first = (int64_t)index / work->tile_tasks * ROWS_AT_ONCE;
    const int64_t end = first + ROWS_AT_ONCE < work->rows ? first + ROWS_AT_ONCE : work->rows;
    if (tile >= last) return;
    if (m->bits == 32)
        kernels()->multiply_floats(m, work->x, work->bias, tile, last, first, end, work->y);
    else
        kernels()->multiply_rows(m, &work->rounded, work->bias, tile, last, first, end, work->y);
    const int64_t edge = last * TILE < m->outputs ? last * TILE : m->outputs;
    for (int64_t row = first; row < end && rank > 0; row++) {
        const float *a = find_a(work, row);
        if (a != NULL)
            kernels()->expand_row(work->low + row * rank, a + m->inputs * rank, rank, m->outputs,
                                  tile * TILE, edge, work->y + row * m->outputs);
    }
}

static const char *multiply_all(Work *work, Context *context) {
    const Matrix *m = &work->matrix;
    const int64_t row_tasks = (work->rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    int64_t prepare_tasks = work->rows / 16;
    prepare_tasks = prepare_tasks < 1 ? 1 : prepare_tasks > MAX_TASKS ? MAX_TASKS : prepare_tasks;
    work->row_step = (work->rows + prepare_tasks - 1) / prepare_tasks;
    const char *wrong = NULL;
    if (prepare_tasks == 1)
        prepare(work, 0);
    else
        wrong = parallel(context, prepare, work, prepare_tasks);
    if (wrong != NULL) return wrong;
    /* enough tasks to share out evenly, none too small to be worth handing out */
    const int64_t tiles = matrix_tiles(m);
    int64_t tasks = matrix_bytes(m) / BYTES_AT_ONCE;
    tasks = tasks < 2 ? 2 : tasks > MAX_TASKS ? MAX_TASKS : tasks;
    work->tile_step = (tiles + tasks - 1) / tasks;
    work->tile_tasks = (tiles + work->tile_step - 1) / work->tile_step;
    return parallel(context, run, work, row_tasks * work->tile_tasks);
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const Linear *linear = attributes;
    Work work = {.linear = linear, .matrix = linear->matrix};
    Matrix *m = &work.matrix;
    const Tensor *x = &inputs[0], *data = &inputs[1], *bias = &inputs[2];
    if (x->rank != 2 || x->shape[1] != m->inputs)
        return fail(context, "Linear: x must be [tokens, %lld]", (long long)m->inputs);
    if (data->count != matrix_bytes(m))
        return fail(context, "Linear: data has %lld bytes, the matrix %lld", (long long)data->count,
                    (long long)matrix_bytes(m));
    if (bias->data != NULL && bias->count != m->outputs) return "Linear: bias must be [outputs]";
    work.rows = x->shape[0];
    work.x = x->data;
    work.bias = bias->data;
    m->data = data->data;
    const char *wrong = find_adapters(&work.adapters, &inputs[3], &inputs[4], &inputs[5], work.rows,
                                      linear->gains, linear->units);
    if (wrong != NULL) return fail(context, "Linear: %s", wrong);
    if (work.adapters.pool && linear->unit + m->inputs + m->outputs > linear->units)
        return "Linear: the adapter's place is outside of it";
    work.y = output(context, 0, (const int64_t[]){work.rows, m->outputs}, 2);
    if (work.y == NULL) return failure(context);
    if (work.rows == 0) return NULL;
    const int64_t blocks = matrix_blocks(m);
    const size_t scales = (size_t)(work.rows * blocks) * 4, lows = (size_t)(work.rows * work.adapters.rank) * 4;
    char *room = malloc(2 * scales + lows + (size_t)(work.rows * blocks) * BLOCK);
    if (room == NULL) return "Linear: out of memory";
    work.rounded = (Rounded){(int8_t *)(room + 2 * scales + lows), (float *)room,
                             (int32_t *)(room + scales), blocks};
    work.low = (float *)(room + 2 * scales);
    wrong = multiply_all(&work, context);
    free(room);
    return wrong;
}

const Operator operator_linear = {
    .name = "Linear",
    .input_count = 6,
    .inputs = {{"x", FLOAT32, false},
               {"data", UINT8, false},
               {"bias", FLOAT32, true},
               {"adapter_pool", FLOAT32, true},
               {"adapter_slot", INT32, true},
               {"row_of", INT32, true}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
