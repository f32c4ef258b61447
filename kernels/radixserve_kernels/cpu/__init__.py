"""What kernels for processors share: how they are compiled and how they reach numbers."""
