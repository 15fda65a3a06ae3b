/* The part of ONNX Runtime's C interface that Fluvial uses, declared here because the runtime's
   Python package ships no headers.

   Source: https://github.com/microsoft/onnxruntime
   include/onnxruntime/core/session/onnxruntime_c_api.h. OrtApi is a table of functions that only
   ever grows at its end, so a function's index is a fact of the interface. tests/native calls each
   one of them through a real session. */
#ifndef FLUVIAL_ORT_H
#define FLUVIAL_ORT_H

#include <stddef.h>
#include <stdint.h>

/* GetTensorElementTypeAndShapeDataReference came with 1.24; all else here is older. */
#define ORT_API_VERSION 24
/* For saying so to an older runtime: its table has CreateStatus too. */
#define ORT_API_OLDEST 1

typedef struct OrtStatus OrtStatus;
typedef struct OrtValue OrtValue;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtCustomOp OrtCustomOp;

enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2, ORT_NOT_IMPLEMENTED = 9 };

/* ONNXTensorElementDataType */
typedef enum Dtype {
    FLOAT32 = 1,
    UINT8 = 2,
    INT8 = 3,
    UINT16 = 4,
    INT16 = 5,
    INT32 = 6,
    INT64 = 7,
    FLOAT16 = 10,
} Dtype;

enum { ORT_INPUT_REQUIRED = 0, ORT_INPUT_OPTIONAL = 1 };

typedef struct OrtApi {
    void (*function[1])(void);
} OrtApi;

typedef struct OrtApiBase {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

#define ORT_FUNCTION(index, result, name, ...)                                                     \
    typedef result (*Ort_##name)(__VA_ARGS__);                                                     \
    static inline Ort_##name ort_##name(const OrtApi *api) {                                       \
        return (Ort_##name)api->function[index];                                                   \
    }

/* Those that return a status return NULL when all is well; else it is ours to release. */
ORT_FUNCTION(0, OrtStatus *, CreateStatus, int code, const char *message)
ORT_FUNCTION(2, const char *, GetErrorMessage, const OrtStatus *)
ORT_FUNCTION(26, OrtStatus *, CreateCustomOpDomain, const char *name, OrtCustomOpDomain **)
ORT_FUNCTION(27, OrtStatus *, CustomOpDomain_Add, OrtCustomOpDomain *, const OrtCustomOp *)
ORT_FUNCTION(28, OrtStatus *, AddCustomOpDomain, OrtSessionOptions *, OrtCustomOpDomain *)
ORT_FUNCTION(51, OrtStatus *, GetTensorMutableData, OrtValue *, void **)
ORT_FUNCTION(85, OrtStatus *, KernelInfoGetAttribute_float, const OrtKernelInfo *, const char *,
             float *)
ORT_FUNCTION(86, OrtStatus *, KernelInfoGetAttribute_int64, const OrtKernelInfo *, const char *,
             int64_t *)
ORT_FUNCTION(88, OrtStatus *, KernelContext_GetInputCount, const OrtKernelContext *, size_t *)
/* The value is NULL for an optional input that was left out. */
ORT_FUNCTION(90, OrtStatus *, KernelContext_GetInput, const OrtKernelContext *, size_t index,
             const OrtValue **)
ORT_FUNCTION(91, OrtStatus *, KernelContext_GetOutput, OrtKernelContext *, size_t index,
             const int64_t *shape, size_t rank, OrtValue **)
ORT_FUNCTION(93, void, ReleaseStatus, OrtStatus *)
/* The shape belongs to the value; it is NULL for a scalar. */
ORT_FUNCTION(414, OrtStatus *, GetTensorElementTypeAndShapeDataReference, const OrtValue *,
             int *dtype, const int64_t **shape, size_t *rank)

/* The layout of version 17, whose end is GetEndVersion; a runtime reads no further than that. */
#define ORT_CUSTOM_OP_VERSION 17

struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const OrtCustomOp *);
    int (*GetInputType)(const OrtCustomOp *, size_t index);
    size_t (*GetInputTypeCount)(const OrtCustomOp *);
    int (*GetOutputType)(const OrtCustomOp *, size_t index);
    size_t (*GetOutputTypeCount)(const OrtCustomOp *);
    void (*KernelCompute)(void *kernel, OrtKernelContext *);
    void (*KernelDestroy)(void *kernel);
    int (*GetInputCharacteristic)(const OrtCustomOp *, size_t index);
    int (*GetOutputCharacteristic)(const OrtCustomOp *, size_t index);
    int (*GetInputMemoryType)(const OrtCustomOp *, size_t index);
    int (*GetVariadicInputMinArity)(const OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const OrtCustomOp *, const OrtApi *, const OrtKernelInfo *,
                                 void **kernel);
    OrtStatus *(*KernelComputeV2)(void *kernel, OrtKernelContext *);
    OrtStatus *(*InferOutputShape)(const OrtCustomOp *, void *context);
    int (*GetStartVersion)(const OrtCustomOp *);
    int (*GetEndVersion)(const OrtCustomOp *);
};

#endif
