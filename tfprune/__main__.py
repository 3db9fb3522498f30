"""So that `python -m tfprune` is the command `tfprune`."""

import sys

from tfprune_cli import main

sys.exit(main())
