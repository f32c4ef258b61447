"""``x @ weight.T * scale + bias``: few rows by weights as they are, in 8 or in 4 bits."""
