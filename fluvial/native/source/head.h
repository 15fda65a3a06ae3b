/* Cross-entropy of known logits, and its gradient by the inputs of the output layer.

   That gradient is the sum over the vocabulary of probability times embedding, less the target's
   embedding. Nearly all of it comes from few words: only those of a probability of at least
   `threshold` are followed, and the rest counts as what it is on average (`mean`). */
#ifndef FLUVIAL_HEAD_H
#define FLUVIAL_HEAD_H

#include <stdint.h>

#include "linear.h"

typedef struct Head {
    Matrix matrix;         /* [vocabulary][width] */
    const float *logits;   /* [rows][vocabulary], after the soft cap */
    const float *log_sums; /* [rows]: of all exponents */
    int64_t rows;
    float softcap;       /* 0: none */
    float log_threshold; /* of a probability that is followed */
} Head;

/* What some of the tiles gave, added up: gradients [rows][width], and of each row the sum of the
   factors that embeddings were multiplied by. */
typedef struct Followed {
    float *gradient, *mass;
} Followed;

/* What an embedding is multiplied by, for a logit with its probability. */
static inline float head_factor(float probability, float logit, float softcap) {
    if (softcap == 0) return probability;
    const float bent = logit / softcap;
    return probability * (1 - bent * bent);
}

#endif
