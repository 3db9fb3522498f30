"""So that `python -m tfprune_cli` works where the command is not installed."""

import sys

from tfprune_cli import main

sys.exit(main())
