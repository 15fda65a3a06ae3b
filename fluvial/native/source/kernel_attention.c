/* Attention's inner loops (attention.h). */
#include "kernel.h"
#include "vector.h"

/* Norm, turn and scale one head: y [width] from x [width]. */
void KERNEL(turn_head)(const Turn *turn, const float *x, int64_t width, float *y) {
    float factor = turn->scale;
    memcpy(y, x, (size_t)width * sizeof(float));
    if (turn->norm) {
        float sum[16] = {0};
        for (int64_t i = 0; i < width; i++) sum[i % 16] += x[i] * x[i];
        for (int step = 8; step > 0; step /= 2)
            for (int i = 0; i < step; i++) sum[i] += sum[i + step];
        const float inverse = 1.0f / sqrtf(sum[0] / (float)width + turn->epsilon);
        for (int64_t i = 0; i < width; i++) y[i] = x[i] * inverse * turn->norm[i];
    }
    if (turn->cosine) {
        float *at = y + turn->start;
        const int64_t step = turn->interleaved ? 2 : 1, apart = turn->interleaved ? 1 : turn->pairs;
        for (int64_t i = 0; i < turn->pairs; i++) {
            const float a = at[i * step], b = at[i * step + apart];
            at[i * step] = a * turn->cosine[i] - b * turn->sine[i];
            at[i * step + apart] = b * turn->cosine[i] + a * turn->sine[i];
        }
    }
    if (factor != 1.0f)
        for (int64_t i = 0; i < width; i++) y[i] *= factor;
}

INLINE void load_some(const float *x, int64_t count, float *sixteen) {
    memset(sixteen, 0, 16 * sizeof(float));
    memcpy(sixteen, x, (size_t)(count < 16 ? count : 16) * sizeof(float));
}

/* Put one token's key and value at place `lane` of a page's keys and values. */
void KERNEL(keep_token)(const float *key, int64_t key_width, const float *value,
                        int64_t value_width, int lane, uint16_t *keys, uint16_t *values) {
    uint16_t halves[16];
    float floats[16];
    for (int64_t i = 0; i < key_width; i += 16) {
        load_some(key + i, key_width - i, floats);
        v_store_half(halves, v_load(floats));
        for (int64_t j = i; j < key_width && j < i + 16; j++) keys[j * PAGE + lane] = halves[j - i];
    }
    uint16_t *to = values + lane * padded_width(value_width);
    for (int64_t i = 0; i < value_width; i += 16) {
        load_some(value + i, value_width - i, floats);
        v_store_half(to + i, v_load(floats));
    }
}

/* Halves ahead of what is read: pages mostly follow each other, and when they do not, nothing is
   lost but the time of a few fetches. */
enum { AHEAD = 2048 };

/* scores[i][...] of one page; n is known where this is expanded. */
INLINE void score_page(const Memory *m, const Asked *asked, int64_t page, float (*scores)[SPAN],
                       const int n) {
    const uint16_t *keys = m->keys + m->pages[page] * m->key_width * PAGE;
    V16 sum[QUERIES];
    for (int i = 0; i < n; i++) sum[i] = v_set(0);
    for (int64_t d = 0; d < m->key_width; d++) {
        const V16 key = v_load_half(keys + d * PAGE);
        __builtin_prefetch(keys + d * PAGE + AHEAD);
        for (int i = 0; i < n; i++) sum[i] = v_fma(v_set(asked->q[i][d]), key, sum[i]);
    }
    for (int i = 0; i < n; i++) v_store(scores[i] + page * PAGE % SPAN, sum[i]);
}

/* Add values of keys [first, end) to `groups` groups of 16 features from feature `at` on. */
INLINE void mix_values(const Memory *m, int64_t at, int64_t first, int64_t end,
                       float (*weights)[SPAN], const Found *found, const int n, const int groups) {
    const int64_t width = padded_width(m->value_width);
    V16 sum[4][QUERIES];
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < n; i++) sum[g][i] = v_set(0);
    for (int64_t page = first / PAGE; page * PAGE < end; page++) {
        const uint16_t *values = m->values + m->pages[page] * PAGE * width + at;
        const int64_t last = end - page * PAGE < PAGE ? end - page * PAGE : PAGE;
        for (int64_t k = first > page * PAGE ? first - page * PAGE : 0; k < last; k++)
            for (int g = 0; g < groups; g++) {
                const V16 value = v_load_half(values + k * width + 16 * g);
                __builtin_prefetch(values + k * width + 16 * g + AHEAD);
                for (int i = 0; i < n; i++)
                    sum[g][i] = v_fma(v_set(weights[i][(page * PAGE + k) % SPAN]), value, sum[g][i]);
            }
    }
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < n; i++) v_store(found->mixed[i] + at + 16 * g, sum[g][i]);
}

/* Turn scores of keys [first, end) into weights exp(score - most); others get none. */
INLINE void weigh(const Memory *m, const Asked *asked, int i, int64_t first, int64_t end,
                  float *scores, Found *found) {
    const int64_t low = asked->low[i] > first ? asked->low[i] : first;
    const int64_t high = asked->high[i] < end ? asked->high[i] : end;
    const int64_t filled = (end + PAGE - 1) / PAGE * PAGE;
    found->sum[i] = 0;
    found->most[i] = -INFINITY;
    if (low >= high) {
        memset(scores, 0, (size_t)(filled - first) * sizeof(float));
        return;
    }
    for (int64_t k = first; k < low; k++) scores[k - first] = -INFINITY;
    for (int64_t k = high; k < filled; k++) scores[k - first] = -INFINITY;
    V16 most = v_set(-INFINITY);
    for (int64_t k = 0; k < filled - first; k += 16) {
        V16 score = v_load(scores + k);
        if (m->softcap > 0) {
            /* cap * tanh(s / cap); tanh(u) = 1 - 2 / (exp(2u) + 1) */
            const V16 grown = v_exp(v_mul(score, v_set(2.0f / m->softcap)));
            const V16 part = v_div(v_set(2), v_add(grown, v_set(1)));
            score = v_mul(v_sub(v_set(1), part), v_set(m->softcap));
        }
        v_store(scores + k, score);
        most = v_max(most, score);
    }
    found->most[i] = v_most(most);
    V16 sum = v_set(0);
    for (int64_t k = 0; k < filled - first; k += 16) {
        v_store(scores + k, v_exp(v_sub(v_load(scores + k), v_set(found->most[i]))));
        if (k + first < low || k + first + 16 > high)
            for (int64_t j = k; j < k + 16; j++)
                if (j + first < low || j + first >= high) scores[j] = 0;
        sum = v_add(sum, v_load(scores + k));
    }
    found->sum[i] = v_sum(sum);
}

INLINE void attend_some(const Memory *m, const Asked *asked, int64_t first, int64_t end,
                        Found *found, const int n) {
    float scores[QUERIES][SPAN];
    /* As many features of a value at once as there are registers for; keys page by page. So both
       are read in one stream, which matters more than independent sums: 6.2 -> 3.1 us a span. */
    const int groups = n <= 5 ? 4 : 2;
    const int64_t pages = (end + PAGE - 1) / PAGE;
    /* nothing before the first key that is asked for: zero times NaN would be NaN */
    int64_t low = end;
    for (int i = 0; i < n; i++) low = asked->low[i] < low ? asked->low[i] : low;
    low = low > first ? low : first;
    int64_t page = low / PAGE;
    for (; page < pages; page++) score_page(m, asked, page, scores, n);
    for (int i = 0; i < n; i++) weigh(m, asked, i, first, end, scores[i], found);
    const int64_t width = padded_width(m->value_width);
    int64_t at = 0;
    for (; at + 16 * groups <= width; at += 16 * groups)
        mix_values(m, at, low, end, scores, found, n, groups);
    for (; at < width; at += 16) mix_values(m, at, low, end, scores, found, n, 1);
}

/* Look at keys [first, end) of one span: first a multiple of SPAN, end at most first + SPAN, and all
   before end written. */
void KERNEL(attend)(const Memory *memory, const Asked *asked, int64_t first, int64_t end,
                    Found *found) {
    switch (asked->count) {
    case 1: attend_some(memory, asked, first, end, found, 1); break;
    case 2: attend_some(memory, asked, first, end, found, 2); break;
    case 3: attend_some(memory, asked, first, end, found, 3); break;
    case 4: attend_some(memory, asked, first, end, found, 4); break;
    case 5: attend_some(memory, asked, first, end, found, 5); break;
    case 6: attend_some(memory, asked, first, end, found, 6); break;
    case 7: attend_some(memory, asked, first, end, found, 7); break;
    default: attend_some(memory, asked, first, end, found, 8); break;
    }
}

/* Put what a span gave onto what the spans before it gave. */
void KERNEL(join_spans)(float *most, float *sum, float *mixed, float span_most, float span_sum,
                        const float *span_mixed, int64_t width) {
    if (span_most == -INFINITY) return;
    if (*most == -INFINITY) {
        *most = span_most;
        *sum = span_sum;
        memcpy(mixed, span_mixed, (size_t)width * sizeof(float));
        return;
    }
    const float top = *most > span_most ? *most : span_most;
    const float old = expf(*most - top), fresh = expf(span_most - top);
    *most = top;
    *sum = *sum * old + span_sum * fresh;
    for (int64_t i = 0; i < width; i += 16) {
        const V16 kept = v_mul(v_load(mixed + i), v_set(old));
        v_store(mixed + i, v_fma(v_load(span_mixed + i), v_set(fresh), kept));
    }
}
