/* Linear: y = x W' + bias + (x A) B, W packed (linear.h), A and B the adapter of each token.

   Attributes: in_width, out_width, bits, has_minimum, scale_bytes; input_bits, to which x is rounded
   (8 or 15; not where bits is 32); of an adapted linear also unit (the sum of inputs and outputs of
   all groups before it), units and gains (adapter.h).

   What is multiplied can be made of x here, which saves a pass over it and an operator:
   - with `norm` [in_width]: x in RMS norm by that weight, attribute epsilon; with `branch` too, of
     x + branch, which is the second output where keep_sum is 1;
   - with the attribute activation (0 silu, 1 gelu in its tanh form): x is [gate | up], and what is
     multiplied is activation(gate) * up * (1 + gain), the gain at `gain` in the adapter, -1: none. */
#include "adapter.h"

typedef struct Linear {
    Matrix matrix;
    int64_t unit, units, gains, gain;
    int activation, keep_sum, input_bits; /* activation -1: none */
    float epsilon;
} Linear;

typedef struct Work {
    const Linear *linear;
    Matrix matrix;
    const float *x, *bias, *branch, *norm;
    float *y, *sum, *low;
    float *made; /* [rows, inputs], when what is multiplied is not x itself */
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
    linear->gain = attribute_int_or(info, "gain", -1, -1, INT64_C(1) << 40);
    linear->activation = (int)attribute_int_or(info, "activation", -1, -1, 1);
    linear->keep_sum = (int)attribute_int_or(info, "keep_sum", 0, 0, 1);
    linear->epsilon = attribute_float_or(info, "epsilon", 1e-6f);
    linear->input_bits = (int)attribute_int_or(info, "input_bits", 8, 8, 15);
    const char *wrong = check_matrix(m);
    if (wrong == NULL && linear->input_bits != 8 && linear->input_bits != 15)
        wrong = "input_bits must be 8 or 15";
    if (wrong != NULL) fail_info(info, "%s", wrong);
    return linear;
}

static const float *find_a(const Work *work, int64_t row) {
    if (work->linear->unit < 0) return NULL;
    const float *adapter = adapter_of(&work->adapters, row);
    if (adapter == NULL) return NULL;
    return adapter + work->linear->gains + work->linear->unit * work->adapters.rank;
}

/* Make row `row` of what is multiplied. */
static void make(const Work *work, int64_t row) {
    const Linear *linear = work->linear;
    const int64_t width = work->matrix.inputs;
    float *made = work->made + row * width;
    if (work->norm) {
        kernels()->norm_row(work->x + row * width, work->branch ? work->branch + row * width : NULL,
                            work->norm, linear->epsilon, width,
                            work->sum ? work->sum + row * width : NULL, made);
        return;
    }
    const float *gate = work->x + row * 2 * width;
    const float *adapter = linear->gain < 0 ? NULL : adapter_of(&work->adapters, row);
    kernels()->activate(linear->activation, gate, gate + width,
                        adapter ? adapter + linear->gain : NULL, width, made);
}

static void prepare(void *argument, size_t index) {
    Work *work = argument;
    const Matrix *m = &work->matrix;
    const int64_t first = (int64_t)index * work->row_step;
    const int64_t end = first + work->row_step < work->rows ? first + work->row_step : work->rows;
    for (int64_t row = first; row < end && work->made; row++) make(work, row);
    const float *x = work->made ? work->made : work->x;
    if (m->bits != 32) kernels()->round_rows(x, m->inputs, first, end, &work->rounded);
    const int64_t rank = work->adapters.rank;
    for (int64_t row = first; row < end && rank > 0; row++) {
        const float *a = find_a(work, row);
        if (a != NULL)
            kernels()->reduce_row(x + row * m->inputs, a, m->inputs, rank, work->low + row * rank);
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
        kernels()->multiply_floats(m, work->made ? work->made : work->x, work->bias, tile, last, first, end, work->y);
    else
        kernels()->multiply_rows(m, &work->rounded, work->bias, tile, last, first, end, work->y);
    const int64_t edge = last * TILE < m->outputs ? last * TILE : m->outputs;
    for (int64_t row = first, rows; row < end && rank > 0; row += rows) {
        const float *a = find_a(work, row);
        for (rows = 1; row + rows < end && find_a(work, row + rows) == a;) rows++;
        if (a != NULL)
            kernels()->expand_rows(work->low + row * rank, a + m->inputs * rank, rows, rank,
                                   m->outputs, tile * TILE, edge, work->y + row * m->outputs);
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

static const char *check(const Linear *linear, const Tensor *inputs) {
    const Matrix *m = &linear->matrix;
    const Tensor *x = &inputs[0], *branch = &inputs[6], *norm = &inputs[7];
    const int64_t width = linear->activation < 0 ? m->inputs : 2 * m->inputs;
    if (x->rank != 2 || x->shape[1] != width) return "x must be [tokens, in_width], or twice as wide";
    if (inputs[1].count != matrix_bytes(m)) return "data does not have the size of the matrix";
    if (inputs[2].data != NULL && inputs[2].count != m->outputs) return "bias must be [out_width]";
    if (norm->data != NULL && !has_shape(norm, m->inputs)) return "norm must be [in_width]";
    if (norm->data != NULL && linear->activation >= 0) return "norm and activation exclude each other";
    if (branch->data != NULL && (norm->data == NULL || !has_shape_of(branch, x->shape, 2)))
        return "branch must have the shape of x, and goes with a norm";
    if (linear->keep_sum && branch->data == NULL) return "there is no sum without a branch";
    return NULL;
}

static const char *open_outputs(Work *work, Context *context) {
    const Matrix *m = &work->matrix;
    work->y = output(context, 0, (const int64_t[]){work->rows, m->outputs}, 2);
    if (work->y == NULL) return failure(context);
    if (!work->linear->keep_sum) return NULL;
    work->sum = output(context, 1, (const int64_t[]){work->rows, m->inputs}, 2);
    return work->sum == NULL ? failure(context) : NULL;
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const Linear *linear = attributes;
    const char *wrong = check(linear, inputs);
    if (wrong != NULL) return fail(context, "Linear: %s", wrong);
    Work work = {.linear = linear, .matrix = linear->matrix, .rows = inputs[0].shape[0]};
    Matrix *m = &work.matrix;
    work.x = inputs[0].data;
    work.bias = inputs[2].data;
    work.branch = inputs[6].data;
    work.norm = inputs[7].data;
    m->data = inputs[1].data;
    wrong = find_adapters(&work.adapters, &inputs[3], &inputs[4], &inputs[5], work.rows,
                          linear->gains, linear->units);
    if (wrong != NULL) return fail(context, "Linear: %s", wrong);
    if (work.adapters.pool && ((linear->unit >= 0 && linear->unit + m->inputs + m->outputs > linear->units) ||
                               (linear->gain >= 0 && linear->gain + m->inputs > linear->gains)))
        return "Linear: the adapter's place is outside of it";
    wrong = open_outputs(&work, context);
    if (wrong != NULL || work.rows == 0) return wrong;
    const int64_t blocks = m->bits == 32 ? 0 : matrix_blocks(m);
    const size_t lows = (size_t)(work.rows * work.adapters.rank) * 4;
    const bool makes = work.norm || linear->activation >= 0;
    const size_t made = makes ? (size_t)(work.rows * m->inputs) * 4 : 0;
    const size_t rounded = (size_t)rounded_bytes(work.rows, blocks, linear->input_bits);
    char *room = malloc(lows + made + rounded + 1); /* 1: not every product needs any */
    if (room == NULL) return "Linear: out of memory";
    work.low = (float *)room;
    work.made = makes ? (float *)(room + lows) : NULL;
    work.rounded = place_rounded(room + lows + made, work.rows, blocks, linear->input_bits);
    wrong = multiply_all(&work, context);
    free(room);
    return wrong;
}

const Operator operator_linear = {
    .name = "Linear",
    .input_count = 8,
    .inputs = {{"x", FLOAT32, false},
               {"data", UINT8, false},
               {"bias", FLOAT32, true},
               {"adapter_pool", FLOAT32, true},
               {"adapter_slot", INT32, true},
               {"row_of", INT32, true},
               {"branch", FLOAT32, true},
               {"norm", FLOAT32, true}},
    .output_count = 2,
    .outputs = {{"y", FLOAT32, false}, {"sum", FLOAT32, true}},
    .create = create,
    .compute = compute,
};
