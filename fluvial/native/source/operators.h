/* Every operator, one line each: OPERATOR(x) is the Operator operator_x of an op_*.c. */
OPERATOR(scale)
OPERATOR(linear)
OPERATOR(attention)
OPERATOR(activation)
OPERATOR(short_conv)
OPERATOR(gated_delta)
OPERATOR(experts)
OPERATOR(embed)
