#include "state.h"

static const char *check(const Tensor *pool, const Tensor *slot, const Tensor *row_of,
                         const Tensor *position, int64_t tokens, int64_t offset, int64_t floats) {
    if (pool->rank != 2 || slot->rank != 1) return "state_pool must be [slots, floats], "
                                                   "state_slot [sequences]";
    if (!has_shape(row_of, tokens) || !has_shape(position, tokens))
        return "row_of and position must be [tokens]";
    if (floats > pool->shape[1] || offset > pool->shape[1] - floats)
        return "state_pool is too narrow for this state at this offset";
    return NULL;
}

static const char *add_token(Runs *runs, const Tensor *pool, const Tensor *slot,
                             const int32_t *row_of, const int32_t *position, int64_t token,
                             int64_t offset, char *taken) {
    const int32_t row = row_of[token];
    if (row < 0 || row >= slot->count) return "row_of is out of range";
    if (position[token] < 0) return "a position is negative";
    if (token > 0 && row == row_of[token - 1]) {
        if ((int64_t)position[token] != (int64_t)position[token - 1] + 1)
            return "the tokens of a sequence must follow each other";
        runs->run[runs->count - 1].end = token + 1;
        return NULL;
    }
    const int32_t at = ((const int32_t *)slot->data)[row];
    if (at < 0 || at >= pool->shape[0]) return "state_slot is out of range";
    if (taken[at]) return "a state is used twice in one step";
    taken[at] = 1;
    float *state = (float *)pool->data + at * pool->shape[1] + offset;
    runs->run[runs->count++] = (Run){token, token + 1, state, position[token] == 0};
    return NULL;
}

const char *find_runs(Runs *runs, const Tensor *pool, const Tensor *slot, const Tensor *row_of,
                      const Tensor *position, int64_t tokens, int64_t offset, int64_t floats) {
    *runs = (Runs){NULL, 0};
    const char *wrong = check(pool, slot, row_of, position, tokens, offset, floats);
    if (wrong != NULL || tokens == 0) return wrong;
    const int64_t most = tokens < pool->shape[0] ? tokens : pool->shape[0];
    runs->run = malloc((size_t)(most + 1) * sizeof *runs->run);
    char *taken = calloc((size_t)pool->shape[0] + 1, 1);
    if (runs->run == NULL || taken == NULL) wrong = "out of memory";
    for (int64_t i = 0; wrong == NULL && i < tokens; i++)
        wrong = add_token(runs, pool, slot, row_of->data, position->data, i, offset, taken);
    free(taken);
    return wrong;
}
