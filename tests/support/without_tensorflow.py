"""Import this first: from then on TensorFlow is not installed."""

import importlib.machinery
import sys


class _Rest(importlib.machinery.PathFinder):
    """Finds everything else."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname.partition(".")[0] in ("tensorflow", "tf_keras"):
            return None
        return super().find_spec(fullname, path, target)


assert "tensorflow" not in sys.modules
sys.meta_path[:] = [
    _Rest if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path
]
