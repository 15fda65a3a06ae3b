/* Scale: y = factor * x + offset, the example of how an operator is written, and what tests drive
   the glue with. Attributes: factor; tasks (pieces to compute apart, default 1). */
#include "op.h"

typedef struct Scale {
    float factor;
    int64_t tasks;
} Scale;

typedef struct Piece {
    const Scale *scale;
    const float *x;
    const float *offset;
    float *y;
    int64_t count;
} Piece;

static void *create(Info *info) {
    Scale *scale = malloc(sizeof *scale);
    if (scale == NULL) return NULL;
    scale->factor = attribute_float(info, "factor");
    scale->tasks = attribute_int_or(info, "tasks", 1, 1, 1024);
    return scale;
}

static void run(void *argument, size_t index) {
    const Piece *piece = argument;
    const int64_t tasks = piece->scale->tasks, each = (piece->count + tasks - 1) / tasks;
    const int64_t start = each * (int64_t)index;
    const int64_t end = start + each < piece->count ? start + each : piece->count;
    if (start >= end) return;
    kernels()->scale(piece->y + start, piece->x + start, piece->scale->factor, end - start);
    for (int64_t i = start; piece->offset != NULL && i < end; i++) piece->y[i] += piece->offset[i];
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const Tensor *x = &inputs[0], *offset = &inputs[1];
    if (x->rank < 1) return "Scale: x must have at least one dimension";
    if (offset->data != NULL && !has_shape_of(offset, x->shape, x->rank))
        return fail(context, "Scale: offset has %lld elements in %d dimensions, but x %lld in %d",
                    (long long)offset->count, offset->rank, (long long)x->count, x->rank);
    const Scale *scale = attributes;
    Piece piece = {scale, x->data, offset->data, output(context, 0, x->shape, x->rank), x->count};
    if (piece.y == NULL) return failure(context);
    return parallel(context, run, &piece, scale->tasks);
}

const Operator operator_scale = {
    .name = "Scale",
    .input_count = 2,
    .inputs = {{"x", FLOAT32, false}, {"offset", FLOAT32, true}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
