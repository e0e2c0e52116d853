"""Told to end: a signal to one rank or the deadline of one rank ends all after the same batch.

And torchrun, which starts all ranks again after one was killed.
"""

import json
import os

import keras
import pytest
from support import processes

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="the scripts choose their own backends"
)
TOLD = """
import json, os, signal, sys, time
if os.environ["KERAS_BACKEND"] == "jax":
    import jax
    jax.config.update("jax_enable_preemption_service", True)
from support import rank
RANK, SIZE = rank.join()
import keras, numpy as np
import keras_ratchet as kr

class Tell(keras.callbacks.Callback):
    def __init__(self, case):
        super().__init__()
        self.case, self.batches = case, 0
    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        time.sleep(0.02)
        if self.batches == 5 and self.case in (f"signal to {RANK}", "signal to all"):
            os.kill(os.getpid(), signal.SIGTERM)

def train(where, case):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(RANK).normal(size=(2000, 2)).astype("float32")
    deadline = 0.5 if case == "deadline of 1" and RANK == 1 else 3600.0
    saver = kr.BackupAndRestore(where, save_freq=1000, delete_checkpoint=False, exit_code=77,
                                signals=["SIGTERM"], grace_s=600.0, deadline=deadline)
    tell, code = Tell(case), None
    try:
        model.fit(x, x[:, :1], batch_size=2, epochs=1, verbose=0, callbacks=[saver, tell])
    except SystemExit as end:
        code = end.code
    weights = [np.asarray(v).tolist() for v in model.variables]
    reason = None if saver.stop_reason is None else saver.stop_reason.kind
    return {"code": code, "batches": tell.batches, "reason": reason, "weights": weights}

for case in sys.argv[2:]:
    print("CASE", json.dumps(train(f"{sys.argv[1]}/{case}", case)), flush=True)
"""
RESTARTED = """
import json, os, sys
from support import rank
RANK, SIZE = rank.join()
from support import rank_training
os.makedirs(sys.argv[1], exist_ok=True)
os.chdir(sys.argv[1])
dies = RANK == 1 and sys.argv[2:] == ["kill"] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
reports = rank_training.Reports(lambda text: None, *(("batch 2", 2) if dies else ()))
found = json.dumps(rank_training.loop(RANK, 4, reports))
sys.stdout.write(f"RESULT {RANK} {found}\\n")  # in one piece: torchrun's ranks share the output
rank.part()
"""
CASES = {
    "signal to 1": "signal",
    "signal to 0": "signal",
    "signal to all": "signal",
    "deadline of 1": "deadline",
}


def lines(output, kind):
    """Return what follows a word at the starts of lines."""
    return [line.split(" ", 1)[1] for line in output.splitlines() if line.startswith(kind + " ")]


@pytest.fixture(scope="module", params=["jax", "torch-fit"])
def told(request, tmp_path_factory):
    """Return, by case, what each rank says of its end."""
    where = tmp_path_factory.mktemp("told")
    ended = processes.run(request.param, TOLD, [where, *CASES], limit_s=400)
    assert [one.code for one in ended] == [0, 0], processes.report(ended)
    said = [[json.loads(line) for line in lines(one.output, "CASE")] for one in ended]
    return dict(zip(CASES, zip(*said, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_all_ranks_end_after_the_same_batch_with_the_code(told, case):
    first, second = told[case]
    assert first == second
    assert first["code"] == 77 and first["reason"] == CASES[case]
    assert 1 <= first["batches"] < 1000


@pytest.mark.skipif(
    not os.environ.get("RATCHET_LONG"),
    reason="RATCHET_LONG=1: gloo cannot always connect ranks that are started again",
)
def test_ranks_that_torchrun_starts_again_end_as_if_none_had_been_killed(tmp_path):
    straight = processes.torchrun("torch", RESTARTED, [tmp_path / "straight"], limit_s=300)
    assert straight.code == 0, straight.output
    options = ["--max-restarts", "9", "--monitor-interval", "0.5"]
    given = [tmp_path / "killed", "kill"]
    killed = processes.torchrun("torch", RESTARTED, given, options=options, limit_s=400)
    assert killed.code == 0, killed.output
    assert "-9" in killed.output  # torchrun's word for it
    results = [sorted(lines(ended.output, "RESULT")) for ended in (straight, killed)]
    assert len(results[0]) == 2 and results[0] == results[1]
