"""Import skops without PyTorch.

When it is imported skops lists every estimator of scikit-learn, which walks all of scikit-learn's
packages and so imports its bridge to PyTorch, and with it PyTorch where that is installed: one to
two seconds and more than 100 MB that no model here needs.
"""

import sys
from types import ModuleType
from typing import Any

_BRIDGE = "sklearn.externals.array_api_compat.torch"


def import_skops() -> ModuleType:
    """Give ``skops.io``.

    Raises:
        ImportError: It is not installed.
    """
    modules: dict[str, Any] = sys.modules
    is_hidden = _BRIDGE not in modules
    if is_hidden:
        modules[_BRIDGE] = None  # an import of it raises, which the walk passes over
    try:
        import skops.io
    finally:
        if is_hidden:
            del modules[_BRIDGE]
    library: ModuleType = skops.io
    return library
