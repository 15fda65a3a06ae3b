/* Rounding of inputs, and products with packed matrices (linear.h). Compiled once a variant. */
#include "kernel.h"
#include "half.h"

#include <math.h>
#include <string.h>

#if defined(HAS_AVX2)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define COLUMNS 8
/* With several columns, the loop takes too long over a block for the processor to fetch the next
   ones by itself (with one it does, and better). Measured: 137 -> 99 us for 8 columns. */
#define AHEAD_BYTES 2560

/* ---- rounding ------------------------------------------------------------------------------ */

#if defined(HAS_AVX2)

/* The largest magnitude. As integers, the bits of magnitudes have their order, and NaN is over all. */
INLINE float largest(const float *x) {
    const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
    const __m256i *at = (const __m256i *)x;
    __m256i a = _mm256_max_epi32(_mm256_and_si256(magnitude, _mm256_loadu_si256(at)),
                                 _mm256_and_si256(magnitude, _mm256_loadu_si256(at + 1)));
    __m256i b = _mm256_max_epi32(_mm256_and_si256(magnitude, _mm256_loadu_si256(at + 2)),
                                 _mm256_and_si256(magnitude, _mm256_loadu_si256(at + 3)));
    a = _mm256_max_epi32(a, b);
    __m128i c = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0x4e));
    c = _mm_max_epi32(c, _mm_shuffle_epi32(c, 0xb1));
    return _mm_cvtss_f32(_mm_castsi128_ps(c));
}

/* packs works inside 128-bit lanes: put the eight groups of four back in order */
INLINE void store_bytes(int8_t *q, __m256i ab, __m256i cd) {
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i all = _mm256_packs_epi16(ab, cd);
    _mm256_storeu_si256((__m256i *)q, _mm256_permutevar8x32_epi32(all, order));
}

/* The q of v = 128 * q + rest, with a rest from -64 to 63. */
INLINE __m256i split(__m256i v) {
    return _mm256_srai_epi16(_mm256_add_epi16(v, _mm256_set1_epi16(64)), 7);
}

INLINE int32_t round_block(const float *x, float inverse, int8_t *q, int8_t *rest) {
    const __m256 by = _mm256_set1_ps(inverse);
    __m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x), by));
    __m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8), by));
    __m256i c = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 16), by));
    __m256i d = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 24), by));
    __m256i sum = _mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d));
    const __m256i ab = _mm256_packs_epi32(a, b), cd = _mm256_packs_epi32(c, d);
    if (rest) {
        const __m256i high_ab = split(ab), high_cd = split(cd);
        store_bytes(q, high_ab, high_cd);
        store_bytes(rest, _mm256_sub_epi16(ab, _mm256_slli_epi16(high_ab, 7)),
                    _mm256_sub_epi16(cd, _mm256_slli_epi16(high_cd, 7)));
    } else {
        store_bytes(q, ab, cd);
    }
    __m128i s = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
    s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
    return _mm_cvtsi128_si32(s);
}

#else

INLINE float largest(const float *x) { /* as above */
    uint32_t most = 0;
    for (int i = 0; i < BLOCK; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        bits &= 0x7fffffff;
        most = bits > most ? bits : most;
    }
    float value;
    memcpy(&value, &most, 4);
    return value;
}

INLINE int32_t round_block(const float *x, float inverse, int8_t *q, int8_t *rest) {
    uint32_t sum = 0; /* unsigned: what is not finite may give anything */
    for (int i = 0; i < BLOCK; i++) {
        const int32_t v = (int32_t)lrintf(x[i] * inverse);
        const int32_t high = rest ? (v >> 7) + ((v & 127) >= 64) : v;
        q[i] = (int8_t)high;
        if (rest)
            rest[i] = (int8_t)((uint32_t)v - 128 * (uint32_t)high);
        sum += (uint32_t)v;
    }
    return (int32_t)sum;
}

#endif

/* Round `rows` rows of `inputs` floats; a last block that is not full is filled with zeros. */
void KERNEL(round_rows)(const float *x, int64_t inputs, int64_t first, int64_t end, Rounded *out) {
    const float steps = out->rest ? 127.0f * 128.0f : 127.0f;
    float padded[BLOCK];
    for (int64_t row = first; row < end; row++) {
        const float *from = x + row * inputs;
        for (int64_t block = 0; block < out->blocks; block++) {
            const float *part = from + block * BLOCK;
            if ((block + 1) * BLOCK > inputs) {
                memset(padded, 0, sizeof padded);
                memcpy(padded, part, (size_t)(inputs - block * BLOCK) * sizeof(float));
                part = padded;
            }
            int64_t at = row * out->blocks + block;
            float most = largest(part);
            /* inputs that are not finite give a result that is not finite, never a wrong one */
            float inverse = most > 1e-30f && most < INFINITY ? steps / most : 0.0f;
            out->scale[at] = most > 1e-30f || most != most ? most / steps : 0.0f;
            out->sum[at] = round_block(part, inverse, out->q + at * BLOCK,
                                       out->rest ? out->rest + at * BLOCK : 0);
        }
    }
}

/* ---- one tile times a few columns ---------------------------------------------------------- */

typedef struct {
    const int8_t *q[COLUMNS], *rest[COLUMNS];
    const float *scale[COLUMNS];
    const int32_t *sum[COLUMNS];
} Columns;

#if defined(HAS_AVX512)

typedef struct { __m512i group[8]; } Weights;
typedef __m512 Lanes;
typedef __m512i Integers; /* a sum for each row of the tile */

INLINE Weights load_weights(const uint8_t *at, const int bits) {
    Weights w;
    const __m512i low = _mm512_set1_epi8(15);
    if (bits == 8) {
        for (int g = 0; g < 8; g++)
            w.group[g] = _mm512_loadu_si512(at + 64 * g);
        return w;
    }
    for (int j = 0; j < 4; j++) {
        __m512i both = _mm512_loadu_si512(at + 64 * j);
        w.group[2 * j] = _mm512_and_si512(both, low);
        w.group[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    if (bits == 5) {
        const __m512i high = _mm512_set1_epi8(16);
        uint64_t mask[8];
        memcpy(mask, at + 256, 64);
        for (int g = 0; g < 8; g++)
            w.group[g] = _mm512_mask_add_epi8(w.group[g], mask[g], w.group[g], high);
    }
    return w;
}

INLINE Lanes load_scales(const uint8_t *at, const int scale_bytes) {
    if (scale_bytes == 4)
        return _mm512_loadu_ps(at);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)at));
}

INLINE __m512i broadcast(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, 4);
    return _mm512_set1_epi32(four);
}

INLINE Integers multiply_block(const Weights *w, const int8_t *q, int32_t start) {
    __m512i even = _mm512_set1_epi32(start), odd = _mm512_setzero_si512();
    for (int g = 0; g < 8; g += 2) {
        even = _mm512_dpbusd_epi32(even, w->group[g], broadcast(q + 4 * g));
        odd = _mm512_dpbusd_epi32(odd, w->group[g + 1], broadcast(q + 4 * g + 4));
    }
    return _mm512_add_epi32(even, odd);
}

INLINE Integers join(Integers high, Integers rest) {
    return _mm512_add_epi32(_mm512_slli_epi32(high, 7), rest);
}
INLINE Lanes to_lanes(Integers a) { return _mm512_cvtepi32_ps(a); }

INLINE Lanes zero_lanes(void) { return _mm512_setzero_ps(); }
INLINE Lanes load_lanes(const float *x) { return _mm512_loadu_ps(x); }
INLINE void store_lanes(float *y, Lanes a) { _mm512_storeu_ps(y, a); }
INLINE Lanes scale_lanes(Lanes a, float by) { return _mm512_mul_ps(a, _mm512_set1_ps(by)); }
INLINE Lanes add_product(Lanes sum, Lanes a, Lanes b) { return _mm512_fmadd_ps(a, b, sum); }
INLINE Lanes add_scaled(Lanes sum, Lanes a, float by) {
    return _mm512_fmadd_ps(a, _mm512_set1_ps(by), sum);
}

#elif defined(HAS_AVX2)

typedef struct { __m256i group[16]; } Weights; /* two halves of eight rows for each group */
typedef struct { __m256 half[2]; } Lanes;
typedef struct { __m256i half[2]; } Integers;

INLINE Weights load_weights(const uint8_t *at, const int bits) {
    Weights w;
    const __m256i low = _mm256_set1_epi8(15);
    if (bits == 8) {
        for (int g = 0; g < 16; g++) /* to signed, for the product below */
            w.group[g] = _mm256_xor_si256(_mm256_loadu_si256((const __m256i *)(at + 32 * g)),
                                          _mm256_set1_epi8((char)0x80));
        return w;
    }
    for (int j = 0; j < 4; j++)
        for (int half = 0; half < 2; half++) {
            __m256i both = _mm256_loadu_si256((const __m256i *)(at + 64 * j + 32 * half));
            w.group[4 * j + half] = _mm256_and_si256(both, low);
            w.group[4 * j + 2 + half] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        }
    if (bits == 5) {
        const __m256i pick = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                              2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
        const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201ull);
        for (int g = 0; g < 16; g++) {
            int32_t mask;
            memcpy(&mask, at + 256 + 4 * g, 4);
            __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(mask), pick);
            __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
            w.group[g] =
                _mm256_or_si256(w.group[g], _mm256_and_si256(set, _mm256_set1_epi8(16)));
        }
    }
    return w;
}

INLINE Lanes load_scales(const uint8_t *at, const int scale_bytes) {
    Lanes s;
    for (int half = 0; half < 2; half++)
        s.half[half] = scale_bytes == 4
                           ? _mm256_loadu_ps((const float *)at + 8 * half)
                           : _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at + half));
    return s;
}

INLINE __m256i broadcast(const int8_t *q) {
    int32_t four;
    memcpy(&four, q, 4);
    return _mm256_set1_epi32(four);
}

INLINE Integers multiply_nibbles(const Weights *w, const int8_t *q, int32_t start) {
    const __m256i ones = _mm256_set1_epi16(1);
    Integers out;
    for (int half = 0; half < 2; half++) {
        __m256i sum = _mm256_set1_epi32(start);
        for (int g = 0; g < 8; g += 2) {
            /* at most 4 * 31 * 127: two groups fit 16 bits */
            __m256i pairs = _mm256_add_epi16(
                _mm256_maddubs_epi16(w->group[2 * g + half], broadcast(q + 4 * g)),
                _mm256_maddubs_epi16(w->group[2 * g + 2 + half], broadcast(q + 4 * g + 4)));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        out.half[half] = sum;
    }
    return out;
}

INLINE Integers multiply_bytes(const Weights *w, const int8_t *q) {
    const __m256i ones = _mm256_set1_epi16(1);
    Integers out;
    for (int half = 0; half < 2; half++) {
        __m256i sum = _mm256_setzero_si256();
        for (int g = 0; g < 8; g++) {
            /* |w| * (x with w's sign): unlike w, x is never -128, which has no opposite in 8 bits,
               and |w| = 128 is one without a sign; pairs are at most 2 * 128 * 127 < 2^15 */
            __m256i x = broadcast(q + 4 * g), a = w->group[2 * g + half];
            __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(a), _mm256_sign_epi8(x, a));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
        out.half[half] = sum;
    }
    return out;
}

#define BYTES_ARE_SIGNED 1

INLINE Integers join(Integers high, Integers rest) {
    for (int h = 0; h < 2; h++)
        rest.half[h] = _mm256_add_epi32(_mm256_slli_epi32(high.half[h], 7), rest.half[h]);
    return rest;
}
INLINE Lanes to_lanes(Integers a) {
    return (Lanes){{_mm256_cvtepi32_ps(a.half[0]), _mm256_cvtepi32_ps(a.half[1])}};
}
INLINE Lanes zero_lanes(void) {
    return (Lanes){{_mm256_setzero_ps(), _mm256_setzero_ps()}};
}
INLINE Lanes load_lanes(const float *x) {
    return (Lanes){{_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}};
}
INLINE void store_lanes(float *y, Lanes a) {
    _mm256_storeu_ps(y, a.half[0]);
    _mm256_storeu_ps(y + 8, a.half[1]);
}
INLINE Lanes scale_lanes(Lanes a, float by) {
    for (int h = 0; h < 2; h++)
        a.half[h] = _mm256_mul_ps(a.half[h], _mm256_set1_ps(by));
    return a;
}
INLINE Lanes add_product(Lanes sum, Lanes a, Lanes b) {
    for (int h = 0; h < 2; h++)
        sum.half[h] = _mm256_fmadd_ps(a.half[h], b.half[h], sum.half[h]);
    return sum;
}
INLINE Lanes add_scaled(Lanes sum, Lanes a, float by) {
    for (int h = 0; h < 2; h++)
        sum.half[h] = _mm256_fmadd_ps(a.half[h], _mm256_set1_ps(by), sum.half[h]);
    return sum;
}

#else

typedef struct { uint8_t q[8][64]; } Weights;
typedef struct { float at[TILE]; } Lanes;
typedef struct { int32_t at[TILE]; } Integers;

INLINE Weights load_weights(const uint8_t *at, const int bits) {
    Weights w;
    if (bits == 8) {
        memcpy(w.q, at, 512);
        return w;
    }
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 64; i++) {
            w.q[2 * j][i] = at[64 * j + i] & 15;
            w.q[2 * j + 1][i] = at[64 * j + i] >> 4;
        }
    if (bits == 5)
        for (int g = 0; g < 8; g++)
            for (int i = 0; i < 64; i++)
                w.q[g][i] |= (uint8_t)((at[256 + 8 * g + i / 8] >> (i % 8) & 1) << 4);
    return w;
}

INLINE Lanes load_scales(const uint8_t *at, const int scale_bytes) {
    Lanes s;
    if (scale_bytes == 4) {
        memcpy(s.at, at, sizeof s.at);
        return s;
    }
    for (int i = 0; i < TILE; i++) {
        uint16_t half;
        memcpy(&half, at + 2 * i, 2);
        s.at[i] = widen_half(half);
    }
    return s;
}

INLINE Integers multiply_block(const Weights *w, const int8_t *q, int32_t start) {
    Integers sum;
    for (int row = 0; row < TILE; row++)
        sum.at[row] = start;
    for (int g = 0; g < 8; g++)
        for (int row = 0; row < TILE; row++)
            for (int i = 0; i < 4; i++)
                sum.at[row] += (int32_t)w->q[g][4 * row + i] * q[4 * g + i];
    return sum;
}

INLINE Integers join(Integers high, Integers rest) {
    for (int row = 0; row < TILE; row++)
        rest.at[row] += 128 * high.at[row];
    return rest;
}
INLINE Lanes to_lanes(Integers a) {
    Lanes out;
    for (int row = 0; row < TILE; row++)
        out.at[row] = (float)a.at[row];
    return out;
}

INLINE Lanes zero_lanes(void) { return (Lanes){{0}}; }
INLINE Lanes load_lanes(const float *x) {
    Lanes a;
    memcpy(a.at, x, sizeof a.at);
    return a;
}
INLINE void store_lanes(float *y, Lanes a) { memcpy(y, a.at, sizeof a.at); }
INLINE Lanes scale_lanes(Lanes a, float by) {
    for (int i = 0; i < TILE; i++)
        a.at[i] *= by;
    return a;
}
INLINE Lanes add_product(Lanes sum, Lanes a, Lanes b) {
    for (int i = 0; i < TILE; i++)
        sum.at[i] += a.at[i] * b.at[i];
    return sum;
}
INLINE Lanes add_scaled(Lanes sum, Lanes a, float by) {
    for (int i = 0; i < TILE; i++)
        sum.at[i] += a.at[i] * by;
    return sum;
}

#endif

INLINE Integers multiply(const Weights *w, const int8_t *q, int32_t start, const int bits) {
#ifdef BYTES_ARE_SIGNED
    return bits == 8 ? multiply_bytes(w, q) : multiply_nibbles(w, q, start);
#else
    (void)bits;
    return multiply_block(w, q, start);
#endif
}

/* What a tile's rows give with block `b` of column `c`, in steps of its scale. */
INLINE Lanes multiply_column(const Weights *w, const Columns *x, int c, int64_t b, const int bits,
                             const int has_minimum, const int input_bits) {
    const uint32_t zero = has_minimum ? 0 : bits == 4 ? 8 : bits == 5 ? 16 : 128;
    /* unsigned: the sum of inputs that are not finite may be anything */
    const int32_t start = (int32_t)(0u - zero * (uint32_t)x->sum[c][b]);
    if (input_bits == 8)
        return to_lanes(multiply(w, x->q[c] + b * BLOCK, start, bits));
    return to_lanes(join(multiply(w, x->q[c] + b * BLOCK, 0, bits),
                         multiply(w, x->rest[c] + b * BLOCK, start, bits)));
}

/* out[c] = tile times column c; the constants are known where this is expanded, scale_bytes only at
   8 bits */
INLINE void multiply_tile(const uint8_t *tile, int64_t blocks, const Columns *x, Lanes *out,
                          const int count, const int bits, const int has_minimum,
                          const int scale_bytes, const int input_bits) {
    const int64_t data_bytes = bits == 4 ? 256 : bits == 5 ? 320 : 512;
    const int64_t block_bytes = data_bytes + TILE * scale_bytes * (has_minimum ? 2 : 1);
    Lanes sum[COLUMNS];
    for (int c = 0; c < count; c++)
        sum[c] = zero_lanes();
    for (int64_t b = 0; b < blocks; b++) {
        const uint8_t *block = tile + b * block_bytes;
        if (count > 1)
            for (int64_t line = 0; line < block_bytes; line += 64)
                __builtin_prefetch(block + AHEAD_BYTES + line);
        const Weights w = load_weights(block, bits);
        const Lanes scale = load_scales(block + data_bytes, scale_bytes);
        Lanes minimum = zero_lanes();
        if (has_minimum)
            minimum = load_scales(block + data_bytes + TILE * scale_bytes, scale_bytes);
        for (int c = 0; c < count; c++) {
            const float by = x->scale[c][b];
            const Lanes dot = multiply_column(&w, x, c, b, bits, has_minimum, input_bits);
            sum[c] = add_product(sum[c], dot, scale_lanes(scale, by));
            if (has_minimum)
                sum[c] = add_scaled(sum[c], minimum, by * (float)x->sum[c][b]);
        }
    }
    for (int c = 0; c < count; c++)
        out[c] = sum[c];
}

#define BY_COUNT(BITS, MINIMUM, BYTES)                                                             \
    switch (count) {                                                                               \
    case 1: multiply_tile(tile, blocks, x, out, 1, BITS, MINIMUM, BYTES, 8); break;                \
    case 2: multiply_tile(tile, blocks, x, out, 2, BITS, MINIMUM, BYTES, 8); break;                \
    case 4: multiply_tile(tile, blocks, x, out, 4, BITS, MINIMUM, BYTES, 8); break;                \
    default: multiply_tile(tile, blocks, x, out, 8, BITS, MINIMUM, BYTES, 8); break;               \
    }                                                                                              \
    return

#define BY_SCALE(BITS, MINIMUM)                                                                    \
    if (m->scale_bytes == 2) {                                                                     \
        BY_COUNT(BITS, MINIMUM, 2);                                                                \
    }                                                                                              \
    BY_COUNT(BITS, MINIMUM, 4)

/* Fewer of these forms, since each takes its time to compile. */
#define BY_COUNT_15(BITS, MINIMUM)                                                                 \
    switch (count) {                                                                               \
    case 1: multiply_tile(tile, blocks, x, out, 1, BITS, MINIMUM, m->scale_bytes, 15); break;      \
    case 4: multiply_tile(tile, blocks, x, out, 4, BITS, MINIMUM, m->scale_bytes, 15); break;      \
    default: multiply_tile(tile, blocks, x, out, 8, BITS, MINIMUM, m->scale_bytes, 15); break;     \
    }                                                                                              \
    return

#define BY_MINIMUM(BITS)                                                                           \
    if (x->rest[0] && m->has_minimum) {                                                            \
        BY_COUNT_15(BITS, 1);                                                                      \
    }                                                                                              \
    if (x->rest[0]) {                                                                              \
        BY_COUNT_15(BITS, 0);                                                                      \
    }                                                                                              \
    if (m->has_minimum) {                                                                          \
        BY_SCALE(BITS, 1);                                                                         \
    }                                                                                              \
    BY_SCALE(BITS, 0)

static void multiply_any(const Matrix *m, const uint8_t *tile, int64_t blocks, const Columns *x,
                         Lanes *out, int count) {
    if (m->bits == 4) {
        BY_MINIMUM(4);
    }
    if (m->bits == 5) {
        BY_MINIMUM(5);
    }
    if (x->rest[0]) {
        BY_COUNT_15(8, 0);
    }
    BY_SCALE(8, 0);
}

/* How many columns to take at once, of those that are left. */
static int choose_count(const Rounded *x, int64_t left) {
    if (left >= 4)
        return left >= 8 ? 8 : 4;
    return left >= 2 && !x->rest ? 2 : 1;
}

static void finish(Lanes result, int64_t width, const float *bias, float *y) {
    float edge[TILE];
    float *to = width < TILE ? edge : y;
    store_lanes(to, result);
    if (bias)
        for (int64_t i = 0; i < width; i++)
            to[i] += bias[i];
    if (to != y)
        memcpy(y, to, (size_t)width * sizeof(float));
}

/* y[t][n] for tiles [first_tile, end_tile) and rows [first, end). */
void KERNEL(multiply_rows)(const Matrix *m, const Rounded *x, const float *bias, int64_t first_tile,
                          int64_t end_tile, int64_t first, int64_t end, float *y) {
    const int64_t blocks = x->blocks, tile_bytes = matrix_tile_bytes(m);
    for (int64_t tile = first_tile; tile < end_tile; tile++) {
        const int64_t n = tile * TILE;
        const int64_t width = m->outputs - n < TILE ? m->outputs - n : TILE;
        for (int64_t row = first; row < end;) {
            const int count = choose_count(x, end - row);
            Columns columns;
            Lanes out[COLUMNS];
            for (int c = 0; c < count; c++) {
                columns.q[c] = x->q + (row + c) * blocks * BLOCK;
                columns.rest[c] = x->rest ? x->rest + (row + c) * blocks * BLOCK : 0;
                columns.scale[c] = x->scale + (row + c) * blocks;
                columns.sum[c] = x->sum + (row + c) * blocks;
            }
            multiply_any(m, m->data + tile * tile_bytes, blocks, &columns, out, count);
            for (int c = 0; c < count; c++)
                finish(out[c], width, bias ? bias + n : 0, y + (row + c) * m->outputs + n);
            row += count;
        }
    }
}

/* The same for float32 weights. */
void KERNEL(multiply_floats)(const Matrix *m, const float *x, const float *bias, int64_t first_tile,
                            int64_t end_tile, int64_t first, int64_t end, float *y) {
    for (int64_t tile = first_tile; tile < end_tile; tile++) {
        const float *w = (const float *)(m->data + tile * matrix_tile_bytes(m));
        const int64_t n = tile * TILE;
        const int64_t width = m->outputs - n < TILE ? m->outputs - n : TILE;
        for (int64_t row = first; row < end; row++) {
            Lanes sum = zero_lanes();
            for (int64_t k = 0; k < m->inputs; k++)
                sum = add_scaled(sum, load_lanes(w + k * TILE), x[row * m->inputs + k]);
            finish(sum, width, bias ? bias + n : 0, y + row * m->outputs + n);
        }
    }
}

/* ---- the adapter's low-rank term ------------------------------------------------------------ */

/* Left to themselves, compilers cut a loop over eight numbers badly. */
typedef float Eight __attribute__((vector_size(32)));

/* low[r] = sum over k of x[k] * a[k][r]; four running sums, added in a fixed order. */
void KERNEL(reduce_row)(const float *x, const float *a, int64_t inputs, int64_t rank, float *low) {
    for (int64_t r = 0; r < rank; r += 8) {
        const int64_t width = rank - r < 8 ? rank - r : 8;
        Eight sum[4] = {{0}};
        int64_t k = 0;
        if (width == 8)
            for (; k + 4 <= inputs; k += 4)
                for (int j = 0; j < 4; j++) {
                    Eight some;
                    memcpy(&some, a + (k + j) * rank + r, sizeof some);
                    sum[j] += x[k + j] * some;
                }
        for (; k < inputs; k++)
            for (int64_t i = 0; i < width; i++)
                sum[k % 4][i] += x[k] * a[k * rank + r + i];
        for (int64_t i = 0; i < width; i++)
            low[r + i] = (sum[0][i] + sum[1][i]) + (sum[2][i] + sum[3][i]);
    }
}

/* As `expand_rows`, for a number of rows known where this is expanded. */
INLINE void expand_some(const float *low, const float *b, int64_t rank, int64_t outputs,
                        int64_t first, int64_t end, float *y, const int rows) {
    const float ones[TILE] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    const Lanes one = load_lanes(ones);
    int64_t n = first;
    for (; n + 2 * TILE <= end; n += 2 * TILE) {
        Lanes change[4][2];
        for (int i = 0; i < rows; i++) change[i][0] = change[i][1] = zero_lanes();
        for (int64_t r = 0; r < rank; r++) {
            const Lanes left = load_lanes(b + r * outputs + n);
            const Lanes right = load_lanes(b + r * outputs + n + TILE);
            for (int i = 0; i < rows; i++) {
                change[i][0] = add_scaled(change[i][0], left, low[i * rank + r]);
                change[i][1] = add_scaled(change[i][1], right, low[i * rank + r]);
            }
        }
        for (int i = 0; i < rows; i++)
            for (int c = 0; c < 2; c++) {
                float *at = y + i * outputs + n + c * TILE;
                store_lanes(at, add_product(load_lanes(at), change[i][c], one));
            }
    }
    for (; n + TILE <= end; n += TILE)
        for (int i = 0; i < rows; i++) {
            Lanes change = zero_lanes();
            float *at = y + i * outputs + n;
            for (int64_t r = 0; r < rank; r++)
                change = add_scaled(change, load_lanes(b + r * outputs + n), low[i * rank + r]);
            store_lanes(at, add_product(load_lanes(at), change, one));
        }
    for (; n < end; n++)
        for (int i = 0; i < rows; i++) {
            float change = 0;
            for (int64_t r = 0; r < rank; r++)
                change += low[i * rank + r] * b[r * outputs + n];
            y[i * outputs + n] += change;
        }
}

/* y[s][n] += sum over r of low[s][r] * b[r][n], for n in [first, end). */
void KERNEL(expand_rows)(const float *low, const float *b, int64_t rows, int64_t rank,
                         int64_t outputs, int64_t first, int64_t end, float *y) {
    int64_t s = 0;
    for (; s + 4 <= rows; s += 4)
        expand_some(low + s * rank, b, rank, outputs, first, end, y + s * outputs, 4);
    for (; s < rows; s++)
        expand_some(low + s * rank, b, rank, outputs, first, end, y + s * outputs, 1);
}
