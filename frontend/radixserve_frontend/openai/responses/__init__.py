"""``/v1/responses``: items in, items out, and a memory of what was said, to be gone on with."""
