"""`python -m unclip.interfaces.cli`, which is `unclip`."""

import sys

from unclip.interfaces.cli import main

if __name__ == "__main__":
    sys.exit(main())
