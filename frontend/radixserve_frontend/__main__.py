"""``python -m radixserve_frontend`` is ``radixserve``."""

import sys

from radixserve_frontend.cli import main

if __name__ == "__main__":
    sys.exit(main())
