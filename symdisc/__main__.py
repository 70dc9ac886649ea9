"""``python -m symdisc``."""

import sys

from symdisc.cli.main import main

sys.exit(main())
