"""Keras's own callback tests, as they ship in site-packages, against our classes.

They look the classes up on `keras.src.callbacks` when they run; the plugin puts ours there.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

PASSED_ON_3_15_1 = {
    "early_stopping_test": 7,
    "model_checkpoint_test": 2,
    "monitor_callback_test": 2,
    "backup_and_restore_test": 6,
    "reduce_lr_on_plateau_test": 6,
    "terminate_on_nan_test": 8,
}

REPLAY = "test_best_case_step"  # counts the batches that Keras repeats; see docs/differences.md


@pytest.mark.slow
def test_keras_own_tests_pass_with_our_classes_in_keras_place(tmp_path):
    files = [f"keras.src.callbacks.{name}" for name in PASSED_ON_3_15_1]
    if importlib.util.find_spec(files[0]) is None:
        pytest.skip(f"Keras {keras.__version__} ships without its tests")
    command = [sys.executable, "-X", "faulthandler", "-m", "pytest", "-q", "-p", "plugin"]
    here = str(Path(__file__).parent)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    }
    result = subprocess.run(
        [
            *command,
            "-k",
            f"not {REPLAY}",
            "-p",
            "no:cacheprovider",
            "-c",
            os.devnull,
            "--pyargs",
            *files,
        ],
        cwd=tmp_path,
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    print(result.stdout[-3000:])
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", result.stdout).group(1))
    assert not re.search(r"\d+ (failed|skipped|error)", result.stdout)
    if keras.__version__ == "3.15.1":
        assert passed == sum(PASSED_ON_3_15_1.values())
