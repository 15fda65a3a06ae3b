/* ShortConv: y = C * conv(B * x), the gated short convolution of LFM2, over bcx [tokens, 3 width]
   (B, C and x, one after another) and weight [width, taps].

   Attributes: width, taps, offset. Its state is width * (taps - 1) floats: the last B * x. */
#include "state.h"

typedef struct ShortConv {
    int64_t width, taps, offset;
} ShortConv;

enum { FEATURES_AT_ONCE = 256, INPUT_COUNT = 6 };

typedef struct Work {
    const ShortConv *conv;
    const float *x, *weight;
    float *y;
    Runs runs;
    int64_t parts; /* tasks of a run */
} Work;

static void *create(Info *info) {
    ShortConv *conv = calloc(1, sizeof *conv);
    if (conv == NULL) return NULL;
    conv->width = attribute_int(info, "width", 1, 1 << 24);
    conv->taps = attribute_int(info, "taps", 1, MAX_TAPS);
    conv->offset = attribute_int(info, "offset", 0, INT64_C(1) << 40);
    return conv;
}

static void run(void *argument, size_t index) {
    const Work *work = argument;
    const Run *run = &work->runs.run[(int64_t)index / work->parts];
    const int64_t width = work->conv->width;
    const int64_t first = (int64_t)index % work->parts * FEATURES_AT_ONCE;
    const int64_t end = first + FEATURES_AT_ONCE < width ? first + FEATURES_AT_ONCE : width;
    const Convolution convolution = {
        .x = work->x + run->first * 3 * width,
        .weight = work->weight,
        .state = run->state,
        .y = work->y + run->first * width,
        .x_step = 3 * width,
        .y_step = width,
        .width = width,
        .tokens = run->end - run->first,
        .taps = (int)work->conv->taps,
        .gated = 1,
        .fresh = run->fresh,
    };
    kernels()->convolve(&convolution, first, end);
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const ShortConv *conv = attributes;
    const Tensor *x = &inputs[0], *weight = &inputs[1];
    if (!has_shape(x, -1, 3 * conv->width))
        return fail(context, "ShortConv: bcx must be [tokens, %lld]", (long long)(3 * conv->width));
    if (!has_shape(weight, conv->width, conv->taps))
        return fail(context, "ShortConv: weight must be [%lld, %lld]", (long long)conv->width,
                    (long long)conv->taps);
    Work work = {.conv = conv, .x = x->data, .weight = weight->data};
    const char *wrong =
        find_runs(&work.runs, &inputs[2], &inputs[3], &inputs[4], &inputs[5], x->shape[0],
                  conv->offset, conv->width * (conv->taps - 1));
    if (wrong != NULL) {
        free(work.runs.run);
        return fail(context, "ShortConv: %s", wrong);
    }
    work.parts = (conv->width + FEATURES_AT_ONCE - 1) / FEATURES_AT_ONCE;
    work.y = output(context, 0, (const int64_t[]){x->shape[0], conv->width}, 2);
    wrong = work.y == NULL ? failure(context)
                           : share(context, run, &work, work.runs.count * work.parts, x->count);
    free(work.runs.run);
    return wrong;
}

const Operator operator_short_conv = {
    .name = "ShortConv",
    .input_count = INPUT_COUNT,
    .inputs = {{"bcx", FLOAT32, false},
               {"weight", FLOAT32, false},
               {"state_pool", FLOAT32, false},
               {"state_slot", INT32, false},
               {"row_of", INT32, false},
               {"position", INT32, false}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
