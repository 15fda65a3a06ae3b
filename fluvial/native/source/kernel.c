/* Which variant of the kernels runs. */
#include "kernel.h"

#include <stdlib.h>
#include <string.h>

extern const Kernels kernels_plain;
#ifdef __x86_64__
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
#endif

static const Kernels *chosen = &kernels_plain;

const Kernels *kernels(void) { return __atomic_load_n(&chosen, __ATOMIC_ACQUIRE); }

#ifdef __x86_64__
static int has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

static int has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}
#endif

/* The best variant first. */
static int list(const Kernels **variants) {
    int count = 0;
#ifdef __x86_64__
    __builtin_cpu_init();
    if (has_avx512()) variants[count++] = &kernels_avx512;
    if (has_avx2()) variants[count++] = &kernels_avx2;
#endif
    variants[count++] = &kernels_plain;
    return count;
}

const char *choose_kernels(void) {
    const Kernels *variants[3];
    const int count = list(variants);
    const char *wanted = getenv("FLUVIAL_KERNELS");
    for (int i = 0; i < count; i++) {
        if (wanted == NULL || *wanted == 0 || strcmp(wanted, variants[i]->variant) == 0) {
            __atomic_store_n(&chosen, variants[i], __ATOMIC_RELEASE);
            return NULL;
        }
    }
    return "FLUVIAL_KERNELS names no kernels that this machine can run; "
           "avx512, avx2 and plain are known, and unset means the best";
}

/* For tests and benchmarks: the name of the variant in use. */
__attribute__((visibility("default"))) const char *fluvial_kernels(void) {
    return kernels()->variant;
}
