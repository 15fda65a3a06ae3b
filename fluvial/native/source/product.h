/* Products with a packed matrix outside of any graph, shared over the pool. */
#ifndef FLUVIAL_PRODUCT_H
#define FLUVIAL_PRODUCT_H

#include "linear.h"

/* NULL, or what is wrong with a matrix whose data has so many bytes. Chooses the kernels. */
const char *check_product(const Matrix *m, int64_t data_bytes, int input_bits);

/* y [rows][outputs] = x [rows][inputs] times the matrix, x rounded to `input_bits` (8 or 15).
   Returns NULL, or what was wrong. */
const char *run_product(const Matrix *m, int input_bits, const float *x, int64_t rows, float *y);

#endif
