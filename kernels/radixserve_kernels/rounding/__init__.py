"""From float32 to a narrower type inside a kernel, interpreted or not."""
