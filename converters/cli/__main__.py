"""``python -m converters.cli``: the same as ``edge-convert``."""

from converters.cli import main

if __name__ == "__main__":
    main()
