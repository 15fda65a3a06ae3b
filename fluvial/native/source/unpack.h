/* A row of a packed matrix (linear.h) as floats. */
#ifndef FLUVIAL_UNPACK_H
#define FLUVIAL_UNPACK_H

#include <string.h>

#include "half.h"
#include "linear.h"

static inline float read_scale(const Matrix *m, const uint8_t *section, int64_t at) {
    float value;
    if (m->scale_bytes == 4) {
        memcpy(&value, section + 4 * at, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, section + 2 * at, 2);
    return widen_half(half);
}

static inline int read_integer(const Matrix *m, const uint8_t *block, int group, int byte) {
    if (m->bits == 8) return block[64 * group + byte];
    const uint8_t both = block[64 * (group / 2) + byte];
    int q = group % 2 ? both >> 4 : both & 15;
    if (m->bits == 5) q |= (block[256 + 8 * group + byte / 8] >> (byte % 8) & 1) << 4;
    return q;
}

/* y = scale * the weights of row `row`. */
static inline void unpack_row(const Matrix *m, int64_t row, float scale, float *y) {
    const uint8_t *tile = m->data + row / TILE * matrix_tile_bytes(m);
    const int place = (int)(row % TILE);
    if (m->bits == 32) {
        for (int64_t k = 0; k < m->inputs; k++) {
            float value;
            memcpy(&value, tile + 4 * (k * TILE + place), 4);
            y[k] = value * scale;
        }
        return;
    }
    const int64_t data_bytes = matrix_data_bytes(m);
    const int zero = m->has_minimum ? 0 : m->bits == 4 ? 8 : m->bits == 5 ? 16 : 128;
    for (int64_t k = 0; k < m->inputs; k++) {
        const uint8_t *block = tile + k / BLOCK * matrix_block_bytes(m);
        const int inside = (int)(k % BLOCK);
        const int q = read_integer(m, block, inside / 4, 4 * place + inside % 4);
        float value = read_scale(m, block + data_bytes, place) * (float)(q - zero);
        if (m->has_minimum) value += read_scale(m, block + data_bytes, TILE + place);
        y[k] = value * scale;
    }
}

#endif
