/* The output layer's loss and gradient, outside of any graph (head.h).

   Tiles are dealt out to a fixed number of parts, whose sums are added in order: the result does not
   depend on threads. */
#include "head.h"
#include "kernel.h"
#include "pool.h"
#include "unpack.h"

#include <math.h>
#include <stdlib.h>

enum { PARTS = 8, ROWS_AT_ONCE = 8 };

typedef struct Work {
    Head head;
    const int64_t *targets;
    const float *mean;
    float *log_sums, *losses, *gradient;
    float *weights;   /* [PARTS][16][width] */
    float *gradients; /* [PARTS][rows][width] */
    float *masses;    /* [PARTS][rows] */
} Work;

static void measure_some(void *argument, size_t index) {
    Work *work = argument;
    const int64_t vocabulary = work->head.matrix.outputs;
    for (int64_t row = (int64_t)index * ROWS_AT_ONCE;
         row < work->head.rows && row < ((int64_t)index + 1) * ROWS_AT_ONCE; row++) {
        const float *x = work->head.logits + row * vocabulary;
        work->log_sums[row] = kernels()->sum_exponents(x, vocabulary);
        work->losses[row] = work->log_sums[row] - x[work->targets[row]];
    }
}

static void follow_some(void *argument, size_t index) {
    const Work *work = argument;
    const Matrix *m = &work->head.matrix;
    const int64_t part = (int64_t)index, rows = work->head.rows;
    Followed followed = {work->gradients + part * rows * m->inputs, work->masses + part * rows};
    for (int64_t tile = part; tile < matrix_tiles(m); tile += PARTS)
        kernels()->follow_tile(&work->head, tile, work->weights + part * TILE * m->inputs, &followed);
}

static void finish_row(const Work *work, int64_t row, float *target) {
    const Matrix *m = &work->head.matrix;
    const int64_t rows = work->head.rows, width = m->inputs;
    const float logit = work->head.logits[row * m->outputs + work->targets[row]];
    float *y = work->gradient + row * width, mass = 0;
    for (int part = 0; part < PARTS; part++) mass += work->masses[part * rows + row];
    const float rest = 1 - mass, hit = head_factor(1, logit, work->head.softcap);
    unpack_row(m, work->targets[row], hit, target);
    for (int64_t i = 0; i < width; i++) {
        float sum = rest * work->mean[i];
        for (int64_t part = 0; part < PARTS; part++)
            sum += work->gradients[(part * rows + row) * width + i];
        y[i] = sum - target[i];
    }
}

static void finish_some(void *argument, size_t index) {
    const Work *work = argument;
    const int64_t first = (int64_t)index * ROWS_AT_ONCE;
    float *target = malloc((size_t)work->head.matrix.inputs * sizeof(float));
    for (int64_t row = first; row < work->head.rows && row < first + ROWS_AT_ONCE; row++) {
        if (target == NULL)
            work->losses[row] = NAN; /* out of memory: never a wrong gradient unseen */
        else
            finish_row(work, row, target);
    }
    free(target);
}

static const char *follow_all(Work *work) {
    const int64_t rows = work->head.rows, width = work->head.matrix.inputs;
    const int64_t tasks = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    const size_t summed = (size_t)(PARTS * rows * (width + 1));
    float *room = calloc(summed + (size_t)(rows + PARTS * TILE * width), sizeof(float));
    if (room == NULL) return "out of memory";
    work->gradients = room;
    work->masses = room + PARTS * rows * width;
    work->log_sums = room + summed;
    work->weights = work->log_sums + rows;
    work->head.log_sums = work->log_sums;
    pool_run(measure_some, work, tasks);
    if (work->gradient != NULL) {
        pool_run(follow_some, work, PARTS);
        pool_run(finish_some, work, tasks);
    }
    free(room);
    return NULL;
}

static const char *check(const Work *work, int64_t data_bytes) {
    const Matrix *m = &work->head.matrix;
    if (m->outputs < 1 || m->inputs < 1 || work->head.rows < 0) return "sizes must be positive";
    const char *wrong = check_matrix(m);
    if (wrong != NULL) return wrong;
    if (data_bytes != matrix_bytes(m)) return "data does not have the size of the matrix";
    for (int64_t row = 0; row < work->head.rows; row++)
        if (work->targets[row] < 0 || work->targets[row] >= m->outputs)
            return "a target is not in the vocabulary";
    return choose_kernels();
}

/* losses [rows], and unless `gradient` is NULL gradient [rows][width], of logits [rows][vocabulary]
   after the soft cap (0: none). Returns NULL, or what was wrong. */
__attribute__((visibility("default"))) const char *
fluvial_follow_head(const uint8_t *data, int64_t data_bytes, int64_t outputs, int64_t inputs,
                    int bits, int has_minimum, int scale_bytes, const float *logits,
                    const int64_t *targets, int64_t rows, float softcap, float threshold,
                    const float *mean, float *losses, float *gradient) {
    Work work = {.head = {.matrix = {data, outputs, inputs, bits, has_minimum, scale_bytes},
                          .logits = logits,
                          .rows = rows,
                          .softcap = softcap,
                          .log_threshold = logf(threshold)},
                 .targets = targets,
                 .mean = mean,
                 .losses = losses,
                 .gradient = gradient};
    const char *wrong = check(&work, data_bytes);
    return wrong != NULL || rows == 0 ? wrong : follow_all(&work);
}
