"""What the script says about a training in numbers and names, compared when it is run again.

The arguments of the optimizer, the loss and the layers are looked at when a run begins, before a
callback or a snapshot changes them: a learning rate that was scheduled since is no difference, one
that was edited in the script is. Only plain values count: functions, initializers and automatic
names differ without meaning anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_ratchet._keras import anatomy, compiling

RATE = "learning_rate"
_WITHOUT_MEANING = ("name", "trainable", "seed", "dtype")
_LONGEST = 32


def arguments_of(model: Any) -> dict[str, Any]:
    """Return what the script says, as plain data."""
    optimizer = getattr(model, "optimizer", None)
    optimizer = getattr(optimizer, "inner_optimizer", None) or optimizer
    layers = [x for x in anatomy.layers_of(model) if not isinstance(x, keras.Model)]
    return {
        "steps": _steps(optimizer),
        "optimizer": _plain(_config(optimizer), nested=True),
        "loss": [*_losses(getattr(model, "loss", None)), *_losses(compiling.loss_weights(model))],
        "layers": [[type(layer).__name__, _plain(_config(layer))] for layer in layers],
    }


def changes(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each value that the script has changed; the rate's comes first.

    An optimizer that has made steps tells what it is like now, not what the script says.
    """
    if not saved or saved["steps"] != now["steps"]:
        return []
    found = _changed("", saved["optimizer"], now["optimizer"])
    if saved["loss"] != now["loss"]:
        found.append(f"loss: {_text(saved['loss'])} when saved, {_text(now['loss'])} now")
    for (kind, before), (_, after) in zip(saved["layers"], now["layers"], strict=False):
        found += _changed(f"{kind}.", before, after)
    return sorted(found, key=lambda sentence: not sentence.startswith(RATE))


def rate_differs(saved: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether the script has another learning rate, as a number, than before."""
    if not saved or saved["steps"] != now["steps"]:
        return False
    before, after = (x["optimizer"].get(RATE) for x in (saved, now))
    return isinstance(before, float) and isinstance(after, float) and before != after


def _changed(prefix: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{prefix}{name}: {_text(before[name])} when saved, {_text(after[name])} now"
        for name in before
        if name in after and not _same(before[name], after[name])
    ]


def _same(before: Any, after: Any) -> bool:
    """Return whether two plain values are equal; NaN (of a Masking layer) is equal to NaN."""
    return before == after or repr(before) == repr(after)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value.get('class_name')}({value.get('config')})"
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def _steps(optimizer: Any) -> int:
    """Return how many steps an optimizer has made."""
    iterations = getattr(optimizer, "iterations", None)
    return 0 if iterations is None else int(iterations)


def _config(thing: Any) -> dict[str, Any]:
    """Return the configuration; none of what cannot be described, which can be trained too."""
    try:
        config = thing.get_config()
    except Exception:
        return {}
    return config if isinstance(config, dict) else {}


def _plain(config: Mapping[str, Any], nested: bool = False) -> dict[str, Any]:
    kept = {n: v for n, v in config.items() if n not in _WITHOUT_MEANING and _is_plain(v)}
    if nested and isinstance(config.get(RATE), dict):  # a schedule
        inner = _plain(config[RATE].get("config") or {})
        kept[RATE] = {"class_name": config[RATE].get("class_name"), "config": inner}
    return kept


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return len(value) <= _LONGEST and all(_is_plain(v) for v in value)
    return value is None or isinstance(value, bool | int | float | str)


def _losses(loss: Any) -> Iterator[Any]:
    """Yield the names of losses, and their numbers."""
    if isinstance(loss, keras.losses.Loss):
        yield type(loss).__name__
        yield _plain(_config(loss))
    elif isinstance(loss, Mapping):
        for name in sorted(loss, key=str):
            yield str(name)
            yield from _losses(loss[name])
    elif isinstance(loss, list | tuple):
        for one in loss:
            yield from _losses(one)
    elif loss is not None:
        yield loss if isinstance(loss, str | int | float) else getattr(loss, "__name__", "loss")
