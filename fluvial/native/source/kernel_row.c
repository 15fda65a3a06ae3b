/* What is done to a row of inputs before a product. */
#include "kernel.h"
#include "vector.h"

/* sum = x + branch (where there is one), y = sum / root mean square * weight. */
void KERNEL(norm_row)(const float *x, const float *branch, const float *weight, float epsilon,
                      int64_t width, float *sum, float *y) {
    V16 squares = v_set(0);
    float edge[16] = {0};
    int64_t i = 0;
    for (; i + 16 <= width; i += 16) {
        V16 value = v_load(x + i);
        if (branch) value = v_add(value, v_load(branch + i));
        if (sum) v_store(sum + i, value);
        v_store(y + i, value);
        squares = v_fma(value, value, squares);
    }
    for (int64_t j = i; j < width; j++) {
        y[j] = edge[j - i] = branch ? x[j] + branch[j] : x[j];
        if (sum) sum[j] = y[j];
    }
    squares = v_fma(v_load(edge), v_load(edge), squares);
    const float inverse = 1.0f / sqrtf(v_sum(squares) / (float)width + epsilon);
    for (i = 0; i + 16 <= width; i += 16)
        v_store(y + i, v_mul(v_mul(v_load(y + i), v_set(inverse)), v_load(weight + i)));
    for (; i < width; i++) y[i] = y[i] * inverse * weight[i];
}

/* y = activation(gate) * up * (1 + gain): kind 0 is silu, 1 gelu in its tanh form. */
void KERNEL(activate)(int kind, const float *gate, const float *up, const float *gain, int64_t width,
                      float *y) {
    for (int64_t i = 0; i < width; i += 16) {
        float parts[3][16] = {{0}};
        const int64_t count = width - i < 16 ? width - i : 16;
        const float *g = gate + i, *u = up + i, *f = gain ? gain + i : parts[2];
        if (count < 16) {
            memcpy(parts[0], g, (size_t)count * sizeof(float));
            memcpy(parts[1], u, (size_t)count * sizeof(float));
            if (gain) memcpy(parts[2], f, (size_t)count * sizeof(float));
            g = parts[0], u = parts[1], f = parts[2];
        }
        const V16 x = v_load(g), one = v_set(1);
        V16 inner = x;
        if (kind == 1) {
            const V16 cube = v_mul(v_mul(x, x), x);
            inner = v_mul(v_fma(cube, v_set(0.044715f), x), v_set(1.5957691216f)); /* 2 sqrt(2/pi) */
        }
        V16 result = v_div(x, v_add(one, v_exp(v_sub(v_set(0), inner))));
        result = v_mul(result, v_load(u));
        if (gain) result = v_mul(result, v_add(one, v_load(f)));
        float out[16];
        v_store(count < 16 ? out : y + i, result);
        if (count < 16) memcpy(y + i, out, (size_t)count * sizeof(float));
    }
}
