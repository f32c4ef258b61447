"""``x / rms(x) * weight`` over the last dimension, with or without the residual addition."""
