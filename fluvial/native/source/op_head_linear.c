/* HeadLinear: each head's own product, y[t][h] = x[t][h] W[h]', W in float32 (linear.h, 32 bits).

   Inputs: x [tokens, heads * in_width]; data, one packed matrix a head. Attributes: heads, in_width,
   out_width. As all products here, a row does not depend on what is computed beside it. */
#include "op.h"

typedef struct HeadLinear {
    Matrix matrix; /* of one head */
    int64_t heads;
} HeadLinear;

typedef struct Work {
    Matrix matrix;
    int64_t heads, rows;
    const uint8_t *data;
    const float *x;
    float *y, *room; /* room: [heads][rows][inputs + outputs] */
} Work;

static void *create(Info *info) {
    HeadLinear *op = calloc(1, sizeof *op);
    if (op == NULL) return NULL;
    op->heads = attribute_int(info, "heads", 1, 4096);
    op->matrix = (Matrix){.inputs = attribute_int(info, "in_width", 1, 1 << 20),
                          .outputs = attribute_int(info, "out_width", 1, 1 << 20),
                          .bits = 32,
                          .scale_bytes = 4};
    return op;
}

static void run(void *argument, size_t head) {
    const Work *work = argument;
    Matrix m = work->matrix;
    m.data = work->data + (int64_t)head * matrix_bytes(&m);
    float *x = work->room + (int64_t)head * work->rows * (m.inputs + m.outputs);
    float *y = x + work->rows * m.inputs;
    for (int64_t t = 0; t < work->rows; t++)
        memcpy(x + t * m.inputs, work->x + (t * work->heads + (int64_t)head) * m.inputs,
               (size_t)m.inputs * sizeof(float));
    kernels()->multiply_floats(&m, x, NULL, 0, matrix_tiles(&m), 0, work->rows, y);
    for (int64_t t = 0; t < work->rows; t++)
        memcpy(work->y + (t * work->heads + (int64_t)head) * m.outputs, y + t * m.outputs,
               (size_t)m.outputs * sizeof(float));
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const HeadLinear *op = attributes;
    const Tensor *x = &inputs[0], *data = &inputs[1];
    const int64_t in = op->heads * op->matrix.inputs, out = op->heads * op->matrix.outputs;
    if (x->rank != 2 || x->shape[1] != in)
        return fail(context, "HeadLinear: x must be [tokens, %lld]", (long long)in);
    if (data->count != op->heads * matrix_bytes(&op->matrix))
        return "HeadLinear: data does not have the size of its matrices";
    Work work = {.matrix = op->matrix, .heads = op->heads, .rows = x->shape[0], .data = data->data};
    work.x = x->data;
    work.y = output(context, 0, (const int64_t[]){work.rows, out}, 2);
    if (work.y == NULL) return failure(context);
    if (work.rows == 0) return NULL;
    work.room = malloc((size_t)(work.rows * (in + out)) * sizeof(float));
    if (work.room == NULL) return "HeadLinear: out of memory";
    const char *wrong = parallel(context, run, &work, op->heads);
    free(work.room);
    return wrong;
}

const Operator operator_head_linear = {
    .name = "HeadLinear",
    .input_count = 2,
    .inputs = {{"x", FLOAT32, false}, {"data", UINT8, false}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
