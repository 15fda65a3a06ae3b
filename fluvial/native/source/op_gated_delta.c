/* GatedDelta: gated DeltaNet (arXiv 2412.06464) as in Qwen3-Next, over projected
   [tokens, qkv | z | b | a]: q and k of all key heads, then v of all value heads, z like v, b and a
   one of each value head. qkv goes through a convolution and silu, q and k are made unit vectors,

       S = exp(-exp(decay) softplus(a + decay_bias)) S;  S += k (sigmoid(b) (v - S'k))';  o = S'q

   with q over the root of its width, and y = rms_norm(o) * norm * silu(z).

   Attributes: key_heads, value_heads, key_width, value_width, taps, epsilon, offset. The state is
   the convolution's, [features][taps - 1], then S [value_heads][key_width][value_width]. */
#include <math.h>

#include "state.h"

enum { FEATURES_AT_ONCE = 256, COLUMNS = 16, TOKENS_AT_ONCE = 16, INPUT_COUNT = 9 };

typedef struct GatedDelta {
    int64_t key_heads, value_heads, key_width, value_width, taps, offset;
    int64_t features, values; /* widths of qkv and of z */
    float epsilon;
} GatedDelta;

typedef struct Work {
    const GatedDelta *delta;
    const float *x, *weight, *decay, *decay_bias, *norm;
    float *mixed;           /* [tokens, features]: q, k and v */
    float *decays, *betas;  /* [tokens, value_heads] */
    float *y;
    Runs runs;
    int64_t tokens, x_step, parts, blocks; /* tasks of a run; of a head */
} Work;

static void *create(Info *info) {
    GatedDelta *delta = calloc(1, sizeof *delta);
    if (delta == NULL) return NULL;
    delta->key_heads = attribute_int(info, "key_heads", 1, 4096);
    delta->value_heads = attribute_int(info, "value_heads", 1, 4096);
    delta->key_width = attribute_int(info, "key_width", 1, MAX_KEY_WIDTH);
    delta->value_width = attribute_int(info, "value_width", 1, 4096);
    delta->taps = attribute_int(info, "taps", 1, MAX_TAPS);
    delta->offset = attribute_int(info, "offset", 0, INT64_C(1) << 40);
    delta->epsilon = attribute_float(info, "epsilon");
    if (delta->value_heads % delta->key_heads)
        fail_info(info, "value_heads must be a multiple of key_heads");
    if (!(delta->epsilon >= 0)) fail_info(info, "epsilon must not be negative");
    delta->values = delta->value_heads * delta->value_width;
    delta->features = 2 * delta->key_heads * delta->key_width + delta->values;
    return delta;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static void convolve(void *argument, size_t index) {
    const Work *work = argument;
    const GatedDelta *delta = work->delta;
    const Run *run = &work->runs.run[(int64_t)index / work->parts];
    const int64_t first = (int64_t)index % work->parts * FEATURES_AT_ONCE;
    const Convolution convolution = {
        .x = work->x + run->first * work->x_step,
        .weight = work->weight,
        .state = run->state,
        .y = work->mixed + run->first * delta->features,
        .x_step = work->x_step,
        .y_step = delta->features,
        .width = delta->features,
        .tokens = run->end - run->first,
        .taps = (int)delta->taps,
        .fresh = run->fresh,
    };
    kernels()->convolve(&convolution, first, least(first + FEATURES_AT_ONCE, delta->features));
}

static float softplus(float x) { return x > 20.0f ? x : log1pf(expf(x)); }

/* Unit vectors, and the two gates of each value head. */
static void prepare(void *argument, size_t index) {
    const Work *work = argument;
    const GatedDelta *delta = work->delta;
    const int64_t heads = delta->value_heads, first = (int64_t)index * TOKENS_AT_ONCE;
    for (int64_t token = first; token < least(first + TOKENS_AT_ONCE, work->tokens); token++) {
        float *qk = work->mixed + token * delta->features;
        for (int64_t head = 0; head < 2 * delta->key_heads; head++)
            kernels()->normalise(qk + head * delta->key_width, delta->key_width, 1e-6f,
                                 head < delta->key_heads ? 1.0f / sqrtf((float)delta->key_width)
                                                         : 1.0f);
        const float *b = work->x + token * work->x_step + delta->features + delta->values;
        for (int64_t head = 0; head < heads; head++) {
            const float pace = softplus(b[heads + head] + work->decay_bias[head]);
            work->decays[token * heads + head] = expf(-expf(work->decay[head]) * pace);
            work->betas[token * heads + head] = 1.0f / (1.0f + expf(-b[head]));
        }
    }
}

static void step(void *argument, size_t index) {
    const Work *work = argument;
    const GatedDelta *delta = work->delta;
    const int64_t block = (int64_t)index % work->blocks, heads = delta->value_heads;
    const int64_t head = (int64_t)index / work->blocks % heads;
    const Run *run = &work->runs.run[(int64_t)index / work->blocks / heads];
    const int64_t key_head = head / (heads / delta->key_heads), keys = delta->key_heads;
    const int64_t width = delta->key_width, column = head * delta->value_width + block * COLUMNS;
    const float *mixed = work->mixed + run->first * delta->features;
    const Delta part = {
        .q = mixed + key_head * width,
        .k = mixed + (keys + key_head) * width,
        .v = mixed + 2 * keys * width + column,
        .decay = work->decays + run->first * heads + head,
        .beta = work->betas + run->first * heads + head,
        .state = run->state + delta->features * (delta->taps - 1) +
                 head * width * delta->value_width + block * COLUMNS,
        .y = work->y + run->first * delta->values + column,
        .x_step = delta->features,
        .gate_step = heads,
        .y_step = delta->values,
        .state_step = delta->value_width,
        .key_width = width,
        .tokens = run->end - run->first,
        .columns = (int)least(COLUMNS, delta->value_width - block * COLUMNS),
        .fresh = run->fresh,
    };
    kernels()->step_delta(&part);
}

static void finish(void *argument, size_t index) {
    const Work *work = argument;
    const GatedDelta *delta = work->delta;
    const int64_t first = (int64_t)index * TOKENS_AT_ONCE, width = delta->value_width;
    for (int64_t token = first; token < least(first + TOKENS_AT_ONCE, work->tokens); token++) {
        const float *z = work->x + token * work->x_step + delta->features;
        float *y = work->y + token * delta->values;
        for (int64_t head = 0; head < delta->value_heads; head++)
            kernels()->gate_norm(y + head * width, z + head * width, work->norm, width,
                                 delta->epsilon);
    }
}

static const char *run_all(Work *work, Context *context) {
    const GatedDelta *delta = work->delta;
    const int64_t groups = (work->tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
    const int64_t floats = work->tokens * delta->features;
    work->parts = (delta->features + FEATURES_AT_ONCE - 1) / FEATURES_AT_ONCE;
    work->blocks = (delta->value_width + COLUMNS - 1) / COLUMNS;
    const char *wrong = share(context, convolve, work, work->runs.count * work->parts, floats);
    if (wrong == NULL) wrong = share(context, prepare, work, groups, floats);
    if (wrong == NULL)
        wrong = share(context, step, work, work->runs.count * delta->value_heads * work->blocks,
                      floats * delta->key_width);
    return wrong == NULL ? share(context, finish, work, groups, floats) : wrong;
}

static const char *run_in_room(Work *work, Context *context) {
    const GatedDelta *delta = work->delta;
    const int64_t floats = multiply(work->tokens, delta->features + 2 * delta->value_heads, 4);
    work->mixed = floats < 0 ? NULL : malloc((size_t)floats);
    if (work->mixed == NULL) return "GatedDelta: out of memory";
    work->decays = work->mixed + work->tokens * delta->features;
    work->betas = work->decays + work->tokens * delta->value_heads;
    const char *wrong = run_all(work, context);
    free(work->mixed);
    return wrong;
}

static const char *check(const GatedDelta *delta, Context *context, const Tensor *inputs) {
    const int64_t width = delta->features + delta->values + 2 * delta->value_heads;
    if (!has_shape(&inputs[0], -1, width))
        return fail(context, "GatedDelta: projected must be [tokens, %lld]", (long long)width);
    if (!has_shape(&inputs[1], delta->features, delta->taps))
        return fail(context, "GatedDelta: conv must be [%lld, %lld]", (long long)delta->features,
                    (long long)delta->taps);
    if (!has_shape(&inputs[2], delta->value_heads) || !has_shape(&inputs[3], delta->value_heads))
        return "GatedDelta: decay and decay_bias must be [value_heads]";
    if (!has_shape(&inputs[4], delta->value_width)) return "GatedDelta: norm must be [value_width]";
    return NULL;
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const GatedDelta *delta = attributes;
    const char *wrong = check(delta, context, inputs);
    if (wrong != NULL) return wrong;
    Work work = {.delta = delta, .x = inputs[0].data, .weight = inputs[1].data,
                 .decay = inputs[2].data, .decay_bias = inputs[3].data, .norm = inputs[4].data,
                 .tokens = inputs[0].shape[0], .x_step = inputs[0].shape[1]};
    const int64_t state = delta->features * (delta->taps - 1) + delta->values * delta->key_width;
    wrong = find_runs(&work.runs, &inputs[5], &inputs[6], &inputs[7], &inputs[8], work.tokens,
                      delta->offset, state);
    if (wrong != NULL) {
        free(work.runs.run);
        return fail(context, "GatedDelta: %s", wrong);
    }
    work.y = output(context, 0, (const int64_t[]){work.tokens, delta->values}, 2);
    wrong = work.y == NULL ? failure(context) : work.tokens ? run_in_room(&work, context) : NULL;
    free(work.runs.run);
    return wrong;
}

const Operator operator_gated_delta = {
    .name = "GatedDelta",
    .input_count = INPUT_COUNT,
    .inputs = {{"projected", FLOAT32, false},
               {"conv", FLOAT32, false},
               {"decay", FLOAT32, false},
               {"decay_bias", FLOAT32, false},
               {"norm", FLOAT32, false},
               {"state_pool", FLOAT32, false},
               {"state_slot", INT32, false},
               {"row_of", INT32, false},
               {"position", INT32, false}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
