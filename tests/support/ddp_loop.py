"""A hand-written loop on ranks: ddp_loop.py DIR [DATA] [KILL]; prints what it has trained on.

DATA: "dealt" to the ranks by a DistributedSampler, or "shuffled" by each. KILL: `<rank>:<batch>`
(counted in this process; "all:<batch>" for every rank), only as long as DIR has no file `killed`.
"""

import contextlib
import hashlib
import logging
import random
import sys
from pathlib import Path

from support import rank

logging.basicConfig(format="%(message)s")
where, data, kill = (
    [*sys.argv[1:], "dealt", "-:0"][:3] if len(sys.argv) == 2 else [*sys.argv[1:], "-:0"][:3]
)
RANK, SIZE = rank.join()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

import keras_ratchet as kr  # noqa: E402


class Count(keras.callbacks.Callback):
    """A callback with a state of each rank's own."""

    def on_train_begin(self, logs=None):
        self.drawn = 0

    def on_train_batch_end(self, batch, logs=None):
        self.drawn += random.randrange(1000) * (RANK + 1)


def state_of(net, count):
    """Return digests of the weights, of BatchNormalization's statistics, and of all streams."""
    values = [keras.ops.convert_to_numpy(v) for v in net.variables]
    trained = b"".join(
        a.tobytes() for v, a in zip(net.variables, values, strict=True) if v.trainable
    )
    every = b"".join(a.tobytes() for a in values)
    streams = random.random(), np.random.random(), float(torch.rand(())), count.drawn
    return [hashlib.md5(data).hexdigest()[:8] for data in (trained, every)] + [*streams]


keras.utils.set_random_seed(1)
layers = [keras.Input((2,)), keras.layers.Dense(1), keras.layers.BatchNormalization()]
net = keras.Sequential([*layers, keras.layers.Dropout(0.1)])
x = np.arange(96, dtype="float32").reshape(48, 2) / 96
y = x.sum(1, keepdims=True)
rows = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
sampler = torch.utils.data.DistributedSampler(rows, SIZE, RANK, seed=3)
options = {"shuffle": True} if data == "shuffled" else {"sampler": sampler}
loader = torch.utils.data.DataLoader(rows, batch_size=2, **options)
model = torch.nn.parallel.DistributedDataParallel(net) if SIZE > 1 else net
optimizer = torch.optim.Adam(net.parameters(), 1e-2)
random.seed(RANK), np.random.seed(RANK), torch.manual_seed(RANK)
who, _, when = kill.partition(":")
mark = Path(where, "killed")
count, n = Count(), 0
with kr.Run(
    f"{where}/run",
    net,
    optimizer=optimizer,
    callbacks=[count],
    save_freq=1,
    delete_checkpoint=False,
) as run:
    for epoch in run.epochs(2):
        sampler.set_epoch(epoch)
        for bx, by in run.batches(loader):
            n += 1
            if who in (str(RANK), "all") and n == int(when) and not mark.exists():
                if who != "all":
                    mark.touch()
                rank.kill_myself()
            if n == 1:
                print("STREAM", RANK, np.random.get_state()[1][0], flush=True)
            optimizer.zero_grad()
            loss = ((model(bx, training=True) - by) ** 2).mean()
            loss.backward()
            optimizer.step()
            numbers = [round(float(v) * 48) for v in bx[:, 0]]
            print("SEEN", epoch, *numbers, flush=True)
            run.log(loss=loss.detach())
print("RESULT", RANK, *state_of(net, count), run.history, flush=True)
if SIZE > 1:
    with contextlib.suppress(Exception):
        torch.distributed.barrier()
    torch.distributed.destroy_process_group()
