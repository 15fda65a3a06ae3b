/* Sixteen floats at a time, in each variant's own instructions, and exp over them.

   exp: x = n ln 2 + r, a polynomial of degree 6 in r (Cephes' expf), error under 2 units in the
   last place; the order of operations is the same in all variants. */
#ifndef FLUVIAL_VECTOR_H
#define FLUVIAL_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "half.h"

#if defined(HAS_AVX2) || defined(HAS_AVX512)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

#if defined(HAS_AVX512)

typedef __m512 V16;
INLINE V16 v_set(float x) { return _mm512_set1_ps(x); }
INLINE V16 v_load(const float *x) { return _mm512_loadu_ps(x); }
INLINE void v_store(float *y, V16 a) { _mm512_storeu_ps(y, a); }
INLINE V16 v_load_half(const uint16_t *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}
INLINE void v_store_half(uint16_t *y, V16 a) {
    _mm256_storeu_si256((__m256i *)y, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT));
}
INLINE V16 v_add(V16 a, V16 b) { return _mm512_add_ps(a, b); }
INLINE V16 v_sub(V16 a, V16 b) { return _mm512_sub_ps(a, b); }
INLINE V16 v_mul(V16 a, V16 b) { return _mm512_mul_ps(a, b); }
INLINE V16 v_div(V16 a, V16 b) { return _mm512_div_ps(a, b); }
INLINE V16 v_max(V16 a, V16 b) { return _mm512_max_ps(a, b); }
INLINE V16 v_min(V16 a, V16 b) { return _mm512_min_ps(a, b); }
INLINE V16 v_fma(V16 a, V16 b, V16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE V16 v_round(V16 a) { return _mm512_roundscale_ps(a, 0); }
INLINE V16 v_power(V16 n) { /* 2^n for whole n in [-126, 127] */
    __m512i bits = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}

#elif defined(HAS_AVX2)

typedef struct { __m256 h[2]; } V16;
#define V_EACH(EXPRESSION)                                                                         \
    V16 y_;                                                                                        \
    for (int i = 0; i < 2; i++) y_.h[i] = (EXPRESSION);                                            \
    return y_
INLINE V16 v_set(float x) { V_EACH(_mm256_set1_ps(x)); }
INLINE V16 v_load(const float *x) { V_EACH(_mm256_loadu_ps(x + 8 * i)); }
INLINE void v_store(float *y, V16 a) {
    for (int i = 0; i < 2; i++) _mm256_storeu_ps(y + 8 * i, a.h[i]);
}
INLINE V16 v_load_half(const uint16_t *x) {
    V_EACH(_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(x + 8 * i))));
}
INLINE void v_store_half(uint16_t *y, V16 a) {
    for (int i = 0; i < 2; i++)
        _mm_storeu_si128((__m128i *)(y + 8 * i),
                         _mm256_cvtps_ph(a.h[i], _MM_FROUND_TO_NEAREST_INT));
}
INLINE V16 v_add(V16 a, V16 b) { V_EACH(_mm256_add_ps(a.h[i], b.h[i])); }
INLINE V16 v_sub(V16 a, V16 b) { V_EACH(_mm256_sub_ps(a.h[i], b.h[i])); }
INLINE V16 v_mul(V16 a, V16 b) { V_EACH(_mm256_mul_ps(a.h[i], b.h[i])); }
INLINE V16 v_div(V16 a, V16 b) { V_EACH(_mm256_div_ps(a.h[i], b.h[i])); }
INLINE V16 v_max(V16 a, V16 b) { V_EACH(_mm256_max_ps(a.h[i], b.h[i])); }
INLINE V16 v_min(V16 a, V16 b) { V_EACH(_mm256_min_ps(a.h[i], b.h[i])); }
INLINE V16 v_fma(V16 a, V16 b, V16 c) { V_EACH(_mm256_fmadd_ps(a.h[i], b.h[i], c.h[i])); }
INLINE V16 v_round(V16 a) { V_EACH(_mm256_round_ps(a.h[i], 0)); }
INLINE V16 v_power(V16 n) {
    V_EACH(_mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_add_epi32(_mm256_cvtps_epi32(n.h[i]), _mm256_set1_epi32(127)), 23)));
}

#else

/* The compiler cuts these into what the machine has. */
typedef float V16 __attribute__((vector_size(64)));
typedef int32_t I16 __attribute__((vector_size(64)));
INLINE V16 v_set(float x) { return x - (V16){0}; }
INLINE V16 v_load(const float *x) {
    V16 y;
    memcpy(&y, x, sizeof y);
    return y;
}
INLINE void v_store(float *y, V16 a) { memcpy(y, &a, sizeof a); }
static __attribute__((noinline, unused)) V16 v_load_half(const uint16_t *x) {
    float y[16];
    for (int i = 0; i < 16; i++) y[i] = widen_half(x[i]);
    return v_load(y);
}
static __attribute__((noinline, unused)) void v_store_half(uint16_t *y, V16 a) {
    for (int i = 0; i < 16; i++) y[i] = narrow_float(a[i]);
}
INLINE V16 v_add(V16 a, V16 b) { return a + b; }
INLINE V16 v_sub(V16 a, V16 b) { return a - b; }
INLINE V16 v_mul(V16 a, V16 b) { return a * b; }
INLINE V16 v_div(V16 a, V16 b) { return a / b; }
INLINE V16 v_pick(I16 which, V16 a, V16 b) { return (V16)(((I16)a & which) | ((I16)b & ~which)); }
INLINE V16 v_max(V16 a, V16 b) { return v_pick(a > b, a, b); }
INLINE V16 v_min(V16 a, V16 b) { return v_pick(a < b, a, b); }
INLINE V16 v_fma(V16 a, V16 b, V16 c) { return a * b + c; }
INLINE V16 v_round(V16 a) { /* to the nearest, for |a| < 2^22: adding 1.5 * 2^23 drops the rest */
    const V16 large = v_set(12582912.0f);
    return (a + large) - large;
}
INLINE V16 v_power(V16 n) {
    return (V16)((__builtin_convertvector(n, I16) + 127) << 23);
}

#endif

/* exp of x; under -87.3 it is 0 to eight digits (1.2e-38), over 88.3 it stays at 2.3e38. */
INLINE V16 v_exp(V16 x) {
    x = v_min(v_max(x, v_set(-87.3f)), v_set(88.3f));
    const V16 n = v_min(v_round(v_mul(x, v_set(1.44269504f))), v_set(127.0f));
    V16 r = v_fma(n, v_set(-0.693359375f), x);
    r = v_fma(n, v_set(2.12194440e-4f), r);
    V16 p = v_set(1.9875691500e-4f);
    p = v_fma(p, r, v_set(1.3981999507e-3f));
    p = v_fma(p, r, v_set(8.3334519073e-3f));
    p = v_fma(p, r, v_set(4.1665795894e-2f));
    p = v_fma(p, r, v_set(1.6666665459e-1f));
    p = v_fma(p, r, v_set(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set(1.0f)));
    return v_mul(p, v_power(n));
}

/* Up to sixteen of `count` floats, filled up with zeros. */
INLINE V16 load_some(const float *x, int64_t count) {
    if (count >= 16) return v_load(x);
    float part[16] = {0};
    memcpy(part, x, (size_t)count * sizeof *x);
    return v_load(part);
}

#if defined(HAS_AVX2) || defined(HAS_AVX512)
INLINE float sum_eight(__m256 a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}
#endif

INLINE float v_sum(V16 a) { /* in a fixed order: pairs 8, 4, 2, 1 apart */
#if defined(HAS_AVX512)
    return sum_eight(_mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1)));
#elif defined(HAS_AVX2)
    return sum_eight(_mm256_add_ps(a.h[0], a.h[1]));
#else
    float x[16];
    v_store(x, a);
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; i++) x[i] += x[i + step];
    return x[0];
#endif
}

INLINE float v_most(V16 a) {
    float x[16];
    v_store(x, a);
    for (int step = 8; step > 0; step /= 2)
        for (int i = 0; i < step; i++) x[i] = x[i + step] > x[i] ? x[i + step] : x[i];
    return x[0];
}

#endif
