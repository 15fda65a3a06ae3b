#include "kernel.h"

#ifdef HAS_AVX512
#include <immintrin.h>

void KERNEL(scale)(float *y, const float *x, float factor, int64_t count) {
    const __m512 factors = _mm512_set1_ps(factor);
    for (int64_t i = 0; i < count; i += 16) {
        const __mmask16 mask = count - i >= 16 ? 0xffff : (__mmask16)((1u << (count - i)) - 1);
        const __m512 product = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), factors);
        _mm512_mask_storeu_ps(y + i, mask, product);
    }
}
#else
/* Plain C, which the compiler turns into what the variant has. */
void KERNEL(scale)(float *y, const float *x, float factor, int64_t count) {
    for (int64_t i = 0; i < count; i++) y[i] = factor * x[i];
}
#endif
