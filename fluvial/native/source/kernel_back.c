/* Inner loops of gradients (back.h). */
#include "kernel.h"
#include "vector.h"

INLINE void add_scaled(float *y, const float *x, float by, int64_t count) {
    const V16 factor = v_set(by);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16)
        v_store(y + i, v_fma(v_load(x + i), factor, v_load(y + i)));
    for (; i < count; i++) y[i] += x[i] * by;
}

INLINE float dot(const float *x, const float *y, int64_t count) {
    V16 sum = v_set(0);
    int64_t i = 0;
    for (; i + 16 <= count; i += 16) sum = v_fma(v_load(x + i), v_load(y + i), sum);
    if (i < count)
        sum = v_fma(load_some(x + i, count - i), load_some(y + i, count - i), sum);
    return v_sum(sum);
}

/* y = (grad * weight - x * mean(grad * weight * x) / ms) / sqrt(ms), ms the mean square. */
void KERNEL(norm_back)(const float *x, const float *weight, const float *grad, float epsilon,
                       int64_t width, float *y) {
    V16 squares = v_set(0), along = v_set(0);
    int64_t i = 0;
    for (; i < width; i += 16) {
        const V16 value = load_some(x + i, width - i);
        const V16 scaled = v_mul(load_some(grad + i, width - i), load_some(weight + i, width - i));
        squares = v_fma(value, value, squares);
        along = v_fma(scaled, value, along);
    }
    const float inverse = 1.0f / sqrtf(v_sum(squares) / (float)width + epsilon);
    const float back = -v_sum(along) * inverse * inverse * inverse / (float)width;
    for (i = 0; i + 16 <= width; i += 16) {
        const V16 scaled = v_mul(v_load(grad + i), v_load(weight + i));
        v_store(y + i, v_fma(v_load(x + i), v_set(back), v_mul(scaled, v_set(inverse))));
    }
    for (; i < width; i++) y[i] = grad[i] * weight[i] * inverse + x[i] * back;
}

/* 1 / (1 + exp(-x)) */
INLINE V16 bend(V16 x) {
    return v_div(v_set(1), v_add(v_set(1), v_exp(v_sub(v_set(0), x))));
}

typedef struct Activated {
    V16 value, slope;
} Activated;

/* silu: x s(x); gelu in its tanh form: x s(2 u(x)). s' = s (1 - s). */
INLINE Activated follow_activation(int kind, V16 x) {
    V16 inner = x, inner_slope = v_set(1);
    if (kind == 1) {
        const V16 square = v_mul(x, x), factor = v_set(1.5957691216f); /* 2 sqrt(2/pi) */
        inner = v_mul(v_mul(x, v_fma(square, v_set(0.044715f), v_set(1))), factor);
        inner_slope = v_mul(v_fma(square, v_set(3 * 0.044715f), v_set(1)), factor);
    }
    const V16 s = bend(inner), value = v_mul(x, s);
    return (Activated){value, v_fma(v_mul(value, v_sub(v_set(1), s)), inner_slope, s)};
}

INLINE void store_some(float *y, V16 a, int64_t count) {
    if (count >= 16) {
        v_store(y, a);
        return;
    }
    float part[16];
    v_store(part, a);
    memcpy(y, part, (size_t)count * sizeof *y);
}

void KERNEL(activate_back)(int kind, const float *gate, const float *up, const float *gain,
                           const float *grad, int64_t width, float *grad_gate, float *grad_up,
                           float *grad_gain) {
    for (int64_t i = 0; i < width; i += 16) {
        const int64_t count = width - i;
        const V16 u = load_some(up + i, count), g = load_some(grad + i, count);
        const Activated known = follow_activation(kind, load_some(gate + i, count));
        V16 scaled = g;
        if (gain) scaled = v_mul(g, v_add(v_set(1), load_some(gain + i, count)));
        store_some(grad_gate + i, v_mul(v_mul(scaled, u), known.slope), count);
        store_some(grad_up + i, v_mul(scaled, known.value), count);
        if (grad_gain) {
            const V16 before = load_some(grad_gain + i, count);
            store_some(grad_gain + i, v_fma(v_mul(g, u), known.value, before), count);
        }
    }
}

INLINE void dot_tile(const float *x, int64_t stride, const float *m, int64_t rank, int64_t count,
                     float *low) {
    V16 sums[4][4];
    for (int i = 0; i < 4; i++)
        for (int r = 0; r < 4; r++) sums[i][r] = v_set(0);
    int64_t n = 0;
    for (; n + 16 <= count; n += 16) {
        V16 rows[4];
        for (int i = 0; i < 4; i++) rows[i] = v_load(x + i * stride + n);
        for (int r = 0; r < 4; r++) {
            const V16 column = v_load(m + r * count + n);
            for (int i = 0; i < 4; i++) sums[i][r] = v_fma(rows[i], column, sums[i][r]);
        }
    }
    for (int i = 0; n < count && i < 4; i++)
        for (int r = 0; r < 4; r++) {
            const V16 column = load_some(m + r * count + n, count - n);
            sums[i][r] = v_fma(load_some(x + i * stride + n, count - n), column, sums[i][r]);
        }
    for (int i = 0; i < 4; i++)
        for (int r = 0; r < 4; r++) low[i * rank + r] = v_sum(sums[i][r]);
}

/* low[s][r] = sum over n of x[s][n] * m[r][n] */
void KERNEL(reduce_rows)(const float *x, const float *m, int64_t rows, int64_t rank, int64_t count,
                         float *low) {
    for (int64_t s = 0; s < rows; s += 4)
        for (int64_t r = 0; r < rank; r += 4) {
            if (s + 4 <= rows && r + 4 <= rank) {
                dot_tile(x + s * count, count, m + r * count, rank, count, low + s * rank + r);
                continue;
            }
            for (int64_t i = s; i < rows && i < s + 4; i++)
                for (int64_t j = r; j < rank && j < r + 4; j++)
                    low[i * rank + j] = dot(x + i * count, m + j * count, count);
        }
}

/* Eight ranks from r on, and `columns` times 16 columns from n on, known where this is expanded: as
   many as there are registers for, since a factor is fetched for each of them. */
INLINE void sum_tile(const float *low, const float *x, int64_t rows, int64_t rank, int64_t count,
                     int64_t r, int64_t n, float *y, const int columns) {
    V16 sums[8][2];
    for (int j = 0; j < 8; j++)
        for (int c = 0; c < columns; c++) sums[j][c] = v_set(0);
    for (int64_t s = 0; s < rows; s++) {
        const float *factors = low + s * rank + r;
        V16 values[2];
        for (int c = 0; c < columns; c++) values[c] = v_load(x + s * count + n + 16 * c);
        for (int j = 0; j < 8; j++)
            for (int c = 0; c < columns; c++)
                sums[j][c] = v_fma(values[c], v_set(factors[j]), sums[j][c]);
    }
    for (int j = 0; j < 8; j++)
        for (int c = 0; c < columns; c++) v_store(y + (r + j) * count + n + 16 * c, sums[j][c]);
}

/* The same for up to eight ranks and 16 columns. */
static void sum_some(const float *low, const float *x, int64_t rows, int64_t rank, int64_t count,
                     int64_t r, int64_t n, int64_t end, float *y) {
    for (int64_t j = r; j < rank && j < r + 8; j++) {
        V16 sum = v_set(0);
        for (int64_t s = 0; s < rows; s++) {
            const V16 value = load_some(x + s * count + n, end - n);
            sum = v_fma(value, v_set(low[s * rank + j]), sum);
        }
        store_some(y + j * count + n, sum, end - n);
    }
}

/* y[r][n] = sum over s of low[s][r] * x[s][n], for n in [first, end) */
void KERNEL(sum_rows)(const float *low, const float *x, int64_t rows, int64_t rank, int64_t count,
                      int64_t first, int64_t end, float *y) {
#if defined(HAS_AVX512)
    enum { COLUMNS = 2 };
#else
    enum { COLUMNS = 1 };
#endif
    for (int64_t r = 0; r < rank; r += 8) {
        int64_t n = first;
        for (; r + 8 <= rank && n + 16 * COLUMNS <= end; n += 16 * COLUMNS)
            sum_tile(low, x, rows, rank, count, r, n, y, COLUMNS);
        for (; n < end; n += 16) sum_some(low, x, rows, rank, count, r, n, end, y);
    }
}

/* Scores of up to four queries with 32 keys. */
INLINE void score_tile(const AttentionBack *a, int64_t query, int queries, int64_t key) {
    V16 sums[4][2];
    const float *q[4];
    for (int i = 0; i < 4; i++) {
        q[i] = a->q + (query + (i < queries ? i : 0)) * a->width;
        sums[i][0] = sums[i][1] = v_set(0);
    }
    for (int64_t w = 0; w < a->width; w++) {
        const float *keys = a->turned + key * a->width + w * KEYS_AT_ONCE;
        const V16 first = v_load(keys), second = v_load(keys + 16);
        for (int i = 0; i < 4; i++) {
            const V16 value = v_set(q[i][w]);
            sums[i][0] = v_fma(first, value, sums[i][0]);
            sums[i][1] = v_fma(second, value, sums[i][1]);
        }
    }
    for (int i = 0; i < queries; i++) {
        v_store(a->scores + i * a->stride + key, sums[i][0]);
        v_store(a->scores + i * a->stride + key + 16, sums[i][1]);
    }
}

/* cap * tanh(x / cap) of scores, tanh(x) = 2 s(2 x) - 1 */
INLINE void cap_scores(float *scores, int64_t first, int64_t end, float cap) {
    for (int64_t t = first; t < end; t += 16) {
        const V16 s = bend(v_mul(v_load(scores + t), v_set(2 / cap)));
        v_store(scores + t, v_mul(v_fma(s, v_set(2), v_set(-1)), v_set(cap)));
    }
}

/* Turn the scores of keys [first, end) into exponents, zeros beside them; returns their sum, and
   the greatest score in `most`. */
INLINE float take_exponents(float *scores, int64_t first, int64_t end, float *most) {
    const int64_t low = first / 16 * 16, high = (end + 15) / 16 * 16;
    for (int64_t t = low; t < first; t++) scores[t] = -INFINITY;
    for (int64_t t = end; t < high; t++) scores[t] = -INFINITY;
    V16 largest = v_load(scores + low), sum = v_set(0);
    for (int64_t t = low; t < high; t += 16) largest = v_max(largest, v_load(scores + t));
    *most = v_most(largest);
    for (int64_t t = low; t < high; t += 16) {
        const V16 value = v_exp(v_sub(v_load(scores + t), v_set(*most)));
        v_store(scores + t, value);
        sum = v_add(sum, value);
    }
    return v_sum(sum);
}

/* List the keys of [first, end) whose exponent is more than `least`, and whatever after them. */
INLINE int64_t list_keys(const float *exponents, int64_t first, int64_t end, float least,
                         int32_t *keys) {
    int64_t count = 0;
    for (int64_t t = first / 16 * 16; t < end; t += 16) {
#if defined(HAS_AVX512)
        uint32_t more = _mm512_cmp_ps_mask(v_load(exponents + t), v_set(least), _CMP_GT_OQ);
        if (t < first) more &= 0xffffu << (first - t);
        if (t + 16 > end) more &= 0xffffu >> (t + 16 - end);
        if (!more) continue;
        const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const __m512i all = _mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)t));
        _mm512_storeu_si512(keys + count, _mm512_maskz_compress_epi32((__mmask16)more, all));
        count += __builtin_popcount(more);
#else
        int any = 0;
        for (int i = 0; i < 16; i++) any |= exponents[t + i] > least;
        if (!any) continue;
        for (int64_t key = t < first ? first : t; key < t + 16 && key < end; key++) {
            keys[count] = (int32_t)key;
            count += exponents[key] > least;
        }
#endif
    }
    return count;
}

/* y[w] = sum over `count` rows of factors[i] * x[rows[i]][w] */
static void gather_rows(const float *x, int64_t width, const int32_t *rows, const float *factors,
                        int64_t count, float *y) {
    int64_t w = 0;
    for (; w + 64 <= width; w += 64) {
        V16 sums[4];
        for (int j = 0; j < 4; j++) sums[j] = v_set(0);
        for (int64_t i = 0; i < count; i++) {
            const float *row = x + rows[i] * width + w;
            for (int j = 0; j < 4; j++)
                sums[j] = v_fma(v_load(row + 16 * j), v_set(factors[i]), sums[j]);
        }
        for (int j = 0; j < 4; j++) v_store(y + w + 16 * j, sums[j]);
    }
    for (; w < width; w += 16) {
        V16 sum = v_set(0);
        for (int64_t i = 0; i < count; i++)
            sum = v_fma(load_some(x + rows[i] * width + w, width - w), v_set(factors[i]), sum);
        store_some(y + w, sum, width - w);
    }
}

/* found[i] = x . rows[keys[i]] for four keys. */
INLINE void dot_four(const float *x, const float *rows, const int32_t *keys, int64_t width,
                     float *found) {
    V16 sums[4];
    for (int i = 0; i < 4; i++) sums[i] = v_set(0);
    for (int64_t w = 0; w < width; w += 16) {
        const V16 some = load_some(x + w, width - w);
        for (int i = 0; i < 4; i++) {
            const V16 row = load_some(rows + keys[i] * width + w, width - w);
            sums[i] = v_fma(row, some, sums[i]);
        }
    }
    for (int i = 0; i < 4; i++) found[i] = v_sum(sums[i]);
}

/* changes[i]: how the gradient by what was mixed points along the value of the i-th key. */
INLINE void dot_values(const AttentionBack *a, const float *grad, int64_t count) {
    const int64_t width = a->value_width;
    int64_t i = 0;
    for (; i + 4 <= count; i += 4) dot_four(grad, a->v, a->followed + i, width, a->changes + i);
    for (; i < count; i++) a->changes[i] = dot(grad, a->v + a->followed[i] * width, width);
}

static void follow_row(const AttentionBack *a, int64_t row, float *scores) {
    const int64_t end = a->past + row + 1, value_width = a->value_width;
    const int64_t first = a->window > 0 && end > a->window ? end - a->window : 0;
    const int capped = a->softcap != 0;
    if (capped) cap_scores(scores, first / 16 * 16, end, a->softcap);
    float most;
    const float sum = take_exponents(scores, first, end, &most), inverse = 1 / sum;
    const float *grad = a->grad + row * a->mixed_stride, *q = a->q + row * a->width;
    const float along = dot(a->mixed + row * a->mixed_stride, grad, value_width);
    const int64_t count = list_keys(scores, first, end, a->threshold * sum, a->followed);
    dot_values(a, grad, count);
    for (int64_t i = 0; i < count; i++) {
        const int64_t key = a->followed[i], new = key - a->past;
        const float share = scores[key] * inverse;
        float change = share * (a->changes[i] - along);
        if (capped) {
            const float bent = (logf(scores[key]) + most) / a->softcap;
            change *= 1 - bent * bent;
        }
        a->changes[i] = change;
        if (new < 0) continue;
        add_scaled(a->grad_k + new * a->width, q, change, a->width);
        add_scaled(a->grad_v + new * value_width, grad, share, value_width);
    }
    gather_rows(a->k, a->width, a->followed, a->changes, count, a->grad_q + row * a->width);
}

void KERNEL(attend_back)(const AttentionBack *a) {
    memset(a->grad_k, 0, (size_t)(a->rows * a->width) * sizeof(float));
    memset(a->grad_v, 0, (size_t)(a->rows * a->value_width) * sizeof(float));
    for (int64_t row = 0; row < a->rows; row += 4) {
        const int queries = a->rows - row < 4 ? (int)(a->rows - row) : 4;
        const int64_t end = a->past + row + queries;
        const int64_t seen = a->past + row + 1;
        const int64_t first = a->window > 0 && seen > a->window ? seen - a->window : 0;
        for (int64_t key = first / KEYS_AT_ONCE * KEYS_AT_ONCE; key < end; key += KEYS_AT_ONCE)
            score_tile(a, row, queries, key);
        for (int i = 0; i < queries; i++) follow_row(a, row + i, a->scores + i * a->stride);
    }
}
