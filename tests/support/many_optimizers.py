"""Models whose train_step uses optimizers of their own, wherever they keep them."""

import keras

BACKEND = keras.backend.backend()


def gradients(loss_of, variables):
    """Return a loss and its gradients, as a train_step does on this backend."""
    if BACKEND == "torch":
        for variable in variables:
            variable.value.grad = None
        loss = loss_of()
        loss.backward()
        return loss.detach(), [variable.value.grad for variable in variables]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = loss_of()
    return loss, tape.gradient(loss, [v.value for v in variables])


def apply(optimizer, grads, variables):
    if BACKEND == "torch":
        import torch

        with torch.no_grad():
            optimizer.apply(grads, variables)
    else:
        optimizer.apply(grads, variables)


def net(units=4, inputs=4):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(units)])


class Gan(keras.Model):
    """The recipe of keras.io: two networks, two optimizers, and a default one that is not used."""

    def __init__(self):
        super().__init__()
        self.discriminator, self.generator = net(1), net()
        self.d_tracker, self.g_tracker = keras.metrics.Mean("d_loss"), keras.metrics.Mean("g_loss")
        self.built = True

    @property
    def metrics(self):
        return [self.d_tracker, self.g_tracker]

    def compile(self, d_optimizer, g_optimizer):
        super().compile(jit_compile=False)
        self.d_optimizer, self.g_optimizer = d_optimizer, g_optimizer

    def optimized(self):
        return {"discriminator": self.d_optimizer, "generator": self.g_optimizer}

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        fake = keras.random.normal((4, 4), seed=7)
        for name, optimizer in self.optimized().items():
            variables = getattr(self, name).trainable_weights
            loss_of = self.real_or_not if name == "discriminator" else self.fooled
            loss, grads = gradients(lambda f=loss_of: f(x, fake), variables)
            apply(optimizer, grads, variables)
            (self.d_tracker if name == "discriminator" else self.g_tracker).update_state(loss)
        return {m.name: m.result() for m in self.metrics}

    def real_or_not(self, x, fake):
        real = self.discriminator(x)
        return keras.ops.mean((real - 1) ** 2 + self.discriminator(self.generator(fake)) ** 2)

    def fooled(self, x, fake):
        return keras.ops.mean((self.discriminator(self.generator(fake)) - 1) ** 2)


class InDict(Gan):
    """An actor and a critic, whose optimizers lie in a dict and in a list in it."""

    def compile(self, d_optimizer, g_optimizer):
        keras.Model.compile(self, jit_compile=False)
        self.optimizers = {"actor": d_optimizer, "others": [g_optimizer]}

    def optimized(self):
        return {
            "discriminator": self.optimizers["actor"],
            "generator": self.optimizers["others"][0],
        }


class Agent:
    """A plain object that holds the optimizers."""


class InObject(Gan):
    def compile(self, d_optimizer, g_optimizer):
        keras.Model.compile(self, jit_compile=False)
        self.agent = Agent()
        self.agent.first, self.agent.second = d_optimizer, (g_optimizer,)

    def optimized(self):
        return {"discriminator": self.agent.first, "generator": self.agent.second[0]}


def made(kind):
    def make():
        model = kind()
        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(2e-2, momentum=0.9))
        model.compile(keras.optimizers.Adam(1e-2), scaled)
        return model

    return make


class WithTorch(Gan):
    """Optimizes with torch's own optimizer and schedule, as PyTorch users do in a train_step."""

    def compile(self, d_optimizer, g_optimizer):
        import torch

        keras.Model.compile(self, jit_compile=False)
        mine = [v.value for v in self.discriminator.trainable_weights]
        self.torch_one = torch.optim.AdamW(mine, lr=1e-2)
        self.schedules = [torch.optim.lr_scheduler.StepLR(self.torch_one, step_size=7, gamma=0.5)]
        self.g_optimizer = g_optimizer

    def train_step(self, data):
        x = data[0] if isinstance(data, tuple) else data
        fake = keras.random.normal((4, 4), seed=7)
        self.torch_one.zero_grad()
        loss = self.real_or_not(x, fake)
        loss.backward()
        self.torch_one.step()
        self.schedules[0].step()
        self.d_tracker.update_state(loss.detach())
        return {m.name: m.result() for m in self.metrics}
