"""What methods are made of: families, kernels, optimisers, bounds and base classes; nothing here is registered."""
