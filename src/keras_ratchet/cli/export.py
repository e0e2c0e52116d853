"""`ratchet export`: the weights of a checkpoint in a format that others read."""

from __future__ import annotations

import importlib
import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import click
import numpy as np

from keras_ratchet._formats.safetensors import write_arrays
from keras_ratchet._numbers import count
from keras_ratchet._storage.space import readable
from keras_ratchet.cli import _output, _weights

Arrays = Mapping[str, Any]


def _write_npz(arrays: Arrays, file: io.RawIOBase) -> None:
    """Write what `numpy.load` reads; NumPy has no bfloat16, so that becomes float32."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            exact = array.astype(np.float32) if array.dtype.name == "bfloat16" else array
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, exact, allow_pickle=False)


def _write_torch(arrays: Arrays, file: io.RawIOBase) -> None:
    """Write what `torch.load` reads: a dictionary of tensors."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        raise click.UsageError(
            'PyTorch is not installed: pip install "keras-ratchet[torch]", or export to '
            "safetensors, which needs no extra package."
        ) from None
    torch.save({name: _tensor(torch, array) for name, array in arrays.items()}, file)


def _tensor(torch: Any, array: Any) -> Any:
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


_FORMATS: dict[str, tuple[tuple[str, ...], Callable[[Arrays, io.RawIOBase], None]]] = {
    "safetensors": ((".safetensors",), write_arrays),
    "npz": ((".npz",), _write_npz),
    "torch": ((".pt", ".pth"), _write_torch),
}


@click.command()
@click.argument("checkpoint", type=_output.Place(exists=True))
@click.option("--to", "form", type=click.Choice(list(_FORMATS)), help="Default: by FILE's suffix.")
@click.option("-o", "--output", metavar="FILE", required=True, type=_output.Place())
@click.option("--optimizer", is_flag=True, help="Export the optimizer's variables too.")
@_output.force_option
@_output.json_option
def export(
    checkpoint: str, *, form: str | None, output: str, optimizer: bool, force: bool, as_json: bool
) -> None:
    """Write the weights as safetensors, npz or torch.

    The arrays have readable names such as "dense/kernel" and are equal to those of the
    checkpoint, which is verified first. FILE ends in .safetensors, .npz, .pt or .pth; it
    is written completely or not at all. NumPy has no bfloat16: in .npz such weights are float32.
    """
    form = _format_of(output, form)
    with _output.new_file(output, force) as draft:
        file = _weights.file_of(checkpoint)
        with _weights.opened(file, checkpoint, optimizer) as weights:
            arrays = {weight.name: weight.read() for weight in weights}
        _refuse_text(arrays)
        draft.write(lambda file: _FORMATS[form][1](arrays, file))
    size = sum(array.nbytes for array in arrays.values())
    if as_json:
        _output.emit({"path": output, "format": form, "names": list(arrays), "bytes": size})
        return
    _output.say(f"{count(len(arrays), 'weight')} ({readable(size)}) written to {output}")


def _format_of(output: str, form: str | None) -> str:
    """Return the format; raise unless the file's suffix belongs to it."""
    fitting = [name for name, (suffixes, _) in _FORMATS.items() if output.endswith(suffixes)]
    if not fitting or (form is not None and form not in fitting):
        wanted = [name for name in _FORMATS if form in (None, name)]
        suffixes = [suffix for name in wanted for suffix in _FORMATS[name][0]]
        raise click.UsageError(
            f"a {form or 'FILE'} export ends in {' or '.join(suffixes)}. Got: {output!r}."
        )
    return fitting[0]


def _refuse_text(arrays: Arrays) -> None:
    for name, array in arrays.items():
        if array.dtype.kind in "OSU":
            raise click.UsageError(f"weight {name!r} is not an array of numbers ({array.dtype}).")
