/* Products with packed matrices.

   A packed matrix is cut into tiles of 16 outputs and blocks of 32 inputs. Tiles follow one another,
   filled up to 64 bytes; in each, one block after another:

       256, 320 or 512 bytes    4, 5 or 8 bits a weight
       16 scales                float16 or float32
       16 minima                the same, only with `has_minimum`

   so that a product reads memory in one stream, which is what limits it.

   Inside a block, inputs come in 8 groups of 4. Byte 4*row + i of a group is
   input 4*group + i of the tile's row `row`. At 4 bits, groups 2j (low nibbles) and 2j+1 (high
   nibbles) share 64 bytes; at 5 bits, 64 more bytes hold the fifth bits, 8 bytes a group, bit
   4*row + i. A weight is scale * (q - zero), zero 8, 16 or 128, or scale * q + minimum.
   At 32 bits, data is float32 [inputs][16 outputs] and there are no scales.

   Inputs are rounded to 8 bits in blocks of 32 (as in llama.cpp's Q8_0), or to 15 bits: then an
   input is 128 * q + rest, and each block is multiplied twice. Sums of products are exact integers.
   Every sum of floats runs over the blocks in order, whatever the batch: a row's result does not
   depend on what is computed beside it. */
#ifndef FLUVIAL_LINEAR_H
#define FLUVIAL_LINEAR_H

#include <stdint.h>

enum { TILE = 16, BLOCK = 32 };

typedef struct {
    const uint8_t *data;
    int64_t outputs, inputs; /* as the model has them; both are padded inside the data */
    int bits;                /* 4, 5, 8 or 32 */
    int has_minimum;
    int scale_bytes; /* 2 or 4 */
} Matrix;

static inline int64_t matrix_blocks(const Matrix *m) { return (m->inputs + BLOCK - 1) / BLOCK; }
static inline int64_t matrix_tiles(const Matrix *m) { return (m->outputs + TILE - 1) / TILE; }

/* Bytes of a block's integers, and of the whole block. */
static inline int64_t matrix_data_bytes(const Matrix *m) {
    return m->bits == 4 ? 256 : m->bits == 5 ? 320 : m->bits == 8 ? 512 : 4 * BLOCK * TILE;
}

static inline int64_t matrix_block_bytes(const Matrix *m) {
    if (m->bits == 32) return matrix_data_bytes(m);
    return matrix_data_bytes(m) + TILE * m->scale_bytes * (m->has_minimum ? 2 : 1);
}

static inline int64_t matrix_tile_bytes(const Matrix *m) {
    return (matrix_blocks(m) * matrix_block_bytes(m) + 63) / 64 * 64;
}

static inline int64_t matrix_bytes(const Matrix *m) { return matrix_tiles(m) * matrix_tile_bytes(m); }

/* NULL, or what is wrong with the form of a matrix. */
static inline const char *check_matrix(const Matrix *m) {
    if (m->bits != 4 && m->bits != 5 && m->bits != 8 && m->bits != 32)
        return "bits must be 4, 5, 8 or 32";
    if (m->scale_bytes != 2 && m->scale_bytes != 4) return "scale_bytes must be 2 or 4";
    if (m->has_minimum && m->bits > 5) return "only 4 and 5 bits have minima";
    return 0;
}

/* Rounded inputs: one row of `blocks * 32` integers, with a scale and a sum per block. */
typedef struct {
    int8_t *q;      /* [rows][blocks * 32], -127 to 127 */
    int8_t *rest;   /* the same form, -64 to 63, which makes 15 bits; or NULL */
    float *scale;   /* [rows][blocks] */
    int32_t *sum;   /* [rows][blocks]: of q, or of 128 * q + rest */
    int64_t blocks;
} Rounded;

/* Bytes of the integers and of the scales and sums of rounded rows. */
static inline int64_t rounded_bytes(int64_t rows, int64_t blocks, int input_bits) {
    return rows * blocks * (8 + BLOCK * (input_bits == 15 ? 2 : 1));
}

/* Lay rounded rows out in memory of that size, aligned to 4 bytes. */
static inline Rounded place_rounded(void *room, int64_t rows, int64_t blocks, int input_bits) {
    const int64_t count = rows * blocks;
    int8_t *q = (int8_t *)room + 8 * count;
    return (Rounded){q, input_bits == 15 ? q + BLOCK * count : 0, (float *)room,
                     (int32_t *)room + count, blocks};
}

#endif
