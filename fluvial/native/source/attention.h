/* Attention over keys and values kept in pages of 16 tokens, in one of two forms.

   float16: keys as [key_width][16 tokens], values as [16 tokens][value_width].
   8 bits: keys as [key_width / 4][16 tokens][4] integers plus 128, then a scale (float16) for each 32
   features of each token, as [key_width / 32][16 tokens]; values as [16 / 4 tokens][value_width][4
   tokens] integers plus 128, then a scale for each token. So four features of a key, or four tokens'
   values of a feature, are the four bytes that one instruction multiplies and adds. Queries and
   weights are rounded to 16 bits for it: the sums are exact, and what is lost is lost in the pages.
   (`key_width` is filled up to a multiple of 32, `value_width` to one of 16.)

   Pages lie in slabs of 64. A slab is cut by layer, then by head, then into keys and values, then by
   page: the keys of one head lie side by side, so that a long sequence is read in streams (here: 13
   GB/s a core in pieces of 16 KB, 22 in pieces of 64 KB, 26 in long ones), while a short one has few
   slabs and so takes little memory. A layer's `offset` counts the bytes of one page in all layers
   before it.

   Keys are taken in spans of 256 from position 0 on, each with its own largest score; spans are put
   together in order. So what a token attends to does not depend on the batch, on the number of
   threads, or on how a prompt was cut. Up to four spans are looked at in one run: first at all of
   their keys, then at all of their values. */
#ifndef FLUVIAL_ATTENTION_H
#define FLUVIAL_ATTENTION_H

#include <stdint.h>

enum { PAGE = 16, SLAB = 64, SPAN = 256, RUN = 4, QUERIES = 8, KEY_BLOCK = 32, WIDEST_HEAD = 4096 };

static inline int64_t padded_width(int64_t width) { return (width + 15) / 16 * 16; }

static inline int64_t key_blocks(int64_t key_width) { return (key_width + KEY_BLOCK - 1) / KEY_BLOCK; }

/* Bytes of one head's keys in a page, and of its values. */
static inline int64_t key_bytes(int64_t key_width, int bits) {
    if (bits == 16) return 2 * PAGE * key_width;
    return (key_blocks(key_width) * (KEY_BLOCK + 2) * PAGE + 63) / 64 * 64;
}

static inline int64_t value_bytes(int64_t value_width, int bits) {
    if (bits == 16) return 2 * PAGE * padded_width(value_width);
    return (padded_width(value_width) * PAGE + 2 * PAGE + 63) / 64 * 64;
}

static inline int64_t head_bytes(int64_t key_width, int64_t value_width, int bits) {
    return key_bytes(key_width, bits) + value_bytes(value_width, bits);
}

/* One head's keys and values of one sequence. */
typedef struct {
    uint8_t *keys, *values; /* this head's, in the first slab */
    int64_t slab_bytes;
    const int32_t *pages;
    int64_t key_width, value_width;
    int bits;      /* 16 or 8 */
    float softcap; /* 0: none */
} Memory;

/* The keys, and the values, of the page at place `place` of the sequence. */
static inline uint8_t *keys_of(const Memory *m, int64_t place) {
    const int32_t page = m->pages[place];
    return m->keys + page / SLAB * m->slab_bytes + page % SLAB * key_bytes(m->key_width, m->bits);
}

static inline uint8_t *values_of(const Memory *m, int64_t place) {
    const int32_t page = m->pages[place];
    return m->values + page / SLAB * m->slab_bytes + page % SLAB * value_bytes(m->value_width, m->bits);
}

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
