"""What the benchmarks share. To be imported before torch.

Before any of them loads torch, its OpenMP threads are told not to spin for long, as the server's
are: otherwise whatever else the machine does is in the figures tenfold. It holds for every engine
that a benchmark compares. Tests take the model of noise and its tokenizer from here.
"""

import os

from radixserve.threads import spin_briefly

spin_briefly(os.environ)
