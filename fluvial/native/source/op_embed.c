/* Embed: rows of a packed matrix (linear.h), as floats: y[t] = scale * matrix[tokens[t]].

   Attributes: in_width (features of a row), out_width (rows), bits, has_minimum, scale_bytes, scale.
   The same bytes serve as the output layer where the two are tied. */
#include "op.h"
#include "unpack.h"

typedef struct Embed {
    Matrix matrix;
    float scale;
} Embed;

static void *create(Info *info) {
    Embed *embed = calloc(1, sizeof *embed);
    if (embed == NULL) return NULL;
    Matrix *m = &embed->matrix;
    m->inputs = attribute_int(info, "in_width", 1, 1 << 24);
    m->outputs = attribute_int(info, "out_width", 1, 1 << 24);
    m->bits = (int)attribute_int(info, "bits", 4, 32);
    m->has_minimum = (int)attribute_int_or(info, "has_minimum", 0, 0, 1);
    m->scale_bytes = (int)attribute_int_or(info, "scale_bytes", 2, 2, 4);
    embed->scale = attribute_float_or(info, "scale", 1);
    const char *wrong = check_matrix(m);
    if (wrong != NULL) fail_info(info, "%s", wrong);
    return embed;
}

static const char *compute(const void *attributes, Context *context, const Tensor *inputs) {
    const Embed *embed = attributes;
    Matrix m = embed->matrix;
    const Tensor *tokens = &inputs[0], *data = &inputs[1];
    if (tokens->rank != 1) return "Embed: tokens must have one dimension";
    if (data->count != matrix_bytes(&m))
        return fail(context, "Embed: data has %lld bytes, the matrix %lld", (long long)data->count,
                    (long long)matrix_bytes(&m));
    m.data = data->data;
    float *y = output(context, 0, (const int64_t[]){tokens->count, m.inputs}, 2);
    if (y == NULL) return failure(context);
    for (int64_t t = 0; t < tokens->count; t++) {
        const int64_t token = ((const int64_t *)tokens->data)[t];
        if (token < 0 || token >= m.outputs)
            return fail(context, "Embed: token %lld is not one of %lld", (long long)token,
                        (long long)m.outputs);
        unpack_row(&m, token, embed->scale, y + t * m.inputs);
    }
    return NULL;
}

const Operator operator_embed = {
    .name = "Embed",
    .input_count = 2,
    .inputs = {{"tokens", INT64, false}, {"data", UINT8, false}},
    .output_count = 1,
    .outputs = {{"y", FLOAT32, false}},
    .create = create,
    .compute = compute,
};
