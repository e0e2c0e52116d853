"""torchrun under `ratchet run`: its workers are in sessions of their own. Their script needs no
torch, so only the agent imports it."""

import signal
import sys

from support import processes, supervising

RANK = """
rank = int(os.environ["RANK"])
say(f"rank {rank} is {os.getpid()}")
def hangs_here():
    time.sleep(60)
again = os.path.exists(f"was-{rank}")
open(f"was-{rank}", "w").close()
"""
HANGS = """
import faulthandler
faulthandler.register(62)
for batch in range(1000 if not again else 2):
    beat(batch=batch, stacks=62)
    if not again and rank == 1:
        hangs_here()
    time.sleep(0.1)
"""
TERM = """
got = []
signal.signal(signal.SIGTERM, lambda *_: got.append(1))
say("waits" if os.path.exists("was-0") and os.path.exists("was-1") else "")
while not got:
    time.sleep(0.02)
time.sleep(0.5)  # a second one would come by now
say(f"rank {rank} got {len(got)}")
sys.exit(75)
"""


def start(tmp_path, script, *options):
    where = ["--nproc-per-node", "2", "--master-port", str(processes.free_port())]
    command = [sys.executable, "-m", "torch.distributed.run", *where]
    return supervising.start(tmp_path, RANK + script, *options, command=command, limit_s=120)


def test_a_rank_that_hangs_shows_its_stacks_and_all_are_started_again(tmp_path):
    with start(tmp_path, HANGS, "--hang-after", 3) as run:
        code, output = run.end()
        assert code == 0, output
        assert "in hangs_here" in output and "start 2 of 4, after a hang" in output
        first = [int(line.split()[-1]) for line in run.lines("rank ")][:2]
        assert all(supervising.is_gone(pid, 0.1) for pid in first)


def test_sigterm_reaches_each_rank_once(tmp_path):
    with start(tmp_path, TERM) as run:
        assert run.says("waits"), run.output
        run.signal(signal.SIGTERM)
        code, output = run.end()
    assert code != 0 and "start 2" not in output
    assert "rank 0 got 1\n" in output and "rank 1 got 1\n" in output
