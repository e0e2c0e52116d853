"""Real kernels, in places of their own: nothing of the user's Jupyter is read or written."""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import pytest

LIMIT_S = 180  # for one cell; a hang fails the test
QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_ENABLE_ONEDNN_OPTS": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}


class Cell:
    """What a cell has shown: all text, of that what was printed, displays, and an error."""

    def __init__(self):
        self.text, self.printed, self.data, self.error = "", "", [], None

    @property
    def html(self):
        return "".join(data.get("text/html", "") for data in self.data)


class Kernel:
    """A kernel of the Python that runs the tests."""

    def __init__(self, name, directory):
        from jupyter_client.manager import KernelManager

        sockets = tempfile.mkdtemp(dir=os.environ["JUPYTER_RUNTIME_DIR"])
        self.manager = KernelManager(kernel_name=name, transport="ipc", ip=f"{sockets}/ipc")
        self.manager.start_kernel(cwd=str(directory))
        try:
            self._connect()
        except BaseException:
            self.stop()
            raise

    def _connect(self):
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=LIMIT_S)

    def start(self, source):
        """Start a cell, and return its id for `end`."""
        return self.client.execute(source)

    def end(self, started):
        """Wait for the end of a cell, and return what it has shown."""
        cell, until = Cell(), time.monotonic() + LIMIT_S
        while time.monotonic() < until:
            message = self.client.get_iopub_msg(timeout=LIMIT_S)
            if message["parent_header"].get("msg_id") != started:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                cell.text += content["text"]
                cell.printed += content["text"] if content["name"] == "stdout" else ""
            elif kind in ("execute_result", "display_data"):
                cell.data.append(content["data"])
            elif kind == "error":
                cell.error = content["ename"], content["evalue"]
            elif kind == "status" and content["execution_state"] == "idle":
                return cell
        raise TimeoutError(f"the cell did not end: {cell.text}")

    def run(self, source):
        """Run a cell that must not fail, and return what it has shown."""
        cell = self.end(self.start(source))
        assert cell.error is None, (cell.error, cell.text)
        return cell

    def value(self, expression):
        """Return what an expression is in the kernel: plain data."""
        return json.loads(self.run(f"import json; print(json.dumps({expression}))").printed)

    def interrupt(self):
        self.manager.interrupt_kernel()

    def restart(self):
        """Kill the kernel and start it again, as "Restart" in the menu does."""
        self.client.stop_channels()
        self.manager.restart_kernel(now=True)
        self._connect()

    def stop(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope="session")
def jupyter():
    """Name of the kernel specification; the environment is that of a user without settings."""
    place = Path(tempfile.mkdtemp(prefix="nb-"))  # short: the sockets' names have a limit
    spec = place / "data" / "kernels" / "ratchet"
    spec.mkdir(parents=True)
    launch = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(
        json.dumps({"argv": launch, "display_name": "ratchet", "language": "python", "env": QUIET})
    )
    paths = {
        "JUPYTER_PATH": place / "data",
        "JUPYTER_DATA_DIR": place / "data",
        "JUPYTER_CONFIG_DIR": place / "config",
        "JUPYTER_RUNTIME_DIR": place / "run",
        "IPYTHONDIR": place / "ipython",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, path in paths.items():
            path.mkdir(exist_ok=True)
            patch.setenv(name, str(path))
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
        yield "ratchet"
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def new_kernel(jupyter, tmp_path):
    """Starts kernels that work in one directory; they are stopped in the end."""
    kernels = []

    def start():
        kernels.append(Kernel(jupyter, tmp_path))
        return kernels[-1]

    yield start
    for kernel in kernels:
        kernel.stop()
