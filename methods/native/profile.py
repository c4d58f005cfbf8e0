"""Names of kernels and bandwidths in the order of the enums of ``stein_profile.hpp``."""

KERNELS = ("gaussian", "imq", "laplace", "riesz")
BANDWIDTHS = ("exact", "detached", "bisection")
