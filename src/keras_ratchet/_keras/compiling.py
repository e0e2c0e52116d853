"""What `compile` was given.

| name | for | checked on |
|---|---|---|
| `Model._compile_config.config` | the weights of several losses | 3.12.0, 3.15.1 |
"""

from __future__ import annotations

from typing import Any


def loss_weights(model: Any) -> Any:
    """Return the `loss_weights` that `compile` was given, or None."""
    config = getattr(getattr(model, "_compile_config", None), "config", None) or {}
    return config.get("loss_weights")
