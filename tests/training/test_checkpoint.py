"""Checkpoints: whole or not there, refused for another run; a killed run goes on as if it had not been."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mtia.errors import BadProblem
from mtia.training import checkpoint
from mtia.training.loop import Options, Trainer, train

RUN = {"task": "dlrm", "seed": 0}


def test_what_was_saved_comes_back(tmp_path: Path):
    state = {"run": RUN, "step": 3, "model": {"w": torch.arange(4.0)}, "losses": [0.5, 0.25]}
    path = checkpoint.save(tmp_path / "new", state)
    assert sorted(p.name for p in path.parent.iterdir()) == [checkpoint.NAME]
    found = checkpoint.load(path.parent, RUN)
    assert torch.equal(found.pop("model")["w"], state.pop("model")["w"]) and found == state


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    checkpoint.save(tmp_path, {"run": RUN, "step": 1})

    class Unwritable:
        def __reduce__(self) -> str:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(tmp_path, {"run": RUN, "step": 2, "bad": Unwritable()})
    assert checkpoint.load(tmp_path, RUN)["step"] == 1
    checkpoint.save(tmp_path, {"run": RUN, "step": 3})
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]  # and the draft is gone


def test_another_runs_checkpoint_is_refused(tmp_path: Path):
    checkpoint.save(tmp_path, {"run": RUN})
    with pytest.raises(checkpoint.CheckpointMismatch, match=r"seed = 0, this run has 1.*another folder"):
        checkpoint.load(tmp_path, {"task": "dlrm", "seed": 1})


def test_nothing_to_resume(tmp_path: Path):
    with pytest.raises(checkpoint.NoCheckpoint, match=r"has no checkpoint.pt. Leave --resume out"):
        train(Options(task="dlrm", device="cpu", steps=1, checkpoint=tmp_path, resume=True))


@pytest.mark.parametrize("field, value, text", [
    ("dtype", "float8", "one of float32, bfloat16, float16"), ("optimizer", "adam", "Did you mean 'adamw'?"),
    ("steps", -1, "not below 0"), ("checkpoint_every", 0, "at least 1"), ("resume", True, "needs --checkpoint DIR"),
])  # fmt: skip
def test_options_that_make_no_sense(field: str, value: object, text: str):
    with pytest.raises(BadProblem) as caught:
        Options(task="dlrm", **{field: value})  # type: ignore[arg-type]
    assert text in str(caught.value)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_run_in_two_halves_is_the_run(tmp_path: Path, dtype: str):
    """Weights, optimizer, scaler, order: all of it is in the file. Across an epoch's end, on the CPU."""
    options = {"task": "dlrm", "device": "cpu", "batch": 40_000, "steps": 5, "dtype": dtype}
    whole = Trainer(Options(**options))  # type: ignore[arg-type]
    losses = whole.run(lambda *_: None).losses
    train(Options(**options | {"steps": 3}, checkpoint=tmp_path))  # type: ignore[arg-type]
    second = Trainer(Options(**options, checkpoint=tmp_path, resume=True))  # type: ignore[arg-type]
    assert second.step == 3
    assert second.run(lambda *_: None).losses == losses
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], weight), name


KILLED = '''
"""Trains, is killed at random moments, resumes; once more without. Forks, so that torch is imported once."""
import json, os, random, signal, sys, time
from pathlib import Path
import torch
from mtia.training.loop import Options, train
from mtia.training import movielens
from mtia.training.tasks import RatingTask

folder, steps, kills = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
movielens.load()

def child(name, resume):
    """What `mtia train` does, in a process of its own; each finished step is a line of a file."""
    done = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    saved = folder / name
    RatingTask.evaluate = lambda self, model, device: {"weights": float(sum(p.double().sum() for p in model.parameters()))}
    options = Options(task="dlrm", batch=64, steps=steps, checkpoint=saved, resume=resume)
    run = train(options, lambda step, *_: os.write(done, f"{step}\\n".encode()))
    (folder / f"{name}.json").write_text(json.dumps({"losses": run.losses, "metrics": run.metrics}))
    os._exit(0)

def fork(name, resume):
    pid = os.fork()
    if pid == 0:
        try:
            child(name, resume)
        except BaseException:
            import traceback
            traceback.print_exc()
        os._exit(1)
    return pid

def lines(name):
    path = folder / f"{name}.log"
    return [int(x) for x in path.read_text().split()] if path.exists() else []

assert os.waitpid(fork("whole", False), 0)[1] == 0
chance = random.Random(7)
starts = []
for kill in range(kills):
    before = len(lines("killed"))
    pid = fork("killed", resume=kill > 0)
    while len(lines("killed")) < before + 2:  # at least one step is saved: progress
        time.sleep(0.002)
    time.sleep(chance.random() * 0.3)
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    starts.append((lines("killed")[-1], os.WIFSIGNALED(status)))
assert os.waitpid(fork("killed", True), 0)[1] == 0
read = lambda name: json.loads((folder / f"{name}.json").read_text())
print(json.dumps({"whole": read("whole"), "killed": read("killed"), "log": lines("killed"), "starts": starts}))
'''


@pytest.mark.slow
def test_sigkill_at_random_moments_loses_the_step_in_work_at_most(tmp_path: Path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(tmp_path), "9", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["killed"] == found["whole"]  # losses of every step and the weights' sum: the same bits
    assert all(was_killed for _, was_killed in found["starts"])
    log = found["log"]
    jumps = [(before, after) for before, after in pairwise(log) if after != before + 1]
    assert len(log) - len(set(log)) <= len(found["starts"])  # a step done twice for each kill, at most
    assert all(after == before for before, after in jumps) and sorted(set(log)) == list(range(1, 10))
