#include "op.h"

#include "pool.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>

#define MESSAGE_BYTES 512

/* What the library was built from, for people who look into the file. */
#ifndef SOURCE_HASH
#define SOURCE_HASH "unknown"
#endif
__attribute__((visibility("default"))) const char fluvial_source[] = "fluvial-source:" SOURCE_HASH;

#define OPERATOR(name) extern const Operator operator_##name;
#include "operators.h"
#undef OPERATOR
#define OPERATOR(name) &operator_##name,
static const Operator *const operators[] = {
#include "operators.h"
};
#undef OPERATOR
#define OPERATOR_COUNT (sizeof operators / sizeof *operators)

struct Info {
    const OrtApi *api;
    const OrtKernelInfo *info;
    char message[MESSAGE_BYTES]; /* "" while all is well */
};

struct Context {
    const OrtApi *api;
    OrtKernelContext *context;
    char message[MESSAGE_BYTES];
};

typedef struct Custom { /* an operator as the runtime sees it; `op` is first */
    OrtCustomOp op;
    const Operator *operator;
} Custom;

typedef struct Node {
    const OrtApi *api;
    const Operator *operator;
    void *attributes;
} Node;

static Custom customs[OPERATOR_COUNT];
static const OrtApi *runtime;

/* --- errors ------------------------------------------------------------------------------------ */

static void keep_status(const OrtApi *api, OrtStatus *status, char *message) {
    snprintf(message, MESSAGE_BYTES, "%s", ort_GetErrorMessage(api)(status));
    ort_ReleaseStatus(api)(status);
}

void fail_info(Info *info, const char *format, ...) {
    if (info->message[0] != 0) return;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(info->message, MESSAGE_BYTES, format, arguments);
    va_end(arguments);
}

const char *fail(Context *context, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context->message, MESSAGE_BYTES, format, arguments);
    va_end(arguments);
    return context->message;
}

const char *failure(const Context *context) { return context->message; }

/* --- attributes -------------------------------------------------------------------------------- */

static bool drop(Info *info, OrtStatus *status) {
    if (status == NULL) return false;
    ort_ReleaseStatus(info->api)(status);
    return true;
}

static int64_t check_range(Info *info, const char *name, int64_t value, int64_t least,
                           int64_t most) {
    if (value >= least && value <= most) return value;
    fail_info(info, "attribute %s is %lld, but must be from %lld to %lld", name, (long long)value,
              (long long)least, (long long)most);
    return least;
}

int64_t attribute_int(Info *info, const char *name, int64_t least, int64_t most) {
    int64_t value = least;
    if (!drop(info, ort_KernelInfoGetAttribute_int64(info->api)(info->info, name, &value)))
        return check_range(info, name, value, least, most);
    fail_info(info, "attribute %s (an integer) is missing", name);
    return least;
}

int64_t attribute_int_or(Info *info, const char *name, int64_t missing, int64_t least,
                         int64_t most) {
    int64_t value = missing;
    if (drop(info, ort_KernelInfoGetAttribute_int64(info->api)(info->info, name, &value)))
        return missing;
    return check_range(info, name, value, least, most);
}

float attribute_float(Info *info, const char *name) {
    float value = 0;
    if (!drop(info, ort_KernelInfoGetAttribute_float(info->api)(info->info, name, &value)))
        return value;
    fail_info(info, "attribute %s (a float) is missing", name);
    return 0;
}

float attribute_float_or(Info *info, const char *name, float missing) {
    float value = missing;
    if (drop(info, ort_KernelInfoGetAttribute_float(info->api)(info->info, name, &value)))
        return missing;
    return value;
}

/* --- tensors ----------------------------------------------------------------------------------- */

int64_t multiply(int64_t a, int64_t b, int64_t c) {
    int64_t product;
    if (a < 0 || b < 0 || c < 0) return -1;
    if (__builtin_mul_overflow(a, b, &product) || __builtin_mul_overflow(product, c, &product))
        return -1;
    return product;
}

bool has_shape_of(const Tensor *tensor, const int64_t *shape, int rank) {
    if (tensor->data == NULL || tensor->rank != rank) return false;
    for (int i = 0; i < rank; i++)
        if (shape[i] != -1 && shape[i] != tensor->shape[i]) return false;
    return true;
}

static OrtStatus *view(const OrtApi *api, const OrtValue *value, Tensor *tensor, int *dtype) {
    const int64_t *shape = NULL;
    size_t rank = 0;
    OrtStatus *status =
        ort_GetTensorElementTypeAndShapeDataReference(api)(value, dtype, &shape, &rank);
    if (status != NULL) return status;
    if (rank > MAX_RANK)
        return ort_CreateStatus(api)(ORT_INVALID_ARGUMENT, "a tensor has too many dimensions");
    tensor->rank = (int)rank;
    tensor->count = 1;
    for (size_t i = 0; i < rank; i++) {
        tensor->shape[i] = shape[i];
        tensor->count = multiply(tensor->count, shape[i], 1);
    }
    if (tensor->count < 0)
        return ort_CreateStatus(api)(ORT_INVALID_ARGUMENT, "a tensor has an impossible shape");
    return ort_GetTensorMutableData(api)((OrtValue *)value, &tensor->data);
}

static OrtStatus *read_input(const Node *node, OrtKernelContext *context, int index,
                             Tensor *tensor) {
    const OrtApi *api = node->api;
    const Port *port = &node->operator->inputs[index];
    const OrtValue *value = NULL;
    OrtStatus *status = ort_KernelContext_GetInput(api)(context, (size_t)index, &value);
    if (status != NULL) return status;
    if (value == NULL && port->optional) return NULL;
    int dtype = 0;
    if (value != NULL && (status = view(api, value, tensor, &dtype)) != NULL) return status;
    static char nothing[64]; /* a tensor of no elements may have no memory, but is not left out */
    if (value != NULL && tensor->data == NULL && tensor->count == 0) tensor->data = nothing;
    if (value != NULL && dtype == (int)port->dtype && tensor->data != NULL) return NULL;
    char message[MESSAGE_BYTES];
    snprintf(message, sizeof message, "%s: input %s is missing or of another type",
             node->operator->name, port->name);
    return ort_CreateStatus(api)(ORT_INVALID_ARGUMENT, message);
}

static OrtStatus *read_inputs(const Node *node, OrtKernelContext *context, Tensor *inputs) {
    size_t count = 0;
    OrtStatus *status = ort_KernelContext_GetInputCount(node->api)(context, &count);
    for (int i = 0; status == NULL && i < node->operator->input_count; i++) {
        inputs[i] = (Tensor){0};
        if ((size_t)i < count)
            status = read_input(node, context, i, &inputs[i]);
        else if (!node->operator->inputs[i].optional)
            status = ort_CreateStatus(node->api)(ORT_INVALID_ARGUMENT, "too few inputs");
    }
    return status;
}

void *output(Context *context, int index, const int64_t *shape, int rank) {
    static char nothing[64];
    OrtValue *value = NULL;
    void *data = NULL;
    int64_t count = 1;
    for (int i = 0; i < rank; i++) count = multiply(count, shape[i], 1);
    OrtStatus *status = ort_KernelContext_GetOutput(context->api)(context->context, (size_t)index,
                                                                  shape, (size_t)rank, &value);
    if (status == NULL && value != NULL)
        status = ort_GetTensorMutableData(context->api)(value, &data);
    if (status != NULL) {
        keep_status(context->api, status, context->message);
        return NULL;
    }
    if (data == NULL && count != 0) fail(context, "output %d has no memory", index);
    return data == NULL && count == 0 ? nothing : data;
}

const char *parallel(Context *context, void (*task)(void *argument, size_t index), void *argument,
                     int64_t tasks) {
    if (tasks <= 1) {
        if (tasks == 1) task(argument, 0);
        return NULL;
    }
    (void)context;
    pool_run(task, argument, tasks);
    return NULL;
}

/* --- what the runtime calls -------------------------------------------------------------------- */

static const Operator *of(const OrtCustomOp *op) { return ((const Custom *)op)->operator; }

static const char *get_name(const OrtCustomOp *op) { return of(op)->name; }

static const char *get_provider(const OrtCustomOp *op) {
    (void)op;
    return "CPUExecutionProvider";
}

static size_t count_inputs(const OrtCustomOp *op) { return (size_t)of(op)->input_count; }

static size_t count_outputs(const OrtCustomOp *op) { return (size_t)of(op)->output_count; }

static int get_input_type(const OrtCustomOp *op, size_t i) { return (int)of(op)->inputs[i].dtype; }

static int get_output_type(const OrtCustomOp *op, size_t i) {
    return (int)of(op)->outputs[i].dtype;
}

static int get_input_kind(const OrtCustomOp *op, size_t i) {
    return of(op)->inputs[i].optional ? ORT_INPUT_OPTIONAL : ORT_INPUT_REQUIRED;
}

static int get_output_kind(const OrtCustomOp *op, size_t i) {
    return of(op)->outputs[i].optional ? ORT_INPUT_OPTIONAL : ORT_INPUT_REQUIRED;
}

static int get_zero(const OrtCustomOp *op, size_t i) {
    (void)op, (void)i;
    return 0;
}

static int get_one(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

static int get_end(const OrtCustomOp *op) {
    (void)op;
    return INT32_MAX;
}

static void destroy_attributes(const Operator *operator, void *attributes) {
    if (attributes == NULL) return;
    if (operator->destroy != NULL)
        operator->destroy(attributes);
    else
        free(attributes);
}

static OrtStatus *create_node(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info,
                              void **kernel) {
    (void)api; /* of the version that `op` names; ours is newer */
    Info node_info = {runtime, info, ""};
    Node *node = malloc(sizeof *node);
    if (node == NULL) return ort_CreateStatus(runtime)(ORT_FAIL, "out of memory");
    *node = (Node){runtime, of(op), NULL};
    if (of(op)->create != NULL) {
        node->attributes = of(op)->create(&node_info);
        if (node->attributes == NULL) fail_info(&node_info, "out of memory");
    }
    if (node_info.message[0] == 0) {
        *kernel = node;
        return NULL;
    }
    destroy_attributes(of(op), node->attributes);
    free(node);
    char message[MESSAGE_BYTES + 64];
    snprintf(message, sizeof message, "%s: %s", of(op)->name, node_info.message);
    return ort_CreateStatus(runtime)(ORT_INVALID_ARGUMENT, message);
}

static OrtStatus *compute_node(void *kernel, OrtKernelContext *context) {
    const Node *node = kernel;
    Tensor inputs[MAX_PORTS];
    OrtStatus *status = read_inputs(node, context, inputs);
    if (status != NULL) return status;
    Context run;
    run.api = node->api;
    run.context = context;
    run.message[0] = 0;
    const char *message = node->operator->compute(node->attributes, &run, inputs);
    return message == NULL ? NULL : ort_CreateStatus(node->api)(ORT_INVALID_ARGUMENT, message);
}

static void destroy_node(void *kernel) {
    Node *node = kernel;
    destroy_attributes(node->operator, node->attributes);
    free(node);
}

static const OrtCustomOp custom_op = {
    .version = ORT_CUSTOM_OP_VERSION,
    .GetName = get_name,
    .GetExecutionProviderType = get_provider,
    .GetInputType = get_input_type,
    .GetInputTypeCount = count_inputs,
    .GetOutputType = get_output_type,
    .GetOutputTypeCount = count_outputs,
    .KernelDestroy = destroy_node,
    .GetInputCharacteristic = get_input_kind,
    .GetOutputCharacteristic = get_output_kind,
    .GetInputMemoryType = get_zero,
    .GetVariadicInputMinArity = get_one,
    .GetVariadicInputHomogeneity = get_one,
    .GetVariadicOutputMinArity = get_one,
    .GetVariadicOutputHomogeneity = get_one,
    .CreateKernelV2 = create_node,
    .KernelComputeV2 = compute_node,
    .GetStartVersion = get_one,
    .GetEndVersion = get_end,
};

/* One domain for the whole process: sessions keep a pointer to it, so it is never released. */
static OrtStatus *make_domain(OrtCustomOpDomain **domain) {
    OrtStatus *status = ort_CreateCustomOpDomain(runtime)("fluvial", domain);
    for (size_t i = 0; status == NULL && i < OPERATOR_COUNT; i++) {
        customs[i] = (Custom){custom_op, operators[i]};
        status = ort_CustomOpDomain_Add(runtime)(*domain, &customs[i].op);
    }
    return status;
}

static OrtStatus *add_operators(OrtSessionOptions *options) {
    static OrtCustomOpDomain *domain;
    OrtStatus *status = domain == NULL ? make_domain(&domain) : NULL;
    if (status == NULL) return ort_AddCustomOpDomain(runtime)(options, domain);
    domain = NULL;
    return status;
}

__attribute__((visibility("default"))) OrtStatus *RegisterCustomOps(OrtSessionOptions *options,
                                                                    const OrtApiBase *base) {
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    const OrtApi *api = base->GetApi(ORT_API_VERSION);
    if (api == NULL)
        return ort_CreateStatus(base->GetApi(ORT_API_OLDEST))(
            ORT_NOT_IMPLEMENTED, "Fluvial needs ONNX Runtime 1.24 or later");
    pthread_mutex_lock(&lock);
    runtime = api;
    const char *message = choose_kernels();
    OrtStatus *status = message == NULL ? add_operators(options)
                                        : ort_CreateStatus(api)(ORT_INVALID_ARGUMENT, message);
    pthread_mutex_unlock(&lock);
    return status;
}
