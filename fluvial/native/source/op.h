/* How an operator of Fluvial is written: one Operator, declared in op_NAME.c and listed in
   operators.h. op.c makes custom operators of ONNX Runtime (domain "fluvial") out of them.

   No input is trusted: compute checks every rank, size and index before it is used, and returns
   what was wrong. That becomes a status and in Python an exception. */
#ifndef FLUVIAL_OP_H
#define FLUVIAL_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "kernel.h"
#include "ort.h"

#define MAX_RANK 8
#define MAX_PORTS 32

typedef struct Tensor {
    void *data; /* NULL when an optional input was left out */
    int64_t shape[MAX_RANK];
    int rank;
    int64_t count; /* elements */
} Tensor;

typedef struct Port {
    const char *name;
    Dtype dtype;
    bool optional;
} Port;

typedef struct Info Info;       /* a node while its operator is created */
typedef struct Context Context; /* one run of a node */

typedef struct Operator {
    const char *name;
    int input_count;
    Port inputs[MAX_PORTS];
    int output_count;
    Port outputs[MAX_PORTS];
    /* Reads attributes into malloc'd memory, which compute gets; NULL: no attributes. What went
       wrong is told through `fail_info` or by attribute_*, and what is returned is destroyed. */
    void *(*create)(Info *info);
    /* Returns NULL, or what was wrong: a literal or the result of `fail`. `inputs` has input_count
       tensors of the declared dtypes. May run on several threads at once for one node. */
    const char *(*compute)(const void *attributes, Context *context, const Tensor *inputs);
    /* NULL: free(). */
    void (*destroy)(void *attributes);
} Operator;

/* An attribute between `least` and `most`; an error is kept in info, and `least` returned. */
int64_t attribute_int(Info *info, const char *name, int64_t least, int64_t most);
/* The same for one that may be left out. */
int64_t attribute_int_or(Info *info, const char *name, int64_t missing, int64_t least,
                         int64_t most);
float attribute_float(Info *info, const char *name);
float attribute_float_or(Info *info, const char *name, float missing);
/* Keep the first error of a node; creation then fails with it. */
void fail_info(Info *info, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Format what was wrong; the text lives as long as the run. */
const char *fail(Context *context, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Memory of an output; NULL when the runtime has none (then return `failure(context)`). A tensor of
   no elements has memory too, which is not to be written. */
void *output(Context *context, int index, const int64_t *shape, int rank);
const char *failure(const Context *context);

/* Run task(argument, 0 .. tasks - 1) on the pool's threads (pool.h); returns when all are done. Tasks
   are handed out one at a time, so make each worth some microseconds. NULL or what was wrong. */
const char *parallel(Context *context, void (*task)(void *argument, size_t index), void *argument,
                     int64_t tasks);

/* a * b * c, or -1 when one is negative or the product is over INT64_MAX. */
int64_t multiply(int64_t a, int64_t b, int64_t c);

/* Does the tensor have exactly these sizes? -1 stands for any size. */
#define has_shape(tensor, ...)                                                                     \
    has_shape_of(tensor, (const int64_t[]){__VA_ARGS__},                                           \
                 (int)(sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t)))
bool has_shape_of(const Tensor *tensor, const int64_t *shape, int rank);

#endif
