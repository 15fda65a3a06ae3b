/* What gradients through a layer are made of, apart from products with its weights. */
#ifndef FLUVIAL_BACK_H
#define FLUVIAL_BACK_H

#include <stdint.h>

/* Attention from `rows` new tokens to `past` ones and themselves, gone back through for one head.

   Queries are scaled already. Scores are made again; where a probability is under `threshold`,
   nothing is followed. `mixed` is what attention gave. Keys and values of the past get no gradient. */
typedef struct AttentionBack {
    const float *q;       /* [rows][width] */
    const float *k;       /* [past + rows][width] */
    const float *turned;  /* [stride / 32][width][32]: the same keys the other way, zeros after the last */
    const float *v;       /* [past + rows][value_width] */
    const float *mixed;   /* [rows], `mixed_stride` apart, [value_width] */
    const float *grad;    /* the same */
    float *scores;        /* room, [4][stride] */
    float *changes;       /* room, [stride]: gradients by the scores of what is followed */
    int32_t *followed;    /* room, [stride]: which keys are */
    float *grad_q;        /* [rows][width], written */
    float *grad_k;        /* [rows][width], written */
    float *grad_v;        /* [rows][value_width], written */
    int64_t rows, past, width, value_width, stride, mixed_stride;
    int64_t window;       /* tokens that are seen, itself among them; 0: all */
    float softcap;        /* 0: none */
    float threshold;
} AttentionBack;

enum { KEYS_AT_ONCE = 32 };

#endif
