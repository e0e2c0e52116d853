"""The code for Ray in the guides runs as it stands on the page."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support import guide_pages, processes

RAY = os.environ.get("RATCHET_RAY", "")
ENV = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_register_timeout_seconds": "240",  # Ray gives up early where the machine is busy
    "RAY_gcs_rpc_server_reconnect_timeout_s": "240",
    "JAX_PLATFORMS": "cpu",
}


@pytest.mark.slow
def test_the_code_for_ray_in_the_guide_to_sweeps_runs():
    if not os.path.isdir(os.path.join(RAY, "ray")):
        raise RuntimeError(f"make test-ranks installs Ray. Got: {RAY!r}.")
    code = guide_pages.script(guide_pages.GUIDES / "sweeps.md", "ray")
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray's sockets are in it
    try:
        ended, output = guide_pages.run(code, directory, [RAY, processes.TESTS], 600, **ENV)
        assert ended == 0, output
        assert "{'rate': 0.1}" in output
        assert len(list(directory.glob("runs/ray/rates/*/best.keras"))) == 2
    finally:
        shutil.rmtree(directory, ignore_errors=True)
