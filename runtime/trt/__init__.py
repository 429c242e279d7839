"""TensorRT: engines built in a process of their own, with or without a GPU."""
