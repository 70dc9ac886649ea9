"""``python -m symdisc.cli``."""

import sys

from symdisc.cli.main import main

sys.exit(main())
