/* Inner loops of the output layer's gradient (head.h). */
#include "kernel.h"
#include "unpack.h"
#include "vector.h"

float KERNEL(sum_exponents)(const float *x, int64_t count) {
    V16 most = v_set(-INFINITY);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) most = v_max(most, v_load(x + i));
    float largest = v_most(most);
    for (int64_t j = i; j < count; j++) largest = x[j] > largest ? x[j] : largest;
    V16 sums = v_set(0), zeros = v_set(0); /* zeros stay so while all is finite */
    for (i = 0; i + 16 <= count; i += 16) {
        sums = v_add(sums, v_exp(v_sub(v_load(x + i), v_set(largest))));
        zeros = v_fma(v_load(x + i), v_set(0), zeros);
    }
    float sum = v_sum(sums) + v_sum(zeros);
    for (; i < count; i++) sum += expf(x[i] - largest);
    return largest + logf(sum);
}

static int is_followed(const float *x, int64_t count, float bound) {
    int any = 0;
    if (count == TILE)
        for (int i = 0; i < TILE; i++) any |= x[i] > bound;
    else
        for (int64_t i = 0; i < count; i++) any |= x[i] > bound;
    return any;
}

static void add_scaled(float *y, const float *x, float by, int64_t count) {
    const V16 factor = v_set(by);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        v_store(y + i, v_fma(v_load(x + i), factor, v_load(y + i)));
    for (; i < count; i++) y[i] += x[i] * by;
}

/* `weights` has room for a tile, [16][width]. */
void KERNEL(follow_tile)(const Head *head, int64_t tile, float *weights, Followed *followed) {
    const Matrix *m = &head->matrix;
    const int64_t first = tile * TILE, width = m->inputs;
    const int64_t count = m->outputs - first < TILE ? m->outputs - first : TILE;
    int known[TILE] = {0};
    for (int64_t row = 0; row < head->rows; row++) {
        const float *x = head->logits + row * m->outputs + first;
        const float bound = head->log_sums[row] + head->log_threshold;
        if (!is_followed(x, count, bound)) continue;
        for (int64_t i = 0; i < count; i++) {
            if (!(x[i] > bound)) continue;
            if (!known[i]) unpack_row(m, first + i, 1, weights + i * width);
            known[i] = 1;
            const float probability = expf(x[i] - head->log_sums[row]);
            const float factor = head_factor(probability, x[i], head->softcap);
            add_scaled(followed->gradient + row * width, weights + i * width, factor, width);
            followed->mass[row] += probability;
        }
    }
}
