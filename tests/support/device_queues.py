"""The two queues of a device, run here as early or as late as what they wait for allows."""

from collections import deque

import torch


class Event:
    """A place in a queue that has been reached, or not yet."""

    is_done = False


class Queues:
    """Stands for `torch_device.Streams`: work waits in two queues until somebody waits for it.

    Args:
        first: Which queue runs as far as it can before the other one does: "training" or "ours".
        room: How many bytes are free on the device.
        without: A wait that is left out: "after", "hold" or "wait".
        at_once: Whether training's queue is run whenever work is put into it.
    """

    def __init__(self, first="training", room=1 << 40, without="", at_once=False):
        self.first, self.room, self.without, self.at_once = first, room, without, at_once
        self.training, self.ours = deque(), deque()
        self.is_full = False
        self.told, self.waits = [], 0

    def train(self, work):
        """Queue a step of training."""
        self.training.append(work)

    def run(self, work):
        event = Event()
        self.training += [work, event]
        while self.at_once and self.training:
            self._step()
        return event

    def run_beside(self, work, after, reads):
        event = Event()
        self.told.append(reads.nbytes)
        self.ours += [work, event] if self.without == "after" else [(after,), work, event]
        return event

    def hold(self, until):
        if self.without != "hold":
            self.training.append((until,))

    def wait(self, until):
        self.waits += 1
        while not until.is_done and self.without != "wait":
            self._step()

    def _step(self):
        """Run the next thing that can run."""
        queues = [self.training, self.ours]
        for queue in queues if self.first == "training" else reversed(queues):
            if queue and not (isinstance(queue[0], tuple) and not queue[0][0].is_done):
                self._do(queue.popleft())
                return
        raise AssertionError("both queues wait for ever")

    def _do(self, work):
        if isinstance(work, Event):
            work.is_done = True
        elif callable(work):
            work()

    def free_bytes(self):
        return self.room, self.room

    def on_host(self, size):
        return torch.zeros(size, dtype=torch.uint8)

    def on_device(self, size):
        if self.is_full:
            raise torch.OutOfMemoryError
        return torch.zeros(size, dtype=torch.uint8)
