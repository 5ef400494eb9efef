OF_DEVICES = ("fused_ops", "fused_rows", "cuda_graphs")
