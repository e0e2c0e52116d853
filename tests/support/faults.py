"""A disk that fails on demand, and forgets what was not synced.

`FaultDisk` takes the place of `disk.current`. It counts every call, and at call number `at` it
does what its mode says:

| mode | what happens at the call |
|---|---|
| error | it raises an OSError, and nothing is done; later calls work |
| late error | it is done, and raises an OSError all the same |
| errors from then on | it and all later ones raise an OSError |
| crash | the process ends before it: this and all later calls raise `Crash` |
| torn write | half of the bytes are written, then as crash |
| power loss, ... | as crash; then the disk holds only what was synced |

After a power loss a file's bytes are those of its last sync (none, if it never was), and a
directory's entries those of its last sync. What had changed in a directory since may have
reached the disk or not, and the modes differ in that: all of it was kept, all was lost, only the
renames were lost, only the removals were lost, or each change was kept or lost at random.
"""

import errno
import os
import random
import shutil
from pathlib import Path

from keras_ratchet._storage import disk, lock

ERRORS = ("error", "late error", "errors from then on")
LOST = {
    "power loss, unsynced entries kept": lambda verb, rng: False,
    "power loss, unsynced entries lost": lambda verb, rng: True,
    "power loss, unsynced renames lost": lambda verb, rng: verb in ("replace", "rename"),
    "power loss, unsynced removals lost": lambda verb, rng: verb in ("unlink", "rmdir"),
    "power loss, unsynced entries at random": lambda verb, rng: rng.random() < 0.5,
}
CRASHES = ("crash", "torn write", *LOST)
MODES = (*ERRORS, *CRASHES)


class Crash(BaseException):
    """The process has ended here: nothing may catch it, and nothing cleans up after it."""


class FaultDisk(disk.Disk):
    """Passes calls on to the real file system under `root`, counted, until one is to fail.

    Syncs are noted and not done: a test's power does not fail.

    Args:
        root: The directory that a power loss rolls back. What is there now counts as synced.
        mode: One of `MODES`, or None for no fault.
        at: Number of the call that fails, from 1.
        inside_hdf5: Whether writes are called by HDF5, through which no exception but an
            OSError may pass: a crash in a write then is an OSError, and a Crash from the next
            call on.
        first: What of several syncs that overlap is done first, as numbers; then the others in
            their order. A fault may fall between any two of them.

    Attributes:
        calls: Verb and file name of each call so far.
        struck: Whether the fault has happened.
        dead: Whether the process has ended.
    """

    def __init__(self, root, mode=None, at=0, inside_hdf5=False, first=()):
        self.calls = []
        self.struck = self.dead = False
        self._root, self._inside_hdf5 = os.path.realpath(root), inside_hdf5
        self._world = _World(self._root)
        self._mode, self._at, self._first = mode, at, first

    def arm(self, mode, calls_from_now):
        """Let a later call fail."""
        self.struck = False
        self._mode, self._at = mode, len(self.calls) + calls_from_now

    def restart(self):
        """Go on after a crash, or after a power loss with what the disk holds then."""
        if self.dead and self.loses_power:
            self.lose_power()
        self.dead = self.struck = False
        self._mode = None

    def lose_power(self):
        """Bring the directory into the state that is found after a power loss."""
        lost, rng = LOST[self._mode], random.Random(self._at)
        self._world.roll_back(lambda verb: lost(verb, rng))
        self._world = _World(self._root)

    @property
    def loses_power(self):
        return self._mode in LOST

    def open(self, path, flags):
        def effect():
            fd = super(FaultDisk, self).open(path, flags)
            self._world.opened(fd, path)
            return fd

        return self._call("open", path, effect)

    def write(self, fd, data):
        if self._mode == "torn write" and len(self.calls) + 1 == self._at:
            os.write(fd, data[: len(data) // 2])
        return self._call("write", fd, lambda: os.write(fd, data))

    def truncate(self, fd, size):
        self._call("truncate", fd, lambda: os.ftruncate(fd, size))

    def sync(self, fd):
        self._call("sync", fd, lambda: self._world.sync(fd))

    def sync_directory(self, path):
        self._call("sync_directory", path, lambda: self._world.sync_directory(path))

    def sync_all(self, fds, directories=()):
        calls = [lambda fd=fd: self.sync(fd) for fd in fds]
        calls += [lambda path=path: self.sync_directory(path) for path in directories]
        errors = {}
        for number in [*self._first, *(n for n in range(len(calls)) if n not in self._first)]:
            if number < len(calls):
                try:
                    calls[number]()
                except OSError as error:  # the others go on: they have begun already
                    errors[number] = error
        if errors:
            raise errors[min(errors)]

    def replace(self, source, target):
        self._call("replace", target, lambda: self._move(os.replace, source, target))

    def rename(self, source, target):
        self._call("rename", source, lambda: self._move(os.rename, source, target))

    def link(self, source, target):
        def effect():
            os.link(source, target)
            self._world.change("link", {target: self._world.find(source)})

        self._call("link", target, effect)

    def unlink(self, path):
        self._call("unlink", path, lambda: self._remove(os.unlink, path))

    def mkdir(self, path):
        def effect():
            os.mkdir(path)
            self._world.change("mkdir", {path: _Directory()})

        self._call("mkdir", path, effect)

    def rmdir(self, path):
        self._call("rmdir", path, lambda: self._remove(os.rmdir, path))

    def _move(self, move, source, target):
        move(source, target)
        self._world.change(move.__name__, {source: None, target: self._world.find(source)})

    def _remove(self, remove, path):
        remove(path)
        self._world.change(remove.__name__, {path: None})

    def _call(self, verb, what, effect):
        """Count a call and let it happen, or not."""
        self.calls.append((verb, self._world.name(what)))
        strikes = len(self.calls) == self._at
        if self.dead or (strikes and self._mode in CRASHES):
            self._die(verb)
        self.struck |= strikes
        goes_on = self.struck and self._mode == "errors from then on"
        if goes_on or (strikes and self._mode == "error"):
            raise OSError(errno.EIO, "injected error")
        result = effect()
        if strikes and self._mode == "late error":
            if verb == "open":
                os.close(result)
            raise OSError(errno.EIO, "injected error")
        return result

    def _die(self, verb):
        self.struck = self.dead = True
        if self._inside_hdf5 and verb in ("write", "truncate"):
            raise OSError(errno.EIO, "the process has ended")
        raise Crash(f"at call {len(self.calls)}")


class _File:
    """A file: its bytes as they were last synced."""

    def __init__(self, synced=b""):
        self.synced = synced


class _Link:
    """A symbolic link."""

    def __init__(self, target):
        self.target = target


class _Directory:
    """A directory: its entries as they are, and as they were last synced."""

    def __init__(self):
        self.entries = {}
        self.synced = {}


class _World:
    """What of a directory tree is on the disk for good."""

    def __init__(self, root):
        self._root_path = root
        self._root = _scan(root)
        self._files = {}
        self._paths = {}
        self._changes = []  # verb, directory, {name: node or None}: since the directory's sync

    def name(self, what):
        """Return the file name that a path or descriptor stands for."""
        return os.path.basename(self._paths.get(what, "?") if isinstance(what, int) else what)

    def find(self, path):
        """Return what is at a path, None if it is elsewhere or not there."""
        relative = os.path.relpath(os.path.realpath(path), self._root_path)
        if relative.startswith(".."):
            return None
        node = self._root
        for part in () if relative == "." else relative.split(os.sep):
            node = node.entries.get(part) if isinstance(node, _Directory) else None
        return node

    def opened(self, fd, path):
        if self.find(path) is None:
            self.change("open", {path: _File()})
        self._files[fd], self._paths[fd] = self.find(path), path

    def sync(self, fd):
        if self._files.get(fd) is not None:
            self._files[fd].synced = os.pread(fd, os.fstat(fd).st_size, 0)

    def sync_directory(self, path):
        directory = self.find(path)
        if directory is not None:
            directory.synced = dict(directory.entries)
            self._changes = [change for change in self._changes if change[1] is not directory]

    def change(self, verb, paths):
        """Note new entries (None: no more) of one directory."""
        directory = self.find(os.path.dirname(next(iter(paths))))
        if directory is None:
            return
        names = {os.path.basename(path): node for path, node in paths.items()}
        _apply(directory.entries, names)
        self._changes.append((verb, directory, names))

    def roll_back(self, is_lost):
        """Write what survives into the real directory."""
        entries = {}
        for verb, directory, names in self._changes:
            survivors = entries.setdefault(id(directory), dict(directory.synced))
            if not is_lost(verb):
                _apply(survivors, names)
        for path in Path(self._root_path).iterdir():
            _remove(path)
        _write(self._root, Path(self._root_path), entries)


def _apply(entries, names):
    entries.update(names)
    for name in [name for name, node in names.items() if node is None]:
        entries.pop(name)


def _scan(path):
    directory = _Directory()
    for entry in os.scandir(path):
        if entry.is_symlink():
            directory.entries[entry.name] = _Link(os.readlink(entry.path))
        elif entry.is_dir():
            directory.entries[entry.name] = _scan(entry.path)
        else:
            directory.entries[entry.name] = _File(Path(entry.path).read_bytes())
    directory.synced = dict(directory.entries)
    return directory


def _write(directory, path, entries):
    for name, node in entries.get(id(directory), directory.synced).items():
        if isinstance(node, _Directory):
            (path / name).mkdir()
            _write(node, path / name, entries)
        elif isinstance(node, _Link):
            (path / name).symlink_to(node.target)
        else:
            (path / name).write_bytes(node.synced)


def _remove(path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def reboot(root):
    """Let go of the locks under `root`, as the end of the process would."""
    for key, (fd, _) in list(lock._held.items()):
        if key[1].startswith(os.path.realpath(root) + os.sep):
            os.close(fd)
            del lock._held[key]
