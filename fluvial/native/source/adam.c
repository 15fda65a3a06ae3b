/* Adam's step (arXiv 1412.6980) over many tensors at once, outside of any graph.

   Every number is made in one order, whatever the number of threads. */
#include "pool.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

enum { LANES = 16 };

typedef struct Sum {
    const float *const *tensors;
    const int64_t *sizes;
    double *sums;
} Sum;

static void sum_one(void *argument, size_t index) {
    const Sum *s = argument;
    const float *x = s->tensors[index];
    const int64_t size = s->sizes[index];
    double lanes[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES)
        for (int j = 0; j < LANES; j++) lanes[j] += (double)x[i + j] * (double)x[i + j];
    for (int j = 0; j < LANES; j++) sum += lanes[j];
    for (; i < size; i++) sum += (double)x[i] * (double)x[i];
    s->sums[index] = sum;
}

/* The sum of the squares of all numbers of `count` tensors. */
EXPORT const char *fluvial_square_sum(int64_t count, const float *const *tensors,
                                      const int64_t *sizes, double *sum) {
    *sum = 0;
    if (count < 0) return "sizes must be positive";
    double *sums = calloc((size_t)count + 1, sizeof(double));
    if (sums == NULL) return "out of memory";
    Sum all = {tensors, sizes, sums};
    pool_run(sum_one, &all, count);
    for (int64_t i = 0; i < count; i++) *sum += sums[i];
    free(sums);
    return NULL;
}

typedef struct Step {
    float *const *values;
    const float *const *gradients;
    float *const *first, *const *second;
    const int64_t *sizes;
    const float *rates, *kept;
    const float *const *leeways;
    const int64_t *outputs;
    float scale, old, new, old_square, new_square, first_factor, second_factor, epsilon;
} Step;

static void step_one(void *argument, size_t index) {
    const Step *s = argument;
    float *restrict value = s->values[index], *restrict first = s->first[index];
    float *restrict second = s->second[index];
    const float *restrict gradient = s->gradients[index];
    const float scale = s->scale, old = s->old, new = s->new;
    const float old_square = s->old_square, new_square = s->new_square;
    const float first_factor = s->first_factor, second_factor = s->second_factor;
    const float epsilon = s->epsilon, rate = s->rates[index], kept = s->kept[index];
    const float *restrict leeway = s->leeways[index];
    const int64_t outputs = s->outputs[index];
    for (int64_t row = 0; row < s->sizes[index]; row += outputs)
        for (int64_t o = 0; o < outputs; o++) {
            const int64_t i = row + o;
            const float g = gradient[i] * scale;
            first[i] = first[i] * old + g * new;
            second[i] = second[i] * old_square + g * g * new_square;
            const float step = first[i] * first_factor / (sqrtf(second[i] * second_factor) + epsilon);
            const float own = leeway == NULL ? rate : rate * leeway[o];
            value[i] = (value[i] - own * step) * kept;
        }
}

/* Take a step of `count` tensors in place, with the averages `first` and `second` of gradients times
   `scale`, and of their squares; `rates` are the tensors' own, and values are multiplied by `kept`
   afterwards. A tensor has rows of `outputs` numbers, and where `leeways` has such a row, that is a
   factor on its rate. This is step number `steps`, from 1 on. No tensor shares memory with another. */
EXPORT const char *fluvial_adam(int64_t count, float *const *values, const float *const *gradients,
                                float *const *first, float *const *second, const int64_t *sizes,
                                const float *rates, const float *kept, const float *const *leeways,
                                const int64_t *outputs, float scale, double first_decay,
                                double second_decay, float epsilon, int64_t steps) {
    if (count < 0 || steps < 1) return "sizes must be positive";
    for (int64_t i = 0; i < count; i++)
        if (outputs[i] < 1 || sizes[i] % outputs[i] != 0) return "a tensor must have whole rows";
    Step step = {values, gradients, first, second, sizes, rates, kept, leeways, outputs, scale,
                 (float)first_decay, (float)(1 - first_decay),
                 (float)second_decay, (float)(1 - second_decay),
                 (float)(1 / (1 - pow(first_decay, (double)steps))),
                 (float)(1 / (1 - pow(second_decay, (double)steps))), epsilon};
    pool_run(step_one, &step, count);
    return NULL;
}
