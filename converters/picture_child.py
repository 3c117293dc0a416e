"""The child of ``guarded_pictures.py``: ``python -m converters.picture_child FOLDER``.

It limits itself as ``guarded_child.py`` does, before anything heavy is imported.
"""

import sys
from pathlib import Path
from typing import Any

from converters.guarded_child import run_limited


def _work(home: Path, job: dict[str, Any]) -> None:
    from converters.guarded_pictures import work

    work(home, job)


if __name__ == "__main__":
    sys.exit(run_limited(Path(sys.argv[1]), _work))
