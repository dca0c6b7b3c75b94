"""`python -m agentaudit.cli`, as `agentaudit` where that is not on the path."""

import sys

from agentaudit.cli import main

if __name__ == "__main__":
    sys.exit(main())
