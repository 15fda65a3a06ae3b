/* Attention's inner loops (attention.h). */
#include "kernel.h"
#include "attention_half.h"
#include "attention_byte.h"

#include <float.h>

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

/* Put the key and the value of the token at `position` into their page. */
void KERNEL(keep_token)(const Memory *memory, int64_t position, const float *key,
                        const float *value) {
    if (memory->bits == 16)
        keep_halves(memory, position, key, value);
    else
        keep_bytes(memory, position, key, value);
}

/* Turn scores of keys [first, end) into weights exp(score - most); others get none. */
static ONCE void weigh(const Memory *m, const Asked *asked, int i, int64_t first, int64_t end,
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
    for (int64_t k = first; k < low; k++) scores[k - first] = -FLT_MAX;
    for (int64_t k = high; k < filled; k++) scores[k - first] = -FLT_MAX;
    /* maxima and exp may drop what is no number; zero times it stays */
    V16 most = v_set(-FLT_MAX), sound = v_set(0);
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
        sound = v_fma(score, v_set(0), sound);
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
    found->sum[i] = v_sum(sum) + v_sum(sound);
}

/* The first key that any query reaches: what is before it is not looked at, as zero times NaN would
   be NaN. */
INLINE int64_t first_reached(const Asked *asked, int64_t first, int64_t end, const int n) {
    int64_t low = end;
    for (int i = 0; i < n; i++) low = asked->low[i] < low ? asked->low[i] : low;
    return low > first ? low : first;
}

/* Keys [first, end) of a run, one span of it. */
typedef struct {
    int64_t first, end, low;
} Reach;

INLINE Reach reach_span(const Asked *asked, int64_t first, int64_t end, int64_t span, const int n) {
    const int64_t from = first + span * SPAN, to = from + SPAN < end ? from + SPAN : end;
    return (Reach){from, to, first_reached(asked, from, to, n)};
}

INLINE void attend_halves(const Memory *m, const Asked *asked, int64_t first, int64_t end,
                          Found *found, const int n) {
    float scores[RUN][QUERIES][SPAN];
    const int64_t spans = (end - first + SPAN - 1) / SPAN;
    for (int64_t s = 0; s < spans; s++) {
        const Reach at = reach_span(asked, first, end, s, n);
        for (int64_t page = at.low / PAGE; page * PAGE < at.end; page++)
            score_halves(m, asked, page, scores[s], n);
    }
    for (int64_t s = 0; s < spans; s++) {
        const Reach at = reach_span(asked, first, end, s, n);
        for (int i = 0; i < n; i++) weigh(m, asked, i, at.first, at.end, scores[s][i], found + s);
        mix_halves(m, at.low, at.end, scores[s], found + s, n);
    }
}

INLINE void attend_bytes(const Memory *m, const Asked *asked, int64_t first, int64_t end,
                         Found *found, const int n) {
    float scores[RUN][QUERIES][SPAN];
    Questions questions;
    Shares shares;
    const int64_t spans = (end - first + SPAN - 1) / SPAN;
    for (int i = 0; i < n; i++) round_query(asked->q[i], m->key_width, i, &questions);
    for (int64_t s = 0; s < spans; s++) {
        const Reach at = reach_span(asked, first, end, s, n);
        for (int64_t page = at.low / PAGE; page * PAGE < at.end; page++)
            score_bytes(m, &questions, page, scores[s], n);
    }
    for (int64_t s = 0; s < spans; s++) {
        const Reach at = reach_span(asked, first, end, s, n);
        for (int i = 0; i < n; i++) {
            weigh(m, asked, i, at.first, at.end, scores[s][i], found + s);
            round_weights(m, at.low, at.end, asked->low[i], asked->high[i], scores[s][i], i, &shares);
        }
        mix_bytes(m, at.low, at.end, &shares, found + s, n);
    }
}

INLINE void attend_some(const Memory *m, const Asked *asked, int64_t first, int64_t end,
                        Found *found, const int n) {
    if (m->bits == 16)
        attend_halves(m, asked, first, end, found, n);
    else
        attend_bytes(m, asked, first, end, found, n);
}

/* Look at keys [first, end) of a run of spans, which give found[0], found[1], ...: first a multiple of
   SPAN, end at most first + RUN * SPAN, and all before end written. */
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
