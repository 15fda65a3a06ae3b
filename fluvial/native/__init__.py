"""The hot operators of the graph, in C, as custom operators of ONNX Runtime."""
