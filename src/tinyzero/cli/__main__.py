"""`python -m tinyzero.cli` is `tinyzero`."""

import sys

from tinyzero.cli import main

sys.exit(main())
