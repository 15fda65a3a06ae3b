/* Where an operator finds the recurrent states of the sequences in a step.

   A slot of state_pool [slots, floats] holds the states of one sequence, all layers'; an operator's
   own begin at its attribute `offset`. They are updated in place. */
#ifndef FLUVIAL_STATE_H
#define FLUVIAL_STATE_H

#include "op.h"

enum { WORTH_SHARING = 16384 };

/* One sequence's share of a step: tokens [first, end), which follow each other. */
typedef struct Run {
    int64_t first, end;
    float *state;
    int fresh; /* begins at position 0: what the state holds is another sequence's, or nothing */
} Run;

typedef struct Runs {
    Run *run; /* malloc'd: the caller frees it, whatever find_runs returns */
    int64_t count;
} Runs;

/* Cut the step into runs and check the inputs state_pool, state_slot, row_of and position, so that
   no state is out of range and no two runs share one. Returns NULL or what was wrong. */
const char *find_runs(Runs *runs, const Tensor *pool, const Tensor *slot, const Tensor *row_of,
                      const Tensor *position, int64_t tokens, int64_t offset, int64_t floats);

/* parallel(), but in one go when the work, `floats` in all, is too little to be shared. */
static inline const char *share(Context *context, void (*task)(void *argument, size_t index),
                                void *argument, int64_t tasks, int64_t floats) {
    if (floats >= WORTH_SHARING) return parallel(context, task, argument, tasks);
    for (int64_t i = 0; i < tasks; i++) task(argument, (size_t)i);
    return NULL;
}

#endif
