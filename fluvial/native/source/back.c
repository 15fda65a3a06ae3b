/* Gradients through norms, activations, attention and low-rank terms, outside of any graph: what a
   learner needs besides products with transposed weights.

   Every number is summed in one order, whatever the number of threads. */
#include "back.h"
#include "kernel.h"
#include "pool.h"
#include "product.h"

#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

enum { ROWS_AT_ONCE = 16, COLUMNS_AT_ONCE = 256, ROOM_PER_HEAD = 6 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t cut(int64_t count, int64_t at_once) { return (count + at_once - 1) / at_once; }

/* Norms */

typedef struct Norm {
    const float *x, *weight, *grad;
    float *y;
    float epsilon;
    int64_t rows, width;
} Norm;

static void norm_some(void *argument, size_t index) {
    const Norm *n = argument;
    const int64_t first = (int64_t)index * ROWS_AT_ONCE;
    for (int64_t row = first; row < least(first + ROWS_AT_ONCE, n->rows); row++) {
        const int64_t at = row * n->width;
        if (n->grad == NULL)
            kernels()->norm_row(n->x + at, NULL, n->weight, n->epsilon, n->width, NULL, n->y + at);
        else
            kernels()->norm_back(n->x + at, n->weight, n->grad + at, n->epsilon, n->width, n->y + at);
    }
}

/* y [rows][width]: the norm of x, or where `grad` is given, the gradient by x. */
EXPORT const char *fluvial_norm(const float *x, const float *weight, const float *grad,
                                float epsilon, int64_t rows, int64_t width, float *y) {
    Norm norm = {x, weight, grad, y, epsilon, rows, width};
    const char *wrong = rows < 0 || width < 1 ? "sizes must be positive" : choose_kernels();
    if (wrong == NULL) pool_run(norm_some, &norm, cut(rows, ROWS_AT_ONCE));
    return wrong;
}

/* Activations */

typedef struct Activation {
    const float *x, *gain, *grad;
    float *y, *grad_gains;
    int64_t rows, width;
    int kind;
} Activation;

static void activate_some(void *argument, size_t index) {
    const Activation *a = argument;
    const int64_t first = (int64_t)index * ROWS_AT_ONCE, width = a->width;
    for (int64_t row = first; row < least(first + ROWS_AT_ONCE, a->rows); row++) {
        const float *gate = a->x + 2 * row * width;
        if (a->grad == NULL) {
            kernels()->activate(a->kind, gate, gate + width, a->gain, width, a->y + row * width);
            continue;
        }
        float *y = a->y + 2 * row * width;
        float *gains = a->grad_gains == NULL ? NULL : a->grad_gains + (int64_t)index * width;
        kernels()->activate_back(a->kind, gate, gate + width, a->gain, a->grad + row * width, width,
                                 y, y + width, gains);
    }
}

/* From x [rows][gate | up] and gains [width] (or NULL): y [rows][width]; or where `grad` [rows]
   [width] is given, the gradients, y [rows][gate | up] and unless NULL that by the gains. */
EXPORT const char *fluvial_activate(int kind, const float *x, const float *gain, const float *grad,
                                    int64_t rows, int64_t width, float *y, float *grad_gain) {
    Activation a = {x, gain, grad, y, NULL, rows, width, kind};
    const int64_t tasks = cut(rows, ROWS_AT_ONCE);
    if (rows < 0 || width < 1) return "sizes must be positive";
    const char *wrong = choose_kernels();
    if (wrong != NULL) return wrong;
    if (grad_gain != NULL) {
        a.grad_gains = calloc((size_t)(tasks * width) + 1, sizeof(float));
        if (a.grad_gains == NULL) return "out of memory";
    }
    pool_run(activate_some, &a, tasks);
    if (grad_gain == NULL) return NULL;
    for (int64_t i = 0; i < width; i++) {
        grad_gain[i] = 0;
        for (int64_t task = 0; task < tasks; task++) grad_gain[i] += a.grad_gains[task * width + i];
    }
    free(a.grad_gains);
    return NULL;
}

/* Linears with a low-rank term */

typedef struct LowRank {
    const float *x, *a, *b, *grad;
    float *turned; /* a the other way, [rank][inputs] */
    float *low_x, *low_grad;
    float *grad_x, *grad_a, *grad_b;
    int64_t rows, inputs, outputs, rank;
} LowRank;

static void reduce_some(void *argument, size_t index) {
    const LowRank *w = argument;
    const int64_t first = (int64_t)index * ROWS_AT_ONCE, rank = w->rank;
    const int64_t rows = least(ROWS_AT_ONCE, w->rows - first);
    if (w->grad_b != NULL)
        kernels()->reduce_rows(w->x + first * w->inputs, w->turned, rows, rank, w->inputs,
                               w->low_x + first * rank);
    kernels()->reduce_rows(w->grad + first * w->outputs, w->b, rows, rank, w->outputs,
                           w->low_grad + first * rank);
    if (w->grad_x != NULL)
        kernels()->expand_rows(w->low_grad + first * rank, w->turned, rows, rank, w->inputs, 0,
                               w->inputs, w->grad_x + first * w->inputs);
}

static void sum_some(void *argument, size_t index) {
    const LowRank *w = argument;
    const int64_t of_b = w->grad_b == NULL ? 0 : cut(w->outputs, COLUMNS_AT_ONCE);
    int64_t first = (int64_t)index * COLUMNS_AT_ONCE;
    if ((int64_t)index < of_b) {
        kernels()->sum_rows(w->low_x, w->grad, w->rows, w->rank, w->outputs, first,
                            least(first + COLUMNS_AT_ONCE, w->outputs), w->grad_b);
        return;
    }
    first -= of_b * COLUMNS_AT_ONCE; /* `turned` has served, and takes the gradient of a */
    kernels()->sum_rows(w->low_grad, w->x, w->rows, w->rank, w->inputs, first,
                        least(first + COLUMNS_AT_ONCE, w->inputs), w->turned);
}

static void go_back_low_rank(LowRank *w) {
    for (int64_t i = 0; i < w->inputs; i++)
        for (int64_t r = 0; r < w->rank; r++) w->turned[r * w->inputs + i] = w->a[i * w->rank + r];
    pool_run(reduce_some, w, cut(w->rows, ROWS_AT_ONCE));
    const int64_t of_b = w->grad_b == NULL ? 0 : cut(w->outputs, COLUMNS_AT_ONCE);
    pool_run(sum_some, w, of_b + (w->grad_a == NULL ? 0 : cut(w->inputs, COLUMNS_AT_ONCE)));
    for (int64_t i = 0; w->grad_a != NULL && i < w->inputs; i++)
        for (int64_t r = 0; r < w->rank; r++) w->grad_a[i * w->rank + r] = w->turned[r * w->inputs + i];
}

/* Gradients of y = W x + (x a) b, from `grad` [rows][outputs]: by x [rows][inputs], a [inputs][rank]
   and b [rank][outputs], each unless NULL. The matrix is W's transpose. */
EXPORT const char *fluvial_linear_back(const uint8_t *data, int64_t data_bytes, int64_t inputs,
                                       int64_t outputs, int bits, int has_minimum, int scale_bytes,
                                       int input_bits, const float *x, const float *a,
                                       const float *b, const float *grad, int64_t rows,
                                       int64_t rank, float *grad_x, float *grad_a, float *grad_b) {
    const Matrix matrix = {data, inputs, outputs, bits, has_minimum, scale_bytes};
    const char *wrong = check_product(&matrix, data_bytes, input_bits);
    if (wrong == NULL && (rows < 0 || rank < 1)) wrong = "sizes must be positive";
    if (wrong == NULL && grad_x != NULL) wrong = run_product(&matrix, input_bits, grad, rows, grad_x);
    if (wrong != NULL) return wrong;
    float *room = malloc((size_t)(rank * (inputs + 2 * rows)) * sizeof(float));
    if (room == NULL) return "out of memory";
    LowRank work = {.x = x, .a = a, .b = b, .grad = grad, .turned = room,
                    .low_x = room + rank * inputs, .low_grad = room + rank * (inputs + rows),
                    .grad_x = grad_x, .grad_a = grad_a, .grad_b = grad_b,
                    .rows = rows, .inputs = inputs, .outputs = outputs, .rank = rank};
    go_back_low_rank(&work);
    free(room);
    return NULL;
}

/* Attention */

typedef struct Attention {
    const float *q, *k, *v, *mixed, *grad;
    float *turned, *scores, *grad_k_by_head, *grad_v_by_head;
    float *grad_q, *grad_k, *grad_v;
    int64_t heads, groups, stride, k_apart, v_apart;
    AttentionBack shape; /* sizes only */
} Attention;

static void turn_keys(void *argument, size_t index) {
    const Attention *a = argument;
    const int64_t tokens = a->shape.past + a->shape.rows, width = a->shape.width;
    const float *k = a->k + (int64_t)index * a->k_apart;
    float *turned = a->turned + (int64_t)index * width * a->stride;
    for (int64_t first = 0; first < a->stride; first += KEYS_AT_ONCE, k += KEYS_AT_ONCE * width) {
        const int64_t count = least(KEYS_AT_ONCE, tokens - first);
        for (int64_t w = 0; w < width; w++, turned += KEYS_AT_ONCE) {
            for (int64_t t = 0; t < count; t++) turned[t] = k[t * width + w];
            for (int64_t t = count; t < KEYS_AT_ONCE; t++) turned[t] = 0;
        }
    }
}

static void follow_head(void *argument, size_t index) {
    const Attention *a = argument;
    const int64_t head = (int64_t)index, group = head / (a->heads / a->groups);
    AttentionBack one = a->shape;
    const int64_t new_k = one.rows * one.width, new_v = one.rows * one.value_width;
    one.q = a->q + head * new_k;
    one.k = a->k + group * a->k_apart;
    one.turned = a->turned + group * one.width * a->stride;
    one.v = a->v + group * a->v_apart;
    one.mixed = a->mixed + head * one.value_width;
    one.grad = a->grad + head * one.value_width;
    one.scores = a->scores + head * ROOM_PER_HEAD * a->stride;
    one.changes = one.scores + 4 * a->stride;
    one.followed = (int32_t *)(one.changes + a->stride);
    one.grad_q = a->grad_q + head * new_k;
    one.grad_k = a->grad_k_by_head + head * new_k;
    one.grad_v = a->grad_v_by_head + head * new_v;
    kernels()->attend_back(&one);
}

static void add_heads(const float *by_head, int64_t heads, int64_t each, float *y) {
    for (int64_t i = 0; i < each; i++) {
        float sum = by_head[i];
        for (int64_t head = 1; head < heads; head++) sum += by_head[head * each + i];
        y[i] = sum;
    }
}

static void join_group(void *argument, size_t index) {
    const Attention *a = argument;
    const int64_t heads = a->heads / a->groups, group = (int64_t)index;
    const int64_t new_k = a->shape.rows * a->shape.width;
    const int64_t new_v = a->shape.rows * a->shape.value_width;
    add_heads(a->grad_k_by_head + group * heads * new_k, heads, new_k, a->grad_k + group * new_k);
    add_heads(a->grad_v_by_head + group * heads * new_v, heads, new_v, a->grad_v + group * new_v);
}

static const char *attend_all(Attention *a) {
    const AttentionBack *s = &a->shape;
    const int64_t turned = a->groups * s->width * a->stride, scores = ROOM_PER_HEAD * a->heads * a->stride;
    const int64_t new_k = a->heads * s->rows * s->width, new_v = a->heads * s->rows * s->value_width;
    float *room = malloc((size_t)(turned + scores + new_k + new_v) * sizeof(float));
    if (room == NULL) return "out of memory";
    a->turned = room;
    a->scores = room + turned;
    a->grad_k_by_head = a->scores + scores;
    a->grad_v_by_head = a->grad_k_by_head + new_k;
    pool_run(turn_keys, a, a->groups);
    pool_run(follow_head, a, a->heads);
    pool_run(join_group, a, a->groups);
    free(room);
    return NULL;
}

/* Gradients of attention from `rows` new tokens to `past` ones and themselves: `q` [heads][rows]
   [width], scaled already; `k` and `v` [groups][past + rows][width], groups `k_apart` and `v_apart`
   floats from one another; `mixed` and `grad` [rows][heads][value_width]; `grad_q` as q; `grad_k` and `grad_v` [groups][rows][width], of the new tokens.
   See back.h for the rest. */
EXPORT const char *fluvial_attention_back(const float *q, const float *k, const float *v,
                                          const float *mixed, const float *grad, int64_t k_apart,
                                          int64_t v_apart, int64_t heads, int64_t groups, int64_t rows, int64_t past, int64_t width,
                                          int64_t value_width, int64_t window, float softcap,
                                          float threshold, float *grad_q, float *grad_k,
                                          float *grad_v) {
    if (heads < 1 || groups < 1 || heads % groups || rows < 0 || past < 0 || width < 1 ||
        value_width < 1 || window < 0 || k_apart < 0 || v_apart < 0)
        return "sizes must be positive, and heads a multiple of groups";
    const char *wrong = choose_kernels();
    if (wrong != NULL || rows == 0) return wrong;
    const int64_t stride = cut(past + rows, KEYS_AT_ONCE) * KEYS_AT_ONCE;
    Attention a = {.q = q, .k = k, .v = v, .mixed = mixed, .grad = grad,
                   .grad_q = grad_q, .grad_k = grad_k, .grad_v = grad_v,
                   .heads = heads, .groups = groups, .stride = stride,
                   .k_apart = k_apart, .v_apart = v_apart,
                   .shape = {.rows = rows, .past = past, .width = width, .value_width = value_width,
                             .stride = stride, .mixed_stride = heads * value_width,
                             .window = window, .softcap = softcap, .threshold = threshold}};
    return attend_all(&a);
}
