"""Settings that every test shares."""

import os

import torch
from hypothesis import settings

# Read by Triton when kernels are defined, so before any test module is imported. Without a GPU the
# kernels run under the interpreter.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

# Machines differ and are shared: how long an example takes says nothing about the code.
settings.register_profile("radixserve", deadline=None)
settings.load_profile("radixserve")
