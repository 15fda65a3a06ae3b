/* How a token chooses its experts (the Router of fluvial/model/architecture/declaration.py). */
#ifndef FLUVIAL_ROUTE_H
#define FLUVIAL_ROUTE_H

#include <stdint.h>

enum { ROUTE_SOFTMAX = 0, ROUTE_SIGMOID = 1 };

typedef struct Router {
    int64_t count, active, groups, active_groups;
    int score;     /* softmax or sigmoid, over all experts */
    int normalise; /* divide by the sum of the chosen scores */
    float scale;
} Router;

/* NULL, or why such a choice can't be made. */
const char *check_router(const Router *router);

/* Choose `active` experts, ascending, of equal ones the first; `bias` [count] or NULL moves the
   choice, not the weights. `room` is 2 * count + groups floats. What is not a number is chosen
   somehow, but never out of range. */
void route(const Router *router, const float *logits, const float *bias, float *room,
           int32_t *chosen, float *weights);

#endif
