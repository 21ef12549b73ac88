"""`python -m glasshouse.cli`."""

import sys

from glasshouse.cli import main

sys.exit(main())
