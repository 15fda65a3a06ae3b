/* Activation: y = activation(gate) * up * (1 + gain), from gate_up [tokens, gate | up].

   Attributes: kind (0 silu, 1 gelu in its tanh form); gain, gains and units (adapter.h), the first
   of them -1 where no gain applies. */
#include "adapter.h"

typedef struct Activation {
    int kind;
    int64_t gain, gains, units;
} Activation;

typedef struct Work {
    const Activation *activation;
    const float *x;
    float *y;
    Adapters adapters;
    int64_t rows, width, step;
} Work;

static void *create(Info *info) {
    Activation *a = calloc(1, sizeof *a);
    if (a == NULL) return NULL;
    a->kind = (int)attribute_int(info, "kind", 0, 1);
    a->gain = attribute_int_or(info, "gain", -1, -1, INT64_C(1) << 40);
    a->gains = attribute_int_or(info, "gains", 0, 0, INT64_C(1) << 40);
    a->units = attribute_int_or(info, "units", 0, 0, INT64_C(1) << 40);
    return a;
}

static void run(void *argument, size_t index) {
    const Work *work = argument;
    const int64_t first = (int64_t)index * work->step;
    const int64_t end = first + work->step < work->rows ? first + work->step : work->rows;
    for (int64_t row = first; row < end; row++) {
        const float *gate = work->x + row * 2 * work->width;
        const float *gain = work->activation->gain < 0 ? NULL : adapter_of(&work->adapters, row);
        kernels()->activate(work->activation->kind, gate, gate + work->width,
                            gain ? gain + work->activation->gain : NULL, work->width,
                            work->y + row * work->width);
    }
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const Activation *a = attributes;
    const Tensor *x = &inputs[0];
    if (x->rank != 2 || x->shape[1] % 2) return "Activation: gate_up must be [tokens, 2 * width]";
    Work work = {.activation = a, .x = x->data, .rows = x->shape[0], .width = x->shape[1] / 2};
    const char *wrong = find_adapters(&work.adapters, &inputs[1], &inputs[2], &inputs[3], work.rows,
                                      a->gains, a->units);
    if (wrong != NULL) return fail(context, "Activation: %s", wrong);
    if (work.adapters.pool && a->gain >= 0 && a->gain + work.width > a->gains)
        return "Activation: the gain's place is outside of the adapter";
    work.y = output(context, 0, (const int64_t[]){work.rows, work.width}, 2);
    if (work.y == NULL) return failure(context);
    work.step = work.rows < 16 ? 4 : 16;
    if (work.rows == 0) return NULL;
    const int64_t tasks = (work.rows + work.step - 1) / work.step;
    if (tasks > 1) return parallel(context, run, &work, tasks);
    run(&work, 0);
    return NULL;
}

const Operator operator_activation = {
    .name = "Activation",
    .input_count = 4,
    .inputs = {{"gate_up", FLOAT32, false},
               {"adapter_pool", FLOAT32, true},
               {"adapter_slot", INT32, true},
               {"row_of", INT32, true}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
