"""``radixserve serve`` as it is, but for its engine process, which is ``stub_engine``.

Environment: ``SERVER_CORE`` (where to run), and the stub's.
"""

import os
import sys

from overhead import MODEL
from radixserve.engine import client
from radixserve_frontend.cli import main

if __name__ == "__main__":
    os.sched_setaffinity(0, {int(os.environ["SERVER_CORE"])})
    client.ENGINE_MODULE = "overhead.stub_engine"
    profile = os.environ.get("SERVER_PROFILE")
    if profile is None:
        sys.exit(main(["serve", MODEL, *sys.argv[1:]]))
    import cProfile

    cProfile.run('main(["serve", MODEL, *sys.argv[1:]])', profile)
