#include "route.h"

#include <math.h>
#include <stddef.h>

static const float SMALLEST_SUM = 1e-20f;

const char *check_router(const Router *router) {
    if (router->active > router->count) return "more experts are active than there are";
    if (router->count % router->groups || router->active_groups > router->groups)
        return "the experts don't go with these groups";
    const int64_t size = router->count / router->groups;
    if (router->groups > 1 && size < 2) return "a group must have two experts or more";
    if (router->active > size * router->active_groups)
        return "the active groups hold fewer experts than are active";
    return NULL;
}

static void score(const Router *router, const float *logits, float *scores) {
    const int64_t count = router->count;
    if (router->score == ROUTE_SIGMOID) {
        for (int64_t i = 0; i < count; i++) scores[i] = 1.0f / (1.0f + expf(-logits[i]));
        return;
    }
    float most = logits[0], sum = 0;
    for (int64_t i = 1; i < count; i++) most = logits[i] > most ? logits[i] : most;
    for (int64_t i = 0; i < count; i++) sum += scores[i] = expf(logits[i] - most);
    for (int64_t i = 0; i < count; i++) scores[i] /= sum;
}

/* The index of the greatest that is not marked by NAN, of equal ones the first; -1: all are. */
static int64_t find_best(const float *merit, int64_t count) {
    int64_t best = -1;
    for (int64_t i = 0; i < count; i++)
        if (!isnan(merit[i]) && (best < 0 || merit[i] > merit[best])) best = i;
    return best;
}

/* What a group counts: its two best. */
static float weigh_group(const float *merit, int64_t size) {
    float first = -INFINITY, second = -INFINITY;
    for (int64_t i = 0; i < size; i++) {
        if (merit[i] > first) {
            second = first;
            first = merit[i];
        } else if (merit[i] > second) {
            second = merit[i];
        }
    }
    const float both = first + second;
    return isnan(both) ? -INFINITY : both;
}

/* Mark the experts outside the best groups. */
static void keep_groups(const Router *router, float *merit, float *worth) {
    const int64_t groups = router->groups, size = router->count / groups;
    for (int64_t g = 0; g < groups; g++) worth[g] = weigh_group(merit + g * size, size);
    for (int64_t n = 0; n < router->active_groups; n++) {
        const int64_t best = find_best(worth, groups);
        worth[best] = NAN;
    }
    for (int64_t g = 0; g < groups; g++)
        for (int64_t i = 0; !isnan(worth[g]) && i < size; i++) merit[g * size + i] = NAN;
}

static void sort(int32_t *chosen, int64_t count) {
    for (int64_t i = 1; i < count; i++) {
        const int32_t one = chosen[i];
        int64_t at = i;
        for (; at > 0 && chosen[at - 1] > one; at--) chosen[at] = chosen[at - 1];
        chosen[at] = one;
    }
}

void route(const Router *router, const float *logits, const float *bias, float *room,
           int32_t *chosen, float *weights) {
    float *scores = room, *merit = room + router->count, *worth = merit + router->count;
    score(router, logits, scores);
    for (int64_t i = 0; i < router->count; i++) {
        merit[i] = bias == NULL ? scores[i] : scores[i] + bias[i];
        if (isnan(merit[i])) merit[i] = -INFINITY; /* NAN marks what may not be chosen */
    }
    if (router->groups > 1) keep_groups(router, merit, worth);
    for (int64_t i = 0; i < router->active; i++) {
        chosen[i] = (int32_t)find_best(merit, router->count);
        merit[chosen[i]] = NAN;
    }
    sort(chosen, router->active);
    float sum = 0;
    for (int64_t i = 0; i < router->active; i++) sum += scores[chosen[i]];
    if (sum < SMALLEST_SUM) sum = SMALLEST_SUM;
    const float by = router->normalise ? router->scale / sum : router->scale;
    for (int64_t i = 0; i < router->active; i++) weights[i] = scores[chosen[i]] * by;
}
