/* Attention's inner loops over pages in float16 (attention.h). */
#ifndef FLUVIAL_ATTENTION_HALF_H
#define FLUVIAL_ATTENTION_HALF_H

#include "attention.h"
#include "vector.h"

INLINE void keep_halves(const Memory *m, int64_t position, const float *key, const float *value) {
    const int64_t lane = position % PAGE;
    uint16_t halves[16], *keys = (uint16_t *)keys_of(m, position / PAGE);
    uint16_t *values = (uint16_t *)values_of(m, position / PAGE) + lane * padded_width(m->value_width);
    for (int64_t i = 0; i < m->key_width; i += 16) {
        v_store_half(halves, load_some(key + i, m->key_width - i));
        for (int64_t j = i; j < m->key_width && j < i + 16; j++) keys[j * PAGE + lane] = halves[j - i];
    }
    for (int64_t i = 0; i < m->value_width; i += 16)
        v_store_half(values + i, load_some(value + i, m->value_width - i));
}

/* Halves ahead of what is read: pages mostly follow each other, and when they do not, nothing is
   lost but the time of a few fetches. */
enum { AHEAD = 2048 };

/* scores[i][...] of one page; n is known where this is expanded. */
INLINE void score_halves(const Memory *m, const Asked *asked, int64_t page, float (*scores)[SPAN],
                         const int n) {
    const uint16_t *keys = (const uint16_t *)keys_of(m, page);
    V16 sum[QUERIES];
    for (int i = 0; i < n; i++) sum[i] = v_set(0);
    for (int64_t d = 0; d < m->key_width; d++) {
        const V16 key = v_load_half(keys + d * PAGE);
        __builtin_prefetch(keys + d * PAGE + AHEAD);
        for (int i = 0; i < n; i++) sum[i] = v_fma(v_set(asked->q[i][d]), key, sum[i]);
    }
    for (int i = 0; i < n; i++) v_store(scores[i] + page * PAGE % SPAN, sum[i]);
}

/* Mix `groups` groups of 16 features, from feature `at` on, of the values of keys [first, end). */
INLINE void mix_some_halves(const Memory *m, int64_t at, int64_t first, int64_t end,
                            float (*weights)[SPAN], const Found *found, const int n,
                            const int groups) {
    const int64_t width = padded_width(m->value_width);
    V16 sum[4][QUERIES];
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < n; i++) sum[g][i] = v_set(0);
    for (int64_t page = first / PAGE; page * PAGE < end; page++) {
        const uint16_t *values = (const uint16_t *)values_of(m, page) + at;
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

INLINE void mix_halves(const Memory *m, int64_t first, int64_t end, float (*weights)[SPAN],
                       const Found *found, const int n) {
    /* As many features at once as there are registers for, so that values are read in one stream,
       which matters more than independent sums: 6.2 -> 3.1 us a span. */
    const int groups = n <= 5 ? 4 : 2;
    const int64_t width = padded_width(m->value_width);
    int64_t at = 0;
    for (; at + 16 * groups <= width; at += 16 * groups)
        mix_some_halves(m, at, first, end, weights, found, n, groups);
    for (; at < width; at += 16) mix_some_halves(m, at, first, end, weights, found, n, 1);
}

#endif
