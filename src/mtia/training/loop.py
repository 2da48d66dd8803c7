"""The training loop: one device, one task, steps that can be stopped at any moment and gone on with.

Data order is a function of seed and epoch, and a step of the number of steps before it, so a checkpoint holds all that
a run is: weights, optimizer and scaler state, random generators, step, losses. A run that was killed loses the step in
work (`checkpoint_every` steps) and ends with the bits of one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from mtia.errors import BadProblem, did_you_mean
from mtia.host_runtime import fallback, silicon
from mtia.training import checkpoint
from mtia.training.optimizers import RowwiseAdagrad, Shampoo
from mtia.training.parts import PartMeter, StepCost, mean
from mtia.training.tasks import RatingTask, Task, task_named

OPTIMIZERS: dict[str, Callable[[Iterable[torch.Tensor], float], torch.optim.Optimizer]] = {
    "adamw": lambda params, rate: torch.optim.AdamW(params, lr=rate),
    "sgd": lambda params, rate: torch.optim.SGD(params, lr=rate, momentum=0.9),
    "adagrad": lambda params, rate: torch.optim.Adagrad(params, lr=rate),
    "rowwise-adagrad": lambda params, rate: RowwiseAdagrad(params, lr=rate),
    "shampoo": lambda params, rate: Shampoo(params, lr=rate),
}
DTYPES = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is. `optimizer`, `batch` and `learning_rate` empty or 0: the task's own.

    float32 trains in float32; bfloat16 and float16 run the forward under autocast, float16 with a gradient scaler.
    `optimizer` is that of the dense layers; a task with embedding tables updates these with row-wise Adagrad.
    """

    task: str
    steps: int = 0  # 0: `epochs`
    epochs: int = 1
    batch: int = 0
    optimizer: str = ""
    learning_rate: float = 0.0
    dtype: str = "float32"
    compile: bool = False
    seed: int = 0
    device: str = "mtia"
    checkpoint: Path | None = None
    checkpoint_every: int = 1
    resume: bool = False

    def __post_init__(self) -> None:
        for name, known in (("optimizer", ("", *OPTIMIZERS)), ("dtype", tuple(DTYPES))):
            value = getattr(self, name)
            if value not in known:
                words = [word for word in known if word]
                raise BadProblem("mtia train", argument=f"--{name}", value=value,
                                 allowed=f"one of {', '.join(words)}{did_you_mean(value, words)}")  # fmt: skip
        for name in ("steps", "batch", "learning_rate"):
            if getattr(self, name) < 0:
                raise BadProblem("mtia train", argument=f"--{name}", value=getattr(self, name), allowed="not below 0")
        for name in ("epochs", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise BadProblem("mtia train", argument=f"--{name}", value=getattr(self, name), allowed="at least 1")
        if self.resume and self.checkpoint is None:
            raise BadProblem("mtia train", argument="--resume", value=True, allowed="needs --checkpoint DIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What came of it. `losses`: of every step since the first, this process's or not; `steps`: measured in this one
    (none on a device without simulated time)."""

    options: Options
    chip: str
    first_step: int
    losses: list[float]
    metrics: dict[str, float]
    steps: list[StepCost] = field(default_factory=list)
    fallbacks: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0

    @property
    def mean_step(self) -> StepCost:
        return mean(self.steps)

    def to_json(self) -> dict[str, Any]:
        step = self.mean_step
        options = {k: str(v) if isinstance(v, Path) else v for k, v in asdict(self.options).items()}
        return {
            "options": options, "chip": self.chip, "first_step": self.first_step, "losses": self.losses,
            "metrics": self.metrics, "step_time_s": step.time_s, "step_energy_j": step.energy_j,
            "parts": {name: {"calls": p.n_calls, "time_s": p.time_s, "energy_j": p.energy_j}
                      for name, p in step.parts.items()},
            "host_fallbacks": self.fallbacks, "wall_s": self.wall_s,
        }  # fmt: skip


OnStep = Callable[[int, int, float], None]  # step (from 1), steps in all, loss


def train(options: Options, on_step: OnStep = lambda step, steps, loss: None) -> TrainingRun:
    """Train until the last step asked for. Raises BadProblem, NoCheckpoint, CheckpointMismatch, UninitializedError."""
    return Trainer(options).run(on_step)


class Trainer:
    """Model, optimizers and position of one run."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.task: Task = task_named(options.task, options.seed)
        self.dtype = DTYPES[options.dtype]
        if isinstance(self.task, RatingTask):
            self.task.row_gradients = self.dtype is not torch.float16  # a gradient scaler sees dense gradients only
        self.batch = options.batch or self.task.batch
        self.samples = self.task.samples
        self.steps_per_epoch = -(-self.samples.numel() // self.batch)
        self.n_steps = options.steps or options.epochs * self.steps_per_epoch
        torch.manual_seed(options.seed)
        self.model = self.task.model().train().to(options.device)
        self.optimizers = self._optimizers()
        self.scaler = torch.amp.GradScaler(options.device, enabled=self.dtype is torch.float16)
        self.step, self.losses = 0, []
        self._order: tuple[int, torch.Tensor] | None = None
        if options.resume:
            self._restore()
        self.running = self.task.compiled(self.model) if options.compile else self.model
        whole = options.compile and self.running is not self.model
        self.meter = PartMeter(self.running, (lambda name, module: None) if whole else self.task.part_of)

    # --- what a run is made of ----------------------------------------------------------------------------------------

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """By the part of the step that they are."""
        name = self.options.optimizer or next(iter(self.task.learning_rate))
        rate = self.options.learning_rate or self.task.learning_rate[name]
        if not isinstance(self.task, RatingTask):
            return {"optimiser": OPTIMIZERS[name](self.model.parameters(), rate)}
        tables = [p for n, p in self.model.named_parameters() if n.startswith("embeddings.")]
        dense = [p for n, p in self.model.named_parameters() if not n.startswith("embeddings.")]
        return {
            "optimiser, embedding rows": RowwiseAdagrad(tables, self.task.learning_rate["rowwise-adagrad"]),
            "optimiser, dense": OPTIMIZERS[name](dense, rate),
        }

    def inputs(self, step: int) -> tuple[torch.Tensor, ...]:
        """The batch of a step, from 0."""
        epoch, at = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            random = torch.Generator().manual_seed(self.options.seed * 1_000_003 + epoch)
            self._order = epoch, torch.randperm(self.samples.numel(), generator=random)
        return self.task.inputs(self.samples[self._order[1][at * self.batch : (at + 1) * self.batch]])

    # --- running ------------------------------------------------------------------------------------------------------

    def run(self, on_step: OnStep) -> TrainingRun:
        options, first, began_s = self.options, self.step, perf_counter()
        before = fallback.counts()
        while self.step < self.n_steps:
            loss = self._one_step()
            self.losses.append(loss)
            self.step += 1
            on_step(self.step, self.n_steps, loss)
            if options.checkpoint and (self.step % options.checkpoint_every == 0 or self.step == self.n_steps):
                checkpoint.save(options.checkpoint, self._state())
        self.model.eval()
        metrics = self.task.evaluate(self.running, options.device)
        self.meter.remove()
        after = fallback.counts()
        return TrainingRun(
            options=options, chip=silicon.chip().name, first_step=first, losses=self.losses, metrics=metrics,
            steps=self.meter.steps, wall_s=perf_counter() - began_s,
            fallbacks={op: n - before.get(op, 0) for op, n in after.items() if n != before.get(op, 0)},
        )  # fmt: skip

    def _one_step(self) -> float:
        inputs = self.inputs(self.step)
        with self.meter.step() if self.options.device == "mtia" else nullcontext():
            self.meter.phase("copy of inputs")
            inputs = tuple(t.to(self.options.device) for t in inputs)
            self.meter.phase("forward" if self.running is not self.model else "loss")
            with self._autocast():
                loss = self.task.loss(self.running, inputs)
            self.meter.phase("backward")
            self.scaler.scale(loss).backward()
            for part, optimizer in self.optimizers.items():
                self.meter.phase(part)
                self.scaler.step(optimizer)
                optimizer.zero_grad()
            self.scaler.update()
            self.meter.phase("read of the loss")
            return loss.item()

    def _autocast(self) -> AbstractContextManager[Any]:
        return torch.autocast(self.options.device, self.dtype) if self.dtype is not None else nullcontext()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def _identity(self) -> dict[str, object]:
        """What must be alike for one run to go on with another's state."""
        o = self.options
        return {"task": o.task, "batch": self.batch, "optimizer": o.optimizer, "learning_rate": o.learning_rate,
                "dtype": o.dtype, "seed": o.seed}  # fmt: skip

    def _state(self) -> dict[str, Any]:
        state = {
            "run": self._identity(), "step": self.step, "losses": self.losses, "model": self._weights(),
            "optimizers": {part: o.state_dict() for part, o in self.optimizers.items()},
            "scaler": self.scaler.state_dict(), "random": {"cpu": torch.get_rng_state()},
        }  # fmt: skip
        if self.options.device == "mtia":
            state["random"]["mtia"] = torch.mtia.get_rng_state()
        return state

    def _weights(self) -> dict[str, torch.Tensor]:
        """By the names they have without torch.compile's wrappers."""
        return {name.replace("_orig_mod.", ""): t for name, t in self.model.state_dict().items()}

    def _restore(self) -> None:
        assert self.options.checkpoint is not None
        state = checkpoint.load(self.options.checkpoint, self._identity())
        self.model.load_state_dict(state["model"])
        for part, optimizer in self.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][part])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["random"]["cpu"])
        if "mtia" in state["random"] and self.options.device == "mtia":
            torch.mtia.set_rng_state(state["random"]["mtia"])
        self.step, self.losses = state["step"], list(state["losses"])


__all__ = ["DTYPES", "OPTIMIZERS", "OnStep", "Options", "Trainer", "TrainingRun", "train"]
