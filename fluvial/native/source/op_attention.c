/* Attention: causal grouped-query attention of ragged rows over pages (attention.h).

   Inputs: qkv [tokens, q | k | v], of `heads`, `kv_heads`, `kv_heads` heads; kv_pool [slabs, bytes],
   written in place; kv_bits [1], 16 or 8; pages [sequences, places], -1 where there is none; row_of
   and position [tokens]; cosine and sine [positions, pairs]; q_norm and k_norm [key_width]. Tokens of
   one sequence stand together in order, and everything before them is in the pages.

   Attributes: heads, kv_heads, key_width, value_width; offset and offset_byte (of the layer in a page
   of 16 and of 8 bits), scale;
   window (0: none), softcap (0: none), rotary_start, interleaved, epsilon. */
#include "attention.h"
#include "op.h"

#include <math.h>

typedef struct Attention {
    int64_t heads, kv_heads, key_width, value_width, offset, offset_byte, window, rotary_start;
    int interleaved;
    float scale, softcap, epsilon;
} Attention;

/* Neighbouring tokens of one sequence, with all heads that share one key head. */
typedef struct Job {
    int64_t first, count, kv_head;
} Job;

typedef struct Work {
    const Attention *attention;
    const float *qkv, *cosine, *sine, *q_norm, *k_norm;
    uint8_t *pool;
    int bits;
    const int32_t *pages, *row_of, *position;
    float *y, *q;
    int64_t tokens, slabs, slab_bytes, places, pairs, sequences, positions;
    Job *jobs;
    int64_t job_count, spans, run;
    float *partial; /* [jobs][spans][queries][2 + width], when spans run apart */
    int failed;
} Work;

enum { TOKENS_AT_ONCE = 8, MAX_QUERIES = 64, FEW_JOBS = 12, ENOUGH_RUNS = 12 };

static void *create(Info *info) {
    Attention *a = calloc(1, sizeof *a);
    if (a == NULL) return NULL;
    a->heads = attribute_int(info, "heads", 1, 4096);
    a->kv_heads = attribute_int(info, "kv_heads", 1, 4096);
    a->key_width = attribute_int(info, "key_width", 1, WIDEST_HEAD);
    a->value_width = attribute_int(info, "value_width", 1, WIDEST_HEAD);
    a->offset = attribute_int(info, "offset", 0, INT64_C(1) << 40);
    a->offset_byte = attribute_int(info, "offset_byte", 0, INT64_C(1) << 40);
    a->window = attribute_int_or(info, "window", 0, 0, INT64_C(1) << 40);
    a->rotary_start = attribute_int_or(info, "rotary_start", 0, 0, 4096);
    a->interleaved = (int)attribute_int_or(info, "interleaved", 0, 0, 1);
    a->scale = attribute_float(info, "scale");
    a->softcap = attribute_float_or(info, "softcap", 0);
    a->epsilon = attribute_float_or(info, "epsilon", 1e-6f);
    if (a->heads % a->kv_heads) fail_info(info, "heads must be a multiple of kv_heads");
    return a;
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static Memory memory_of(const Work *work, int64_t row, int64_t kv_head) {
    const Attention *a = work->attention;
    const int64_t offset = (work->bits == 16 ? a->offset : a->offset_byte) +
                           kv_head * head_bytes(a->key_width, a->value_width, work->bits);
    uint8_t *keys = work->pool + offset * SLAB;
    return (Memory){.keys = keys,
                    .values = keys + key_bytes(a->key_width, work->bits) * SLAB,
                    .slab_bytes = work->slab_bytes,
                    .pages = work->pages + row * work->places,
                    .key_width = a->key_width,
                    .value_width = a->value_width,
                    .bits = work->bits,
                    .softcap = a->softcap};
}

/* Phase 1: turn queries and keys, put keys and values into their pages. */
static void place(void *argument, size_t index) {
    const Work *work = argument;
    const Attention *a = work->attention;
    const int64_t row_width = (a->heads + a->kv_heads) * a->key_width + a->kv_heads * a->value_width;
    const int64_t end = least(((int64_t)index + 1) * TOKENS_AT_ONCE, work->tokens);
    float key[WIDEST_HEAD];
    for (int64_t t = (int64_t)index * TOKENS_AT_ONCE; t < end; t++) {
        const float *q = work->qkv + t * row_width, *k = q + a->heads * a->key_width;
        const float *v = k + a->kv_heads * a->key_width;
        Turn turn = {.norm = work->q_norm, .epsilon = a->epsilon, .scale = a->scale,
                     .pairs = work->pairs, .start = a->rotary_start, .interleaved = a->interleaved};
        if (work->cosine) {
            turn.cosine = work->cosine + work->position[t] * work->pairs;
            turn.sine = work->sine + work->position[t] * work->pairs;
        }
        for (int64_t head = 0; head < a->heads; head++)
            kernels()->turn_head(&turn, q + head * a->key_width, a->key_width,
                                 work->q + (t * a->heads + head) * a->key_width);
        turn.norm = work->k_norm;
        turn.scale = 1.0f;
        for (int64_t head = 0; head < a->kv_heads; head++) {
            kernels()->turn_head(&turn, k + head * a->key_width, a->key_width, key);
            const Memory memory = memory_of(work, work->row_of[t], head);
            kernels()->keep_token(&memory, work->position[t], key, v + head * a->value_width);
        }
    }
}

typedef struct Reach {
    int64_t low, high;
} Reach;

static Reach reach_of(const Work *work, int64_t token) {
    const int64_t high = work->position[token] + 1, window = work->attention->window;
    return (Reach){window > 0 && high > window ? high - window : 0, high};
}

/* The spans that a job's tokens look at: from that of the first token to that of the last. */
static Reach spans_of(const Work *work, const Job *job) {
    return (Reach){reach_of(work, job->first).low / SPAN,
                   (reach_of(work, job->first + job->count - 1).high + SPAN - 1) / SPAN};
}

/* `spans` spans of a job from `span` on: found[span][query][2 + width] is (most, sum, mixed). */
static void look(const Work *work, const Job *job, int64_t span, int64_t spans, float *found) {
    const Attention *a = work->attention;
    const Memory memory = memory_of(work, work->row_of[job->first], job->kv_head);
    const int64_t group = a->heads / a->kv_heads, queries = job->count * group;
    const int64_t size = 2 + padded_width(a->value_width);
    const int64_t last = reach_of(work, job->first + job->count - 1).high;
    for (int64_t start = 0; start < queries; start += QUERIES) {
        Asked asked = {.count = (int)least(QUERIES, queries - start)};
        Found out[RUN];
        for (int i = 0; i < asked.count; i++) {
            const int64_t token = job->first + (start + i) / group;
            const int64_t head = job->kv_head * group + (start + i) % group;
            const Reach reach = reach_of(work, token);
            asked.q[i] = work->q + (token * a->heads + head) * a->key_width;
            asked.low[i] = reach.low;
            asked.high[i] = reach.high;
            for (int64_t s = 0; s < spans; s++)
                out[s].mixed[i] = found + (s * queries + start + i) * size + 2;
        }
        kernels()->attend(&memory, &asked, span * SPAN, least((span + spans) * SPAN, last), out);
        for (int64_t s = 0; s < spans; s++)
            for (int i = 0; i < asked.count; i++) {
                found[(s * queries + start + i) * size] = out[s].most[i];
                found[(s * queries + start + i) * size + 1] = out[s].sum[i];
            }
    }
}

static void join(const Work *work, int64_t queries, const float *found, float *whole) {
    const int64_t width = padded_width(work->attention->value_width);
    for (int64_t i = 0; i < queries; i++, found += 2 + width, whole += 2 + width)
        kernels()->join_spans(whole, whole + 1, whole + 2, found[0], found[1], found + 2, width);
}

static void clear(float *whole, int64_t queries, int64_t size) {
    memset(whole, 0, (size_t)(queries * size) * sizeof(float));
    for (int64_t i = 0; i < queries; i++) whole[i * size] = -INFINITY;
}

static void write(const Work *work, const Job *job, const float *whole) {
    const Attention *a = work->attention;
    const int64_t group = a->heads / a->kv_heads, size = 2 + padded_width(a->value_width);
    for (int64_t i = 0; i < job->count * group; i++) {
        const int64_t token = job->first + i / group, head = job->kv_head * group + i % group;
        float *y = work->y + (token * a->heads + head) * a->value_width;
        for (int64_t d = 0; d < a->value_width; d++) y[d] = whole[i * size + 2 + d] / whole[i * size + 1];
    }
}

/* Phase 2 with many jobs: each goes through its spans. A job of one token, whose time is that of
   reading memory, takes several at once; one of many reads them again for each few of its queries,
   from the cache of its core. */
static void attend_job(void *argument, size_t index) {
    Work *work = argument;
    const Job *job = &work->jobs[index];
    const int64_t queries = job->count * (work->attention->heads / work->attention->kv_heads);
    const int64_t each = queries * (2 + padded_width(work->attention->value_width));
    const int64_t run = job->count == 1 ? RUN : 1;
    float *room = malloc((size_t)((1 + run) * each) * sizeof(float));
    if (room == NULL) {
        __atomic_store_n(&work->failed, 1, __ATOMIC_RELAXED);
        return;
    }
    const Reach spans = spans_of(work, job);
    clear(room, queries, each / queries);
    for (int64_t span = spans.low; span < spans.high; span += run) {
        const int64_t count = least(run, spans.high - span);
        look(work, job, span, count, room + each);
        for (int64_t s = 0; s < count; s++) join(work, queries, room + (1 + s) * each, room);
    }
    write(work, job, room);
    free(room);
}

/* Phase 2 with few jobs: runs of spans go apart, and are put together in the same order after. */
static void attend_run(void *argument, size_t index) {
    const Work *work = argument;
    const int64_t runs = (work->spans + work->run - 1) / work->run;
    const int64_t job_index = (int64_t)index / runs, at = (int64_t)index % runs * work->run;
    const Job *job = &work->jobs[job_index];
    const Reach spans = spans_of(work, job);
    if (spans.low + at >= spans.high) return;
    const int64_t queries = job->count * (work->attention->heads / work->attention->kv_heads);
    const int64_t size = 2 + padded_width(work->attention->value_width);
    look(work, job, spans.low + at, least(work->run, spans.high - spans.low - at),
         work->partial + (job_index * work->spans + at) * queries * size);
}

static const char *attend_apart(Work *work, Context *context, int64_t queries) {
    const int64_t each = queries * (2 + padded_width(work->attention->value_width));
    const int64_t spans = work->job_count * work->spans;
    work->partial = malloc((size_t)((spans + 1) * each) * sizeof(float));
    if (work->partial == NULL) return "Attention: out of memory";
    /* long runs are read faster, but every thread should have some */
    work->run = spans / ENOUGH_RUNS < 1 ? 1 : least(spans / ENOUGH_RUNS, RUN);
    const int64_t runs = (work->spans + work->run - 1) / work->run;
    const char *wrong = parallel(context, attend_run, work, work->job_count * runs);
    float *whole = work->partial + spans * each;
    for (int64_t j = 0; wrong == NULL && j < work->job_count; j++) {
        const Reach reach = spans_of(work, &work->jobs[j]);
        clear(whole, queries, each / queries);
        for (int64_t s = 0; s < reach.high - reach.low; s++)
            join(work, queries, work->partial + (j * work->spans + s) * each, whole);
        write(work, &work->jobs[j], whole);
    }
    free(work->partial);
    return wrong;
}

/* Cut the tokens into jobs; NULL jobs only counts them. */
static int64_t list_jobs(const Work *work, Job *jobs) {
    const Attention *a = work->attention;
    const int64_t group = a->heads / a->kv_heads;
    const int64_t most = group >= 4 * TOKENS_AT_ONCE ? 1 : MAX_QUERIES / group < 16 ? MAX_QUERIES / group : 16;
    int64_t count = 0;
    for (int64_t first = 0; first < work->tokens;) {
        int64_t end = first + 1;
        while (end < work->tokens && end - first < most && work->row_of[end] == work->row_of[first]) end++;
        for (int64_t head = 0; head < a->kv_heads; head++, count++)
            if (jobs) jobs[count] = (Job){first, end - first, head};
        first = end;
    }
    return count;
}

static const char *attend_all(Work *work, Context *context) {
    int64_t longest = 0, widest = 0;
    work->job_count = list_jobs(work, NULL);
    work->jobs = malloc((size_t)work->job_count * sizeof(Job));
    if (work->jobs == NULL) return "Attention: out of memory";
    list_jobs(work, work->jobs);
    for (int64_t j = 0; j < work->job_count; j++) {
        const Reach spans = spans_of(work, &work->jobs[j]);
        if (spans.high - spans.low > longest) longest = spans.high - spans.low;
        if (work->jobs[j].count > widest) widest = work->jobs[j].count;
    }
    work->spans = longest;
    const char *wrong;
    if (work->job_count < FEW_JOBS && widest == 1 && longest > 1)
        wrong = attend_apart(work, context, work->attention->heads / work->attention->kv_heads);
    else
        wrong = parallel(context, attend_job, work, work->job_count);
    free(work->jobs);
    return wrong == NULL && work->failed ? "Attention: out of memory" : wrong;
}

static const char *check_rows(const Work *work) {
    for (int64_t t = 0; t < work->tokens; t++) {
        const int64_t row = work->row_of[t], at = work->position[t];
        if (row < 0 || row >= work->sequences) return "row_of is out of range";
        if (at < 0 || at / PAGE >= work->places) return "a position is beyond the page table";
        if (work->cosine && at >= work->positions) return "a position is beyond the rotary table";
        if (t > 0 && work->row_of[t - 1] == row && work->position[t - 1] + 1 != at)
            return "positions of a sequence must follow each other";
        const int32_t *pages = work->pages + row * work->places;
        const bool new_row = t == 0 || work->row_of[t - 1] != row;
        for (int64_t p = new_row ? 0 : at / PAGE; p <= at / PAGE; p++)
            if (pages[p] < 0 || pages[p] >= work->slabs * SLAB) return "a page is out of range";
    }
    return NULL;
}

static const char *read_inputs(Work *work, const Tensor *in) {
    const Attention *a = work->attention;
    const int64_t row = (a->heads + a->kv_heads) * a->key_width + a->kv_heads * a->value_width;
    if (in[0].rank != 2 || in[0].shape[1] != row) return "qkv does not have the width of its heads";
    work->tokens = in[0].shape[0];
    if (in[1].rank != 2 || in[3].rank != 2) return "kv_pool and pages must have two dimensions";
    if (!has_shape(&in[2], 1)) return "kv_bits must be [1]";
    work->bits = *(const int32_t *)in[2].data;
    if (work->bits != 16 && work->bits != 8) return "kv_bits must be 16 or 8";
    if (!has_shape(&in[4], work->tokens) || !has_shape(&in[5], work->tokens))
        return "row_of and position must be [tokens]";
    const int64_t part = a->kv_heads * head_bytes(a->key_width, a->value_width, work->bits);
    const int64_t offset = work->bits == 16 ? a->offset : a->offset_byte;
    if ((offset + part) * SLAB > in[1].shape[1]) return "the layer is outside of the page";
    work->qkv = in[0].data;
    work->pool = in[1].data;
    work->slabs = in[1].shape[0];
    work->slab_bytes = in[1].shape[1];
    work->pages = in[3].data;
    work->sequences = in[3].shape[0];
    work->places = in[3].shape[1];
    work->row_of = in[4].data;
    work->position = in[5].data;
    work->cosine = in[6].data;
    work->sine = in[7].data;
    work->q_norm = in[8].data;
    work->k_norm = in[9].data;
    if ((work->cosine == NULL) != (work->sine == NULL)) return "cosine and sine go together";
    if (work->cosine) {
        if (in[6].rank != 2 || !has_shape_of(&in[7], in[6].shape, 2))
            return "cosine and sine must be [positions, pairs]";
        work->positions = in[6].shape[0];
        work->pairs = in[6].shape[1];
        if (a->rotary_start + 2 * work->pairs > a->key_width) return "rotary features beyond the head";
    }
    if (work->q_norm && !has_shape(&in[8], a->key_width)) return "q_norm must be [key_width]";
    if (work->k_norm && !has_shape(&in[9], a->key_width)) return "k_norm must be [key_width]";
    return check_rows(work);
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const Attention *a = attributes;
    Work work = {.attention = a};
    const char *wrong = read_inputs(&work, inputs);
    if (wrong != NULL) return fail(context, "Attention: %s", wrong);
    work.y = output(context, 0, (const int64_t[]){work.tokens, a->heads * a->value_width}, 2);
    if (work.y == NULL) return failure(context);
    if (work.tokens == 0) return NULL;
    work.q = malloc((size_t)(work.tokens * a->heads * a->key_width) * sizeof(float));
    if (work.q == NULL) return "Attention: out of memory";
    if (work.tokens <= TOKENS_AT_ONCE)
        place(&work, 0);
    else
        wrong = parallel(context, place, &work, (work.tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE);
    if (wrong == NULL) wrong = attend_all(&work, context);
    free(work.q);
    return wrong;
}

const Operator operator_attention = {
    .name = "Attention",
    .input_count = 10,
    .inputs = {{"qkv", FLOAT32, false},
               {"kv_pool", UINT8, false},
               {"kv_bits", INT32, false},
               {"pages", INT32, false},
               {"row_of", INT32, false},
               {"position", INT32, false},
               {"cosine", FLOAT32, true},
               {"sine", FLOAT32, true},
               {"q_norm", FLOAT32, true},
               {"k_norm", FLOAT32, true}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
