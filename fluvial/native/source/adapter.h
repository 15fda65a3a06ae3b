/* Where an operator finds the adapter of a token.

   A slot of adapter_pool [slots, floats] holds one adapter: first all gains (`gains` floats), then
   for each group of linears a [inputs, rank] and b [rank, outputs]; `units` is the sum of all
   inputs and outputs, so that the rank follows from the size. Slot -1 is the base. */
#ifndef FLUVIAL_ADAPTER_H
#define FLUVIAL_ADAPTER_H

#include "op.h"

typedef struct Adapters {
    const float *pool;
    const int32_t *slot;   /* [sequences] */
    const int32_t *row_of; /* [tokens] */
    int64_t floats, rank;
} Adapters;

/* Read and check the inputs adapter_pool, adapter_slot and row_of, `tokens` long; without them
   every token has the base. Returns NULL or what was wrong. */
static inline const char *find_adapters(Adapters *to, const Tensor *pool, const Tensor *slot,
                                        const Tensor *row_of, int64_t tokens, int64_t gains,
                                        int64_t units) {
    *to = (Adapters){0};
    if (pool->data == NULL) return NULL;
    if (slot->data == NULL || row_of->data == NULL) return "an adapter pool needs slots and rows";
    if (pool->rank != 2 || slot->rank != 1 || !has_shape(row_of, tokens))
        return "adapter_pool must be [slots, floats], adapter_slot [sequences], row_of [tokens]";
    const int64_t left = pool->shape[1] - gains;
    if (units < 1 || left < 0 || left % units) return "adapter_pool does not fit this model";
    *to = (Adapters){pool->data, slot->data, row_of->data, pool->shape[1], left / units};
    for (int64_t i = 0; i < slot->count; i++)
        if (to->slot[i] < -1 || to->slot[i] >= pool->shape[0]) return "adapter_slot out of range";
    for (int64_t i = 0; i < tokens; i++)
        if (to->row_of[i] < 0 || to->row_of[i] >= slot->count) return "row_of out of range";
    return NULL;
}

/* The floats of a token's adapter, or NULL for the base. */
static inline const float *adapter_of(const Adapters *all, int64_t token) {
    if (all->pool == NULL || all->slot[all->row_of[token]] < 0) return NULL;
    return all->pool + all->slot[all->row_of[token]] * all->floats;
}

#endif
