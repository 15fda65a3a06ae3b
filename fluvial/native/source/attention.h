/* Attention over keys and values kept in pages of 16 tokens, as float16.

   The pool is cut by layer, then by head, then into keys and values, then by page: the keys of one
   head lie side by side, so that a long sequence is read in one stream, and so do its values. A page
   has its keys as [key_width][16 tokens], its values as [16 tokens][value_width, filled up to a
   multiple of 16]. A layer's `offset` counts the halves of one page in all layers before it.

   Keys are taken in spans of 256 from position 0 on, each with its own largest score; spans are put
   together in order. So what a token attends to does not depend on the batch, on the number of
   threads, or on how a prompt was cut. */
#ifndef FLUVIAL_ATTENTION_H
#define FLUVIAL_ATTENTION_H

#include <stdint.h>

enum { PAGE = 16, SPAN = 256, QUERIES = 8 };

static inline int64_t padded_width(int64_t width) { return (width + 15) / 16 * 16; }

/* Halves that one head takes in a page. */
static inline int64_t head_halves(int64_t key_width, int64_t value_width) {
    return PAGE * (key_width + padded_width(value_width));
}

/* One head's keys and values of one sequence. */
typedef struct {
    const uint16_t *keys, *values; /* this head's, of all pages */
    const int32_t *pages;
    int64_t key_width, value_width;
    float softcap; /* 0: none */
} Memory;

/* Up to QUERIES queries that read the same memory, each from position low to before high. */
typedef struct {
    int count;
    const float *q[QUERIES];
    int64_t low[QUERIES], high[QUERIES];
} Asked;

/* What they found in one span: largest score, sum of exp(score - most), and the values mixed with
   exp(score - most), [padded value_width] each. `most` is -INFINITY when nothing was in reach. */
typedef struct {
    float most[QUERIES], sum[QUERIES];
    float *mixed[QUERIES];
} Found;

/* How heads turn and are normed before they are used. */
typedef struct {
    const float *norm; /* [width] or NULL */
    float epsilon, scale;
    const float *cosine, *sine; /* [pairs] of this position, or NULL */
    int64_t pairs, start;
    int interleaved;
} Turn;

#endif
