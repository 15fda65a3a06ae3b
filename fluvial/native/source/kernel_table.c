/* The table of one variant's kernels. */
#include "kernel.h"

#define TEXT_(x) #x
#define TEXT(x) TEXT_(x)
#define KERNEL_ENTRY(result, name, arguments) .name = KERNEL(name),

const Kernels KERNEL(kernels) = {.variant = TEXT(VARIANT), KERNEL_LIST(KERNEL_ENTRY)};
