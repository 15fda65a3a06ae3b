/* What the kernels of recurrent operators work on. */
#ifndef FLUVIAL_RECURRENT_H
#define FLUVIAL_RECURRENT_H

#include <stdint.h>

enum { MAX_TAPS = 16, MAX_KEY_WIDTH = 512 };

/* A causal depthwise convolution over the tokens of one sequence. What it read last is kept in
   `state` [width][taps - 1], oldest first. Steps are floats from one token to the next. */
typedef struct Convolution {
    const float *x;      /* gated: B, C and x, `width` of each; else `width` */
    const float *weight; /* [width][taps], newest last */
    float *state, *y;
    int64_t x_step, y_step, width, tokens;
    int taps;
    int gated; /* y = C * conv(B * x); else y = silu(conv(x)) */
    int fresh; /* begin with zeros */
} Convolution;

/* Up to 16 value features of one head of the gated delta rule, over the tokens of one sequence:
       S = decay * S;  S += k (beta * (v - S'k))';  y = S'q
   `state` is [key_width][state_step], of which `columns` are this one's. */
typedef struct Delta {
    const float *q, *k, *v, *decay, *beta;
    float *state, *y;
    int64_t x_step, gate_step, y_step, state_step, key_width, tokens;
    int columns; /* 1 to 16 */
    int fresh;
} Delta;

#endif
