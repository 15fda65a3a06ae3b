/* Inner loops that depend on the instruction set.

   Each kernel_*.c is compiled once per variant: on x86-64 as avx512 (with VNNI and VBMI), avx2 and
   plain, elsewhere as plain. KERNEL(name) is a function's name in the variant being compiled, and
   HAS_AVX512 / HAS_AVX2 say what it may use. To add a kernel: one line in KERNEL_LIST, and in a
   kernel_*.c `RESULT KERNEL(name)(ARGUMENTS) {...}`. Operators call `kernels()->name(...)`. */
#ifndef FLUVIAL_KERNEL_H
#define FLUVIAL_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "attention.h"
#include "back.h"
#include "head.h"
#include "linear.h"
#include "recurrent.h"

#define JOIN_(a, b) a##_##b
#define JOIN(a, b) JOIN_(a, b)
#define KERNEL(name) JOIN(name, VARIANT)

#ifdef __AVX512VNNI__
#define HAS_AVX512 1
#endif
#ifdef __AVX2__
#define HAS_AVX2 1
#endif

/* K(result, name, (arguments)) */
#define KERNEL_LIST(K)                                                                             \
    /* y = factor * x */                                                                           \
    K(void, scale, (float *y, const float *x, float factor, int64_t count))                        \
    /* Round rows [first, end) of x [rows][inputs]; a last block not full is filled with zeros. */ \
    K(void, round_rows,                                                                            \
      (const float *x, int64_t inputs, int64_t first, int64_t end, Rounded *out))                  \
    /* y[t][n] = x times matrix, plus bias (or NULL), for a range of tiles and one of rows. */     \
    K(void, multiply_rows,                                                                         \
      (const Matrix *m, const Rounded *x, const float *bias, int64_t first_tile, int64_t end_tile, \
       int64_t first, int64_t end, float *y))                                                      \
    /* The same for a matrix of 32 bits. */                                                        \
    K(void, multiply_floats,                                                                       \
      (const Matrix *m, const float *x, const float *bias, int64_t first_tile, int64_t end_tile,   \
       int64_t first, int64_t end, float *y))                                                      \
    /* low[r] = sum over k of x[k] * a[k][r], an adapter's first half. */                          \
    K(void, reduce_row, (const float *x, const float *a, int64_t inputs, int64_t rank, float *low)) \
    /* y[s][n] += sum over r of low[s][r] * b[r][n] for n in [first, end): its second half. */     \
    K(void, expand_rows,                                                                           \
      (const float *low, const float *b, int64_t rows, int64_t rank, int64_t outputs,              \
       int64_t first, int64_t end, float *y))                                                      \
    /* Norm, turn and scale one head. */                                                           \
    K(void, turn_head, (const Turn *turn, const float *x, int64_t width, float *y))                \
    /* Put the key and the value of the token at `position` into their page. */                    \
    K(void, keep_token,                                                                            \
      (const Memory *memory, int64_t position, const float *key, const float *value))              \
    /* Look at keys [first, end) of a run of spans. */                                             \
    K(void, attend,                                                                                \
      (const Memory *memory, const Asked *asked, int64_t first, int64_t end, Found *found))        \
    /* Put what a span gave onto what the spans before it gave. */                                 \
    K(void, join_spans,                                                                            \
      (float *most, float *sum, float *mixed, float span_most, float span_sum,                     \
       const float *span_mixed, int64_t width))                                                    \
    /* sum = x + branch (or NULL), y = sum / root mean square * weight; sum may be NULL. */        \
    K(void, norm_row,                                                                              \
      (const float *x, const float *branch, const float *weight, float epsilon, int64_t width,     \
       float *sum, float *y))                                                                      \
    /* y = activation(gate) * up * (1 + gain); kind 0 silu, 1 gelu in its tanh form. */            \
    K(void, activate,                                                                              \
      (int kind, const float *gate, const float *up, const float *gain, int64_t width, float *y))  \
    /* Convolve features [first, end). */                                                          \
    K(void, convolve, (const Convolution *convolution, int64_t first, int64_t end))                \
    /* Take up to 16 columns of a head through the tokens of one sequence. */                      \
    K(void, step_delta, (const Delta *delta))                                                      \
    /* x = scale * x / sqrt(sum of squares + epsilon) */                                           \
    K(void, normalise, (float *x, int64_t count, float epsilon, float scale))                      \
    /* y = rms_norm(y) * weight * silu(z) */                                                       \
    K(void, gate_norm,                                                                             \
      (float *y, const float *z, const float *weight, int64_t count, float epsilon))              \
    /* log of the sum of exp(x) */                                                                 \
    K(float, sum_exponents, (const float *x, int64_t count))                                       \
    /* Follow one tile of an output layer back for all rows (head.h). */                           \
    K(void, follow_tile, (const Head *head, int64_t tile, float *weights, Followed *followed))                \
    /* Gradient of a row by the inputs of its RMS norm, from that by the outputs. */               \
    K(void, norm_back,                                                                             \
      (const float *x, const float *weight, const float *grad, float epsilon, int64_t width,       \
       float *y))                                                                                  \
    /* Gradients by what `activate` is given; that by gains (or NULL) is added to. */              \
    K(void, activate_back,                                                                         \
      (int kind, const float *gate, const float *up, const float *gain, const float *grad,         \
       int64_t width, float *grad_gate, float *grad_up, float *grad_gain))                         \
    /* low[s][r] = sum over n of x[s][n] * m[r][n] */                                              \
    K(void, reduce_rows,                                                                           \
      (const float *x, const float *m, int64_t rows, int64_t rank, int64_t count, float *low))     \
    /* y[r][n] = sum over s of low[s][r] * x[s][n], for n in [first, end) */                       \
    K(void, sum_rows,                                                                              \
      (const float *low, const float *x, int64_t rows, int64_t rank, int64_t count, int64_t first, \
       int64_t end, float *y))                                                                     \
    /* Go back through one head of attention (back.h). */                                          \
    K(void, attend_back, (const AttentionBack *attention))

#define KERNEL_FIELD(result, name, arguments) result(*name) arguments;
typedef struct Kernels {
    const char *variant;
    KERNEL_LIST(KERNEL_FIELD)
} Kernels;
#undef KERNEL_FIELD

#ifdef VARIANT
#define KERNEL_PROTOTYPE(result, name, arguments) result KERNEL(name) arguments;
KERNEL_LIST(KERNEL_PROTOTYPE)
#undef KERNEL_PROTOTYPE
extern const Kernels KERNEL(kernels);
#endif

/* The variant in use. */
const Kernels *kernels(void);
/* Choose the best that this machine runs, or the one named by the environment's FLUVIAL_KERNELS.
   Returns NULL, or what was wrong. Happens each time a session registers the library. */
const char *choose_kernels(void);

#endif
