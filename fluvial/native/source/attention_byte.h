/* Attention's inner loops over pages of 8 bits (attention.h). */
#ifndef FLUVIAL_ATTENTION_BYTE_H
#define FLUVIAL_ATTENTION_BYTE_H

#include "attention.h"
#include "exact.h"

enum { GROUP = 4 * PAGE };

/* For what does not depend on the number of queries: compiled once, not for each of them. */
#define ONCE __attribute__((noinline))

/* ---- writing ------------------------------------------------------------------------------- */

INLINE V16 magnitude(V16 x) { return v_max(x, v_sub(v_set(0), x)); }

/* The scale of numbers up to `most`, as it is kept: never so small that 127 of it are under `most`. */
INLINE uint16_t choose_scale(float most) {
    const float exact = most / 127.0f;
    uint16_t half = narrow_float(exact);
    if (widen_half(half) < exact) half++;
    return half;
}

/* Round `count` floats to bytes by one scale, which is returned; a last block is filled up with 128. */
INLINE uint16_t round_bytes(const float *x, int64_t count, uint8_t *bytes) {
    V16 most = v_set(0), sound = v_set(0);
    for (int64_t i = 0; i < count; i += 16) {
        const V16 some = load_some(x + i, count - i);
        most = v_max(most, magnitude(some));
        /* a maximum may drop what is no number; zero times it stays */
        sound = v_fma(some, v_set(0), sound);
    }
    const uint16_t half = choose_scale(v_most(most) + v_sum(sound));
    const float scale = widen_half(half), inverse = scale > 0 && scale < INFINITY ? 1.0f / scale : 0;
    for (int64_t i = 0; i < count; i += 16) {
        float floats[16];
        const V16 whole = v_round(v_mul(load_some(x + i, count - i), v_set(inverse)));
        v_store(floats, v_add(v_max(v_min(whole, v_set(127)), v_set(-127)), v_set(128)));
        for (int j = 0; j < 16; j++) bytes[i + j] = (uint8_t)floats[j];
    }
    return half;
}

INLINE void keep_bytes(const Memory *m, int64_t position, const float *key, const float *value) {
    const int64_t lane = position % PAGE, blocks = key_blocks(m->key_width);
    const int64_t width = padded_width(m->value_width);
    uint8_t *keys = keys_of(m, position / PAGE), *values = values_of(m, position / PAGE);
    uint16_t *scales = (uint16_t *)(keys + blocks * KEY_BLOCK * PAGE);
    uint8_t bytes[WIDEST_HEAD];
    for (int64_t b = 0; b < blocks; b++) {
        const int64_t start = b * KEY_BLOCK, left = m->key_width - start;
        scales[b * PAGE + lane] = round_bytes(key + start, left < KEY_BLOCK ? left : KEY_BLOCK, bytes);
        for (int64_t i = 0; i < (left < KEY_BLOCK ? padded_width(left) : KEY_BLOCK); i += 4)
            memcpy(keys + (start + i) * PAGE + lane * 4, bytes + i, 4);
    }
    ((uint16_t *)(values + width * PAGE))[lane] = round_bytes(value, m->value_width, bytes);
    for (int64_t d = 0; d < width; d++) values[lane / 4 * 4 * width + 4 * d + lane % 4] = bytes[d];
}

/* ---- reading ------------------------------------------------------------------------------- */

/* Queries in 16 bits: q = scale * whole. */
typedef struct {
    int8_t parts[QUERIES][2 * WIDEST_HEAD];
    int32_t sums[QUERIES][WIDEST_HEAD / KEY_BLOCK];
    float scale[QUERIES];
} Questions;

static ONCE void round_query(const float *q, int64_t width, int i, Questions *out) {
    V16 most = v_set(0), sound = v_set(0);
    for (int64_t d = 0; d < width; d += 16) {
        const V16 some = load_some(q + d, width - d);
        most = v_max(most, magnitude(some));
        sound = v_fma(some, v_set(0), sound);
    }
    const float largest = v_most(most) + v_sum(sound);
    const float inverse = largest > 1e-30f && largest < INFINITY ? LARGEST_WEIGHT / largest : 0;
    out->scale[i] = largest / LARGEST_WEIGHT;
    for (int64_t b = 0; b < key_blocks(width); b++) {
        V16 sum = v_set(0);
        for (int64_t d = b * KEY_BLOCK; d < (b + 1) * KEY_BLOCK; d += 16) {
            const V16 some = load_some(q + d, d < width ? width - d : 0);
            const V16 whole = v_round(v_mul(some, v_set(inverse)));
            split_weights(whole, out->parts[i] + 2 * d);
            sum = v_add(sum, whole);
        }
        out->sums[i][b] = (int32_t)v_sum(sum); /* exact: under 2^24 */
    }
}

/* Bytes ahead of what is read. */
enum { FAR = 1088 };

/* scores[i][...] of one page; n is known where this is expanded. */
INLINE void score_bytes(const Memory *m, const Questions *questions, int64_t page,
                        float (*scores)[SPAN], const int n) {
    const int64_t blocks = key_blocks(m->key_width);
    const uint8_t *keys = keys_of(m, page);
    const uint16_t *scales = (const uint16_t *)(keys + blocks * KEY_BLOCK * PAGE);
    V16 sum[QUERIES];
    for (int i = 0; i < n; i++) sum[i] = v_set(0);
    for (int64_t b = 0; b < blocks; b++) {
        Exact exact[QUERIES];
        for (int i = 0; i < n; i++) exact[i] = exact_start(questions->sums[i][b]);
        for (int64_t g = b * KEY_BLOCK / 4; g < (b + 1) * KEY_BLOCK / 4; g++) {
            const Bytes64 four = load_bytes(keys + g * GROUP);
            __builtin_prefetch(keys + g * GROUP + FAR);
            for (int i = 0; i < n; i++)
                exact[i] = exact_add(exact[i], four, questions->parts[i] + g * FOUR_BYTES);
        }
        const V16 scale = v_load_half(scales + b * PAGE);
        for (int i = 0; i < n; i++) sum[i] = v_fma(exact_value(exact[i]), scale, sum[i]);
    }
    for (int i = 0; i < n; i++)
        v_store(scores[i] + page * PAGE % SPAN, v_mul(sum[i], v_set(questions->scale[i])));
}

/* Weights of a span, times the scales of their values, in 16 bits. */
typedef struct {
    int8_t parts[QUERIES][2 * SPAN];
    int32_t sum[QUERIES];
    float scale[QUERIES];
} Shares;

/* weights[k % SPAN] of keys [low, high) times their values' scales, rounded; none elsewhere in the
   pages of [first, end). */
static ONCE void round_weights(const Memory *m, int64_t first, int64_t end, int64_t low,
                               int64_t high, float *weights, int i, Shares *out) {
    const int64_t scales = padded_width(m->value_width) * PAGE;
    V16 most = v_set(0), sound = v_set(0), sum = v_set(0);
    for (int64_t page = first / PAGE; page * PAGE < end; page++) {
        float *at = weights + page * PAGE % SPAN;
        V16 weight = v_mul(v_load(at), v_load_half((const uint16_t *)(values_of(m, page) + scales)));
        if (page * PAGE < low || (page + 1) * PAGE > high) {
            /* a place without a token may hold a scale that is no number */
            v_store(at, weight);
            for (int64_t k = 0; k < PAGE; k++)
                if (page * PAGE + k < low || page * PAGE + k >= high) at[k] = 0;
            weight = v_load(at);
        }
        v_store(at, weight);
        most = v_max(most, weight);
        sound = v_fma(weight, v_set(0), sound);
    }
    const float largest = v_most(most) + v_sum(sound);
    const float inverse = largest > 1e-30f && largest < INFINITY ? LARGEST_WEIGHT / largest : 0;
    out->scale[i] = largest / LARGEST_WEIGHT;
    for (int64_t page = first / PAGE; page * PAGE < end; page++) {
        const int64_t at = page * PAGE % SPAN;
        const V16 whole = v_round(v_mul(v_load(weights + at), v_set(inverse)));
        split_weights(whole, out->parts[i] + 2 * at);
        sum = v_add(sum, whole);
    }
    out->sum[i] = (int32_t)v_sum(sum); /* exact: under 2^24 */
}

/* Mix `groups` groups of 16 features, from feature `at` on, of the values of the pages of keys
   [first, end). */
INLINE void mix_some_bytes(const Memory *m, int64_t at, int64_t first, int64_t end,
                           const Shares *shares, const Found *found, const int n,
                           const int groups) {
    const int64_t width = padded_width(m->value_width);
    Exact sum[4][QUERIES];
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < n; i++) sum[g][i] = exact_start(shares->sum[i]);
    for (int64_t page = first / PAGE; page * PAGE < end; page++) {
        const uint8_t *values = values_of(m, page) + 4 * at;
        for (int64_t k = 0; k < PAGE; k += 4)
            for (int g = 0; g < groups; g++) {
                const Bytes64 four = load_bytes(values + k * width + GROUP * g);
                __builtin_prefetch(values + k * width + GROUP * g + FAR);
                const int64_t part = 2 * ((page * PAGE + k) % SPAN);
                for (int i = 0; i < n; i++)
                    sum[g][i] = exact_add(sum[g][i], four, shares->parts[i] + part);
            }
    }
    for (int g = 0; g < groups; g++)
        for (int i = 0; i < n; i++)
            v_store(found->mixed[i] + at + 16 * g,
                    v_mul(exact_value(sum[g][i]), v_set(shares->scale[i])));
}

INLINE void mix_bytes(const Memory *m, int64_t first, int64_t end, const Shares *shares,
                      const Found *found, const int n) {
    const int groups = n <= 3 ? 4 : n <= 6 ? 2 : 1; /* as there are registers */
    const int64_t width = padded_width(m->value_width);
    int64_t at = 0;
    for (; at + 16 * groups <= width; at += 16 * groups)
        mix_some_bytes(m, at, first, end, shares, found, n, groups);
    for (; at < width; at += 16) mix_some_bytes(m, at, first, end, shares, found, n, 1);
}

#endif
