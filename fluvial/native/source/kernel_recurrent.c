/* Short convolutions and the gated delta rule (recurrent.h). Features are independent of each
   other and tokens come in order, so a result depends neither on the batch nor on how the tokens
   were cut into steps. */
#include "kernel.h"
#include "vector.h"

enum { WIDE = 16, CHAINS = 4 };

INLINE void store_some(float *y, V16 a, int64_t count) {
    if (count >= WIDE) {
        v_store(y, a);
        return;
    }
    float part[WIDE];
    v_store(part, a);
    memcpy(y, part, (size_t)count * sizeof *y);
}

INLINE V16 v_silu(V16 x) {
    return v_div(x, v_add(v_set(1.0f), v_exp(v_sub(v_set(0.0f), x))));
}

/* One column of a [count][step] matrix. */
INLINE V16 load_column(const float *x, int64_t step, int64_t count) {
    float part[WIDE] = {0};
    for (int64_t i = 0; i < count; i++) part[i] = x[i * step];
    return v_load(part);
}

INLINE void store_column(float *y, int64_t step, V16 a, int64_t count) {
    float part[WIDE];
    v_store(part, a);
    for (int64_t i = 0; i < count; i++) y[i * step] = part[i];
}

INLINE void convolve_some(const Convolution *c, int64_t first, int64_t count, int gated) {
    const int taps = c->taps;
    float *state = c->state + first * (taps - 1);
    V16 weight[MAX_TAPS], seen[MAX_TAPS];
    for (int i = 0; i < taps; i++) {
        weight[i] = load_column(c->weight + first * taps + i, taps, count);
        seen[i] = c->fresh || i == taps - 1 ? v_set(0) : load_column(state + i, taps - 1, count);
    }
    for (int64_t token = 0; token < c->tokens; token++) {
        const float *x = c->x + token * c->x_step + first;
        V16 now = load_some(x, count);
        if (gated) now = v_mul(now, load_some(x + 2 * c->width, count));
        seen[taps - 1] = now;
        V16 sum = v_mul(weight[0], seen[0]);
        for (int i = 1; i < taps; i++) sum = v_fma(weight[i], seen[i], sum);
        sum = gated ? v_mul(sum, load_some(x + c->width, count)) : v_silu(sum);
        store_some(c->y + token * c->y_step + first, sum, count);
        for (int i = 0; i + 1 < taps; i++) seen[i] = seen[i + 1];
    }
    for (int i = 0; i + 1 < taps; i++) store_column(state + i, taps - 1, seen[i], count);
}

void KERNEL(convolve)(const Convolution *c, int64_t first, int64_t end) {
    for (int64_t i = first; i < end; i += WIDE) {
        const int64_t count = end - i < WIDE ? end - i : WIDE;
        if (c->gated)
            convolve_some(c, i, count, 1);
        else
            convolve_some(c, i, count, 0);
    }
}

/* S'x for 16 columns, in CHAINS sums that do not wait for each other. */
INLINE V16 multiply_state(const float *state, const float *x, int64_t width) {
    V16 sum[CHAINS];
    for (int i = 0; i < CHAINS; i++) sum[i] = v_set(0);
    int64_t row = 0;
    for (; row + CHAINS <= width; row += CHAINS)
        for (int i = 0; i < CHAINS; i++)
            sum[i] = v_fma(v_set(x[row + i]), v_load(state + (row + i) * WIDE), sum[i]);
    for (; row < width; row++) sum[0] = v_fma(v_set(x[row]), v_load(state + row * WIDE), sum[0]);
    return v_add(v_add(sum[0], sum[1]), v_add(sum[2], sum[3]));
}

/* S = decay * S + x delta' */
INLINE void add_product(float *state, const float *x, float decay, V16 delta, int64_t width) {
    for (int64_t row = 0; row < width; row++) {
        float *s = state + row * WIDE;
        v_store(s, v_fma(v_set(x[row]), delta, v_mul(v_load(s), v_set(decay))));
    }
}

void KERNEL(step_delta)(const Delta *d) {
    float state[MAX_KEY_WIDTH * WIDE]; /* side by side, where rows do not compete for cache sets */
    for (int64_t row = 0; row < d->key_width; row++)
        v_store(state + row * WIDE,
                d->fresh ? v_set(0) : load_some(d->state + row * d->state_step, d->columns));
    for (int64_t token = 0; token < d->tokens; token++) {
        const float *q = d->q + token * d->x_step, *k = d->k + token * d->x_step;
        const float decay = d->decay[token * d->gate_step], beta = d->beta[token * d->gate_step];
        const V16 known = v_mul(v_set(decay), multiply_state(state, k, d->key_width));
        const V16 value = load_some(d->v + token * d->x_step, d->columns);
        add_product(state, k, decay, v_mul(v_sub(value, known), v_set(beta)), d->key_width);
        store_some(d->y + token * d->y_step, multiply_state(state, q, d->key_width), d->columns);
    }
    for (int64_t row = 0; row < d->key_width; row++)
        store_some(d->state + row * d->state_step, v_load(state + row * WIDE), d->columns);
}

static float sum_squares(const float *x, int64_t count) {
    V16 sum = v_set(0);
    for (int64_t i = 0; i < count; i += WIDE) {
        const V16 part = load_some(x + i, count - i);
        sum = v_fma(part, part, sum);
    }
    return v_sum(sum);
}

void KERNEL(normalise)(float *x, int64_t count, float epsilon, float scale) {
    const float by = scale / sqrtf(sum_squares(x, count) + epsilon);
    for (int64_t i = 0; i < count; i += WIDE)
        store_some(x + i, v_mul(load_some(x + i, count - i), v_set(by)), count - i);
}

void KERNEL(gate_norm)(float *y, const float *z, const float *weight, int64_t count,
                       float epsilon) {
    const float by = 1.0f / sqrtf(sum_squares(y, count) / (float)count + epsilon);
    for (int64_t i = 0; i < count; i += WIDE) {
        const int64_t left = count - i;
        const V16 norm = v_mul(v_mul(load_some(y + i, left), v_set(by)), load_some(weight + i, left));
        store_some(y + i, v_mul(norm, v_silu(load_some(z + i, left))), left);
    }
}
