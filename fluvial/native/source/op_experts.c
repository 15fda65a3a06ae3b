/* Experts: y = sum over a token's experts of weight * down(activation(gate(x)) * up(x)).

   Inputs: x [tokens, inputs]; logits of the router [tokens, count]; bias [count] or left out;
   gate_up and down, packed (linear.h), one matrix per expert one after another. gate_up gives
   2 * width outputs, the gate's first.

   Attributes: in_width, width, count, active, score (0 softmax, 1 sigmoid), normalise, groups,
   active_groups, scale, activation (0 silu, 1 gelu in its tanh form), and for both stacks
   gate_up_bits, gate_up_has_minimum, gate_up_scale_bytes, down_bits, ...

   A token's experts are added in ascending order, so that its result does not depend on the
   batch. */
#include <stdio.h>

#include "op.h"
#include "route.h"

enum {
    PAIRS_AT_ONCE = 2048, /* pairs of a token and an expert; bounds the memory of a step */
    ROWS_AT_ONCE = 16,
    BYTES_AT_ONCE = 32768,
    MAX_PARTS = 16,
    MAX_EXPERTS = 4096,
};

typedef struct Experts {
    Matrix gate_up, down; /* of one expert; `data` is filled in by each run */
    Router router;
    int64_t inputs, width;
    int activation;
} Experts;

/* A product of all pairs with their experts' matrices. */
typedef struct Product {
    const Matrix *matrix;
    const uint8_t *data;
    const float *x; /* [pairs, inputs] */
    float *y;       /* [pairs, outputs] */
    Rounded rounded;
    int64_t parts, step; /* pieces of one matrix; tiles in each */
} Product;

typedef struct Work {
    const Experts *experts;
    const float *x, *logits, *bias;
    float *y;
    int64_t tokens, pairs; /* of this piece of the step */
    int32_t *chosen;       /* [tokens, active] */
    int32_t *place;        /* [tokens, active]: the pair's row below */
    int32_t *token;        /* [pairs] */
    int32_t *start;        /* [count + 1]: the first pair of each expert */
    int32_t *used;         /* experts that have pairs */
    int64_t used_count;
    float *weights;        /* [tokens, active] */
    float *room;           /* [tokens, 2 * count + groups] */
    float *in;             /* [pairs, inputs] */
    float *inner;          /* [pairs, width] */
    float *out;            /* [pairs, inputs]; in the place of `in` */
    Product gate_up, down;
} Work;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* --- attributes -------------------------------------------------------------------------------- */

static void read_matrix(Info *info, const char *name, int64_t inputs, int64_t outputs, Matrix *m) {
    char bits[64], has_minimum[64], scale_bytes[64];
    snprintf(bits, sizeof bits, "%s_bits", name);
    snprintf(has_minimum, sizeof has_minimum, "%s_has_minimum", name);
    snprintf(scale_bytes, sizeof scale_bytes, "%s_scale_bytes", name);
    *m = (Matrix){.inputs = inputs, .outputs = outputs};
    m->bits = (int)attribute_int(info, bits, 4, 32);
    m->has_minimum = (int)attribute_int_or(info, has_minimum, 0, 0, 1);
    m->scale_bytes = (int)attribute_int_or(info, scale_bytes, 2, 2, 4);
    const char *wrong = check_matrix(m);
    if (wrong != NULL) fail_info(info, "%s: %s", name, wrong);
}

static void *create(Info *info) {
    Experts *experts = calloc(1, sizeof *experts);
    if (experts == NULL) return NULL;
    experts->inputs = attribute_int(info, "in_width", 1, 1 << 20);
    experts->width = attribute_int(info, "width", 1, 1 << 20);
    experts->activation = (int)attribute_int_or(info, "activation", 0, 0, 1);
    Router *router = &experts->router;
    router->count = attribute_int(info, "count", 1, MAX_EXPERTS);
    router->active = attribute_int(info, "active", 1, MAX_EXPERTS);
    router->score = (int)attribute_int(info, "score", ROUTE_SOFTMAX, ROUTE_SIGMOID);
    router->normalise = (int)attribute_int(info, "normalise", 0, 1);
    router->groups = attribute_int_or(info, "groups", 1, 1, MAX_EXPERTS);
    router->active_groups = attribute_int_or(info, "active_groups", 1, 1, MAX_EXPERTS);
    router->scale = attribute_float_or(info, "scale", 1.0f);
    const char *wrong = check_router(router);
    if (wrong != NULL) fail_info(info, "%s", wrong);
    read_matrix(info, "gate_up", experts->inputs, 2 * experts->width, &experts->gate_up);
    read_matrix(info, "down", experts->width, experts->inputs, &experts->down);
    return experts;
}

/* --- tasks ------------------------------------------------------------------------------------- */

static void choose(void *argument, size_t index) {
    const Work *work = argument;
    const Router *router = &work->experts->router;
    const int64_t first = (int64_t)index * ROWS_AT_ONCE;
    for (int64_t token = first; token < least(first + ROWS_AT_ONCE, work->tokens); token++)
        route(router, work->logits + token * router->count, work->bias,
              work->room + token * (2 * router->count + router->groups),
              work->chosen + token * router->active, work->weights + token * router->active);
}

/* Put pairs of the same expert beside each other, tokens in order. */
static void gather(Work *work) {
    const int64_t active = work->experts->router.active, count = work->experts->router.count;
    memset(work->start, 0, (size_t)(count + 1) * sizeof *work->start);
    for (int64_t i = 0; i < work->pairs; i++) work->start[work->chosen[i] + 1]++;
    work->used_count = 0;
    for (int64_t i = 0; i < count; i++) {
        if (work->start[i + 1] > 0) work->used[work->used_count++] = (int32_t)i;
        work->start[i + 1] += work->start[i];
    }
    for (int64_t i = 0; i < work->pairs; i++) {
        work->place[i] = work->start[work->chosen[i]]++;
        work->token[work->place[i]] = (int32_t)(i / active);
    }
    for (int64_t i = count; i > 0; i--) work->start[i] = work->start[i - 1];
    work->start[0] = 0;
}

static void round_pairs(const Product *product, int64_t first, int64_t end) {
    if (product->matrix->bits != 32)
        kernels()->round_rows(product->x, product->matrix->inputs, first, end,
                              (Rounded *)&product->rounded);
}

static void copy_inputs(void *argument, size_t index) {
    const Work *work = argument;
    const int64_t inputs = work->experts->inputs, first = (int64_t)index * ROWS_AT_ONCE;
    const int64_t end = least(first + ROWS_AT_ONCE, work->pairs);
    for (int64_t pair = first; pair < end; pair++)
        memcpy(work->in + pair * inputs, work->x + work->token[pair] * inputs,
               (size_t)inputs * sizeof(float));
    round_pairs(&work->gate_up, first, end);
}

static void multiply_part(const Work *work, const Product *product, int64_t index) {
    const int32_t expert = work->used[index / product->parts];
    const int64_t first = work->start[expert], end = work->start[expert + 1];
    const int64_t tile = index % product->parts * product->step;
    const int64_t last = least(tile + product->step, matrix_tiles(product->matrix));
    if (tile >= last) return;
    Matrix matrix = *product->matrix;
    matrix.data = product->data + expert * matrix_bytes(&matrix);
    if (matrix.bits == 32)
        kernels()->multiply_floats(&matrix, product->x, NULL, tile, last, first, end, product->y);
    else
        kernels()->multiply_rows(&matrix, &product->rounded, NULL, tile, last, first, end,
                                 product->y);
}

static void multiply_gate_up(void *argument, size_t index) {
    const Work *work = argument;
    multiply_part(work, &work->gate_up, (int64_t)index);
}

static void multiply_down(void *argument, size_t index) {
    const Work *work = argument;
    multiply_part(work, &work->down, (int64_t)index);
}

static void activate(void *argument, size_t index) {
    const Work *work = argument;
    const int64_t width = work->experts->width, first = (int64_t)index * ROWS_AT_ONCE;
    const int64_t end = least(first + ROWS_AT_ONCE, work->pairs);
    for (int64_t pair = first; pair < end; pair++) {
        const float *gate = work->gate_up.y + pair * 2 * width;
        kernels()->activate(work->experts->activation, gate, gate + width, NULL, width,
                            work->inner + pair * width);
    }
    round_pairs(&work->down, first, end);
}

static void add_up(void *argument, size_t index) {
    const Work *work = argument;
    const int64_t inputs = work->experts->inputs, active = work->experts->router.active;
    const int64_t first = (int64_t)index * ROWS_AT_ONCE;
    for (int64_t token = first; token < least(first + ROWS_AT_ONCE, work->tokens); token++) {
        float *y = work->y + token * inputs;
        memset(y, 0, (size_t)inputs * sizeof *y);
        for (int64_t i = token * active; i < (token + 1) * active; i++)
            kernels()->expand_rows(&work->weights[i], work->out + work->place[i] * inputs, 1, 1,
                                   inputs, 0, inputs, y);
    }
}

/* --- a piece of the step ----------------------------------------------------------------------- */

/* Rows in groups; the few tokens of decoding are not worth handing out. */
static const char *share_rows(Context *context, void (*task)(void *, size_t), Work *work,
                              int64_t rows) {
    const int64_t tasks = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    if (tasks > 1) return parallel(context, task, work, tasks);
    task(work, 0);
    return NULL;
}

static const char *share_tiles(Context *context, void (*task)(void *, size_t), Work *work,
                               Product *product) {
    const int64_t tiles = matrix_tiles(product->matrix);
    int64_t parts = matrix_bytes(product->matrix) / BYTES_AT_ONCE;
    parts = parts < 1 ? 1 : least(least(parts, MAX_PARTS), tiles);
    product->step = (tiles + parts - 1) / parts;
    product->parts = (tiles + product->step - 1) / product->step;
    return parallel(context, task, work, work->used_count * product->parts);
}

static const char *run_piece(Work *work, Context *context) {
    work->pairs = work->tokens * work->experts->router.active;
    const char *wrong = share_rows(context, choose, work, work->tokens);
    if (wrong != NULL) return wrong;
    gather(work);
    wrong = share_rows(context, copy_inputs, work, work->pairs);
    if (wrong == NULL) wrong = share_tiles(context, multiply_gate_up, work, &work->gate_up);
    if (wrong == NULL) wrong = share_rows(context, activate, work, work->pairs);
    if (wrong == NULL) wrong = share_tiles(context, multiply_down, work, &work->down);
    return wrong == NULL ? share_rows(context, add_up, work, work->tokens) : wrong;
}

/* --- memory ------------------------------------------------------------------------------------ */

/* Parts of one allocation, each on a cache line of its own. */
typedef struct Room {
    char *data; /* NULL while sizes are counted */
    int64_t used;
} Room;

static void *take(Room *room, int64_t count, int64_t bytes) {
    void *part = room->data == NULL ? NULL : room->data + room->used;
    room->used += (count * bytes + 63) / 64 * 64;
    return part;
}

static void take_rounded(Room *room, const Matrix *m, int64_t pairs, Rounded *rounded) {
    const int64_t blocks = m->bits == 32 ? 0 : matrix_blocks(m);
    *rounded = (Rounded){take(room, pairs * blocks, BLOCK), NULL, take(room, pairs * blocks, 4),
                         take(room, pairs * blocks, 4), blocks};
}

static void take_all(Room *room, Work *work, int64_t tokens) {
    const Experts *experts = work->experts;
    const Router *router = &experts->router;
    const int64_t pairs = tokens * router->active;
    work->chosen = take(room, pairs, 4);
    work->place = take(room, pairs, 4);
    work->token = take(room, pairs, 4);
    work->weights = take(room, pairs, 4);
    work->start = take(room, router->count + 1, 4);
    work->used = take(room, router->count, 4);
    work->room = take(room, tokens * (2 * router->count + router->groups), 4);
    work->in = work->out = take(room, pairs * experts->inputs, 4);
    work->inner = take(room, pairs * experts->width, 4);
    work->gate_up.x = work->in;
    work->gate_up.y = take(room, pairs * 2 * experts->width, 4);
    work->down.x = work->inner;
    work->down.y = work->out;
    take_rounded(room, &experts->gate_up, pairs, &work->gate_up.rounded);
    take_rounded(room, &experts->down, pairs, &work->down.rounded);
}

static const char *run_pieces(Work *work, Context *context, int64_t tokens) {
    const Experts *experts = work->experts;
    int64_t most = PAIRS_AT_ONCE / experts->router.active;
    most = least(most < 1 ? 1 : most, tokens);
    Room room = {NULL, 0};
    take_all(&room, work, most);
    room = (Room){malloc((size_t)room.used), 0};
    if (room.data == NULL) return "Experts: out of memory";
    take_all(&room, work, most);
    const char *wrong = NULL;
    for (int64_t first = 0; wrong == NULL && first < tokens; first += most) {
        work->tokens = least(most, tokens - first);
        wrong = run_piece(work, context);
        work->x += most * experts->inputs;
        work->logits += most * experts->router.count;
        work->y += most * experts->inputs;
    }
    free(room.data);
    return wrong;
}

static const char *check(const Experts *experts, Context *context, const Tensor *inputs) {
    const int64_t tokens = inputs[0].rank == 2 ? inputs[0].shape[0] : -2;
    const int64_t count = experts->router.count;
    if (!has_shape(&inputs[0], tokens, experts->inputs))
        return fail(context, "Experts: x must be [tokens, %lld]", (long long)experts->inputs);
    if (!has_shape(&inputs[1], tokens, count))
        return fail(context, "Experts: logits must be [tokens, %lld]", (long long)count);
    if (inputs[2].data != NULL && !has_shape(&inputs[2], count))
        return fail(context, "Experts: bias must be [%lld]", (long long)count);
    const Matrix *matrices[2] = {&experts->gate_up, &experts->down};
    for (int i = 0; i < 2; i++)
        if (inputs[3 + i].count != multiply(count, matrix_bytes(matrices[i]), 1))
            return fail(context, "Experts: %s has %lld bytes, the %lld experts %lld",
                        i ? "down" : "gate_up", (long long)inputs[3 + i].count, (long long)count,
                        (long long)multiply(count, matrix_bytes(matrices[i]), 1));
    return NULL;
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const Experts *experts = attributes;
    const char *wrong = check(experts, context, inputs);
    if (wrong != NULL) return wrong;
    Work work = {
        .experts = experts,
        .x = inputs[0].data,
        .logits = inputs[1].data,
        .bias = inputs[2].data,
        .y = output(context, 0, inputs[0].shape, 2),
        .gate_up = {.matrix = &experts->gate_up, .data = inputs[3].data},
        .down = {.matrix = &experts->down, .data = inputs[4].data},
    };
    if (work.y == NULL) return failure(context);
    return inputs[0].shape[0] == 0 ? NULL : run_pieces(&work, context, inputs[0].shape[0]);
}

const Operator operator_experts = {
    .name = "Experts",
    .input_count = 5,
    .inputs = {{"x", FLOAT32, false},
               {"logits", FLOAT32, false},
               {"bias", FLOAT32, true},
               {"gate_up", UINT8, false},
               {"down", UINT8, false}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
