/* Exact sums of products: 64 bytes (0..255, each standing for itself less 128), in 16 lanes of 4,
   times 4 weights of 16 bits that all lanes share.

   Weights are kept in the form that a variant multiplies by, 8 bytes for 4 of them. With VNNI that is
   their high and their low bytes, both signed: w = 256 * high + low. */
#ifndef FLUVIAL_EXACT_H
#define FLUVIAL_EXACT_H

#include "vector.h"

enum { FOUR_BYTES = 8 };

/* The largest weight: its high byte, rounded, is 127. */
#define LARGEST_WEIGHT 32512.0f

#if defined(HAS_AVX512)

typedef struct { __m512i high, low; } Exact;
typedef __m512i Bytes64;
INLINE Bytes64 load_bytes(const uint8_t *at) { return _mm512_loadu_si512(at); }

/* `weights` is the sum of all that will be multiplied by. */
INLINE Exact exact_start(int32_t weights) {
    return (Exact){_mm512_setzero_si512(), _mm512_set1_epi32(-128 * weights)};
}

INLINE __m512i share(const int8_t *at) {
    int32_t four;
    memcpy(&four, at, 4);
    return _mm512_set1_epi32(four);
}

INLINE Exact exact_add(Exact sum, Bytes64 bytes, const int8_t *four) {
    return (Exact){_mm512_dpbusd_epi32(sum.high, bytes, share(four)),
                   _mm512_dpbusd_epi32(sum.low, bytes, share(four + 4))};
}

INLINE V16 exact_value(Exact sum) {
    return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(sum.high, 8), sum.low));
}

/* Sixteen whole numbers to four groups of weights. */
INLINE void split_weights(V16 w, int8_t *out) {
    const __m512i whole = _mm512_cvtps_epi32(w);
    const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
    const __m512i low = _mm512_sub_epi32(whole, _mm512_slli_epi32(high, 8));
    const __m128i highs = _mm512_cvtepi32_epi8(high), lows = _mm512_cvtepi32_epi8(low);
    _mm_storeu_si128((__m128i *)out, _mm_unpacklo_epi32(highs, lows));
    _mm_storeu_si128((__m128i *)(out + 16), _mm_unpackhi_epi32(highs, lows));
}

#elif defined(HAS_AVX2)

typedef struct { __m256i h[2]; } Exact;
typedef struct { __m256i h[2]; } Bytes64;
INLINE Bytes64 load_bytes(const uint8_t *at) {
    return (Bytes64){{_mm256_loadu_si256((const __m256i *)at),
                      _mm256_loadu_si256((const __m256i *)(at + 32))}};
}

INLINE Exact exact_start(int32_t weights) {
    const __m256i start = _mm256_set1_epi32(-128 * weights);
    return (Exact){{start, start}};
}

/* Four are kept as 16 bits in the order 0, 2, 1, 3: even bytes, then odd ones. */
INLINE Exact exact_add(Exact sum, Bytes64 bytes, const int8_t *four) {
    int32_t even, odd;
    memcpy(&even, four, 4);
    memcpy(&odd, four + 4, 4);
    const __m256i evens = _mm256_set1_epi32(even), odds = _mm256_set1_epi32(odd);
    const __m256i mask = _mm256_set1_epi16(255);
    for (int i = 0; i < 2; i++) {
        const __m256i a = _mm256_madd_epi16(_mm256_and_si256(bytes.h[i], mask), evens);
        const __m256i b = _mm256_madd_epi16(_mm256_srli_epi16(bytes.h[i], 8), odds);
        sum.h[i] = _mm256_add_epi32(sum.h[i], _mm256_add_epi32(a, b));
    }
    return sum;
}

INLINE V16 exact_value(Exact sum) {
    return (V16){{_mm256_cvtepi32_ps(sum.h[0]), _mm256_cvtepi32_ps(sum.h[1])}};
}

INLINE void split_weights(V16 w, int8_t *out) {
    int32_t whole[16];
    for (int i = 0; i < 2; i++)
        _mm256_storeu_si256((__m256i *)(whole + 8 * i), _mm256_cvtps_epi32(w.h[i]));
    for (int i = 0; i < 4; i++) {
        const int32_t *of = whole + 4 * i;
        const int16_t four[4] = {(int16_t)of[0], (int16_t)of[2], (int16_t)of[1], (int16_t)of[3]};
        memcpy(out + 8 * i, four, 8);
    }
}

#else

typedef I16 Exact;
typedef struct { uint8_t at[64]; } Bytes64;
INLINE Bytes64 load_bytes(const uint8_t *at) {
    Bytes64 bytes;
    memcpy(&bytes, at, sizeof bytes);
    return bytes;
}

INLINE Exact exact_start(int32_t weights) { return (Exact){0} - 128 * weights; }

/* Not inlined: unrolled, these loops made a compiler work for half a minute. */
static __attribute__((noinline, unused)) Exact exact_add(Exact sum, Bytes64 bytes,
                                                         const int8_t *four) {
    int16_t w[4];
    memcpy(w, four, sizeof w);
    for (int lane = 0; lane < 16; lane++)
        for (int i = 0; i < 4; i++) sum[lane] += bytes.at[4 * lane + i] * w[i];
    return sum;
}

INLINE V16 exact_value(Exact sum) { return __builtin_convertvector(sum, V16); }

INLINE void split_weights(V16 w, int8_t *out) {
    for (int i = 0; i < 16; i++) {
        const int16_t whole = (int16_t)w[i];
        memcpy(out + 2 * i, &whole, 2);
    }
}

#endif

#endif
