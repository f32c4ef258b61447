"""``python -m radixserve_frontend`` is ``radixserve``."""

import sys

from radixserve_frontend.cli import main

sys.exit(main())
