"""Files as a stranger would make them."""

import copy
import io
import json
import warnings
import zipfile
import zlib

import h5py
import numpy as np

from keras_ratchet._storage.manifest import seal

BOMB_BYTES = 1 << 28


def archive(path, members, compression=zipfile.ZIP_STORED):
    """Write a zip with a config.json and these (name, data) members."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("config.json", "{}")
        for name, data in members:
            file.writestr(name, data)


def parent_member(path):
    archive(path, [("assets/../../evil.txt", b"x")])


def backslash_member(path):
    archive(path, [("assets\\..\\..\\evil.txt", b"x")])


def absolute_member(path):
    archive(path, [("/etc/evil.txt", b"x")])


def drive_member(path):
    archive(path, [("C:/evil.txt", b"x")])


def odd_member(path):
    archive(path, [("setup.py", b"x")])


def duplicate_member(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns of the second one
        archive(path, [("metadata.json", "{}"), ("config.json", "{}")])


def zip_bomb(path):
    """One member that expands to 256 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", "{}")
        with file.open("assets/bomb.bin", "w", force_zip64=True) as member:
            for _ in range(BOMB_BYTES >> 20):
                member.write(bytes(1 << 20))


def many_small_bombs(path):
    """A hundred members of 15 MB each that share the same compressed bytes."""
    archive(path, [("assets/0.bin", bytes(15 << 20))], zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path, "a") as file:
        for number in range(1, 100):
            twin = copy.copy(file.filelist[1])
            twin.filename = f"assets/{number}.bin"
            file.filelist.append(twin)
        file._didModify = True


def npz_bomb(path):
    """An array that declares a shape of 8 TB."""
    arrays = io.BytesIO()
    with zipfile.ZipFile(arrays, "w") as file:
        header = io.BytesIO()
        declared = {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
        np.lib.format.write_array_header_1_0(header, declared)
        file.writestr("w.npy", header.getvalue())
    archive(path, [("model.weights.npz", arrays.getvalue())])


def config_bomb(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("config.json", b" " * (300 << 20))


def no_archive(path):
    with open(path, "wb") as file:
        file.write(b"PK\x03\x04 or so")


def no_config(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", "{}")


def external_link(path):
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(path):
    with h5py.File(path, "w") as file:
        file["layers"] = h5py.SoftLink("/elsewhere")


def external_dataset(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (100,), "u1", external=[("/etc/passwd", 0, 100)])


def virtual_dataset(path):
    with h5py.File(path, "w") as file:
        layout = h5py.VirtualLayout((100,), "u1")
        layout[:] = h5py.VirtualSource("/etc/passwd", "w", (100,))
        file.create_virtual_dataset("w", layout)


def absurd_shape(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (1 << 40,), "f8", chunks=(1024,))


def compressed_bomb(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (1 << 30,), "u1", chunks=(1 << 26,), compression="gzip")
        file["w"].id.write_direct_chunk((0,), _deflated_zeros(1 << 26))


def _deflated_zeros(count):
    return zlib.compress(bytes(count), 9)


def many_absurd_shapes(path):
    """Data sets of 15 MB each of which nothing is stored, 15 GB together."""
    with h5py.File(path, "w") as file:
        for number in range(1000):
            file.create_dataset(f"w{number}", (15 << 20,), "u1", chunks=(1024,))


def named_type(path):
    with h5py.File(path, "w") as file:
        file["w"] = np.dtype("f8")


def no_hdf5(path):
    with open(path, "wb") as file:
        file.write(b"\x89HDF\r\n\x1a\n" + bytes(100))


def hard_link_cycle(path):
    """Harmless in itself, but a walk that follows it never ends."""
    with h5py.File(path, "w") as file:
        group = file.create_group("a/b/c")
        group["again"] = file["a"]
        file["a/root"] = file["/"]


ARCHIVES = {
    parent_member: "points outside",
    backslash_member: "points outside",
    absolute_member: "points outside",
    drive_member: "points outside",
    odd_member: "does not belong",
    duplicate_member: "same name",
    zip_bomb: "expands",
    many_small_bombs: "expands",
    npz_bomb: "declares the shape",
    config_bomb: "has 314572800 bytes",
    no_archive: "cannot be read",
    no_config: "no config.json",
}
HDF5 = {
    external_link: "ExternalLink",
    soft_link: "SoftLink",
    external_dataset: "outside the file",
    virtual_dataset: "outside the file",
    absurd_shape: "not in the file",
    compressed_bomb: "not in the file",
    many_absurd_shapes: "expands",
    named_type: "Datatype",
    no_hdf5: "cannot be read",
}


def inside_archive(make):
    """Return a maker of a `.keras` whose weights member is what `make` writes."""

    def write(path):
        make(f"{path}.inner")
        with open(f"{path}.inner", "rb") as inner:
            archive(path, [("model.weights.h5", inner.read())])

    return write


DIGEST = "0" * 32
GOOD = {"schema": 1, "files": {"w.bin": {"bytes": 1, "xxh3_128": DIGEST}}}
MANIFESTS = {
    "a list": [],
    "a number": 7,
    "no files": {"schema": 1},
    "files is a list": {**GOOD, "files": ["w.bin"]},
    "a file without a size": {**GOOD, "files": {"w.bin": {"xxh3_128": DIGEST}}},
    "a negative size": {**GOOD, "files": {"w.bin": {"bytes": -1, "xxh3_128": DIGEST}}},
    "a size that is a text": {**GOOD, "files": {"w.bin": {"bytes": "1", "xxh3_128": DIGEST}}},
    "a digest that is none": {**GOOD, "files": {"w.bin": {"bytes": 1, "xxh3_128": "../" * 9}}},
    "a name that leads out": {**GOOD, "files": {"../w.bin": {"bytes": 1, "xxh3_128": DIGEST}}},
    "an absolute name": {**GOOD, "files": {"/etc/passwd": {"bytes": 1, "xxh3_128": DIGEST}}},
    "a name that is a directory": {**GOOD, "files": {"..": {"bytes": 1, "xxh3_128": DIGEST}}},
    "a name with a zero": {**GOOD, "files": {"w\0": {"bytes": 1, "xxh3_128": DIGEST}}},
    "a name that is half a character": {
        **GOOD,
        "files": {"\ud800": {"bytes": 1, "xxh3_128": DIGEST}},
    },
    "metrics is a list": {**GOOD, "metrics": [1]},
    "a metric that is a text": {**GOOD, "metrics": {"val_loss": "good"}},
    "a metric beyond floats": {**GOOD, "metrics": {"val_loss": 10**400}},
    "position is null": {**GOOD, "position": None},
    "a negative epoch": {**GOOD, "position": {"epoch": -1}},
    "a time that is none": {**GOOD, "saved_at": "nan"},
    "ranking is a text": {**GOOD, "ranking": "val_loss"},
    "versions is a list": {**GOOD, "versions": ["3.15"]},
    "another schema": {**GOOD, "schema": 2},
}


def manifest_bytes(data):
    """Return a sealed manifest of this JSON, as a stranger who knows the format makes it."""
    text = json.dumps(data, indent=1).encode()
    return seal(text) if isinstance(data, dict) else text


RAW_MANIFESTS = {
    "empty": b"",
    "no JSON": b"\x00\xff",
    "deeply nested": b"[" * 500_000,
    "deeply nested in an object": b'{"schema": 1, "files": ' + b'{"a":' * 100_000,
    "a number without end": b'{"schema": ' + b"1" * 500_000 + b"}",
    "too large": b'{"schema": 1, "reason": "' + b"x" * (1 << 21) + b'"}',
    "without a seal": json.dumps(GOOD).encode(),
    "a wrong seal": seal(json.dumps(GOOD, indent=1).encode()).replace(b'"bytes": 1', b'"bytes": 2'),
}
