"""The training loop: token bins in, a checkpoint folder out.

`python -m devopsgpt_model.train --config train.json` (see job.py for the file). Stopped by SIGINT, SIGTERM or
a kill and started again with the same file, it goes on from its last saved state.
"""

import argparse
import hashlib
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
from safetensors.torch import load_file
from torch import Tensor

from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.checkpoint import load_checkpoint, save_checkpoint
from devopsgpt_model.config import GPTConfig, TrainingConfig
from devopsgpt_model.device import choose_autocast, choose_device
from devopsgpt_model.evaluate import mean_loss
from devopsgpt_model.folders import write_json, write_whole
from devopsgpt_model.gpt import GPT
from devopsgpt_model.job import FAILURE_FILE, TrainingJob
from devopsgpt_model.report import Report, ReportError
from devopsgpt_model.token_bins import read_meta, read_tokens
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_model.train_state import Progress, load_state, save_state, save_tensors

STOPPED = 75  # exit status of a run that was told to stop and can be resumed (EX_TEMPFAIL)
FAILED = 1


class TrainingDiverged(ArithmeticError):
    """A loss that is not finite."""


class Stopped(Exception):
    """The run was told to stop, and has saved its state."""


def initial_model(config: TrainingConfig, init_checkpoint: Path | None, vocab_size: int) -> GPT:
    """The model before its first step, float32 on the CPU, in evaluation mode.

    raises: ValueError where the checkpoint's vocabulary or context does not fit the data and the settings
    """
    if init_checkpoint is None:
        shape = GPTConfig(
            vocab_size=vocab_size,
            block_size=config.block_size,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_embd=config.n_embd,
            dropout=config.dropout,
        )
        return GPT(shape).init_weights(config.seed).eval()
    model = load_checkpoint(init_checkpoint).model
    if model.config.vocab_size != vocab_size:
        raise ValueError(
            f"the token bins have a vocabulary of {vocab_size:,} and {init_checkpoint} one of "
            f"{model.config.vocab_size:,}; materialize token_bins with this checkpoint's tokenizer"
        )
    if config.block_size > model.config.block_size:
        raise ValueError(
            f"block_size must be at most the checkpoint's context of {model.config.block_size}, got {config.block_size}"
        )
    return model


def learning_rate_at(step: int, config: TrainingConfig) -> float:
    """Linear rise over warmup_steps, then linear fall to min_learning_rate at max_steps."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    left = (config.max_steps - step) / max(1, config.max_steps - config.warmup_steps)
    return config.min_learning_rate + (config.learning_rate - config.min_learning_rate) * left


def make_optimizer(model: GPT, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW, fused; weight decay on matrices only, not on biases and norms."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


class Trainer:
    """One run: model, optimizer and data, and the way from step to step."""

    def __init__(self, job: TrainingJob) -> None:
        """raises: ValueError for settings and data that do not fit each other"""
        self.job, self.config = job, job.config
        self.device = choose_device(self.config.device)
        self.autocast = choose_autocast(self.config.dtype, self.device)
        self.tokenizer = Tokenizer.load(job.bins)
        self.val_tokens = read_tokens(job.bins, "val")
        self.data = ShuffledWindows(
            read_tokens(job.bins, "train"), self.config.block_size, self.config.batch_size, self.config.seed
        )
        self.model = initial_model(self.config, job.init_checkpoint, read_meta(job.bins).vocab_size).to(self.device)
        self.optimizer = make_optimizer(self.model, self.config)
        self.step_model = torch.compile(self.model) if self.config.compile else self.model
        self.fingerprint = _fingerprint(job)
        state = load_state(job.out / "state.safetensors", self.model, self.optimizer, self.fingerprint)
        self.progress = state or Progress()
        self.stop_requested = False

    @property
    def tokens_per_step(self) -> int:
        return self.config.grad_accum_steps * self.config.batch_size * self.config.block_size

    def run(self, report: Report) -> None:
        """Train to max_steps or early stop, then leave the best weights as a checkpoint folder.

        raises: Stopped when told to stop; TrainingDiverged for a loss that is not finite
        """
        began = time.monotonic() - self.progress.seconds
        report.say(self._opening_line())
        while not self._finished():
            if self.progress.step % self.config.eval_interval == 0:
                self._evaluate_and_save(report, began)
            self._train_steps(report, began)
        self._evaluate_and_save(report, began)
        self._finish(report)

    def _finished(self) -> bool:
        too_long = 0 < self.config.patience <= self.progress.evaluations_without_gain
        return self.progress.step >= self.config.max_steps or too_long

    def _train_steps(self, report: Report, began: float) -> None:
        """Train to the next step that is reported; losses are looked at once, there, so that a GPU never waits."""
        losses: list[Tensor] = []
        started, wanted = time.monotonic(), self._steps_to_report()
        while len(losses) < wanted and not self.stop_requested:
            losses.append(self._train_step(self.progress.step))
            self.progress.step += 1
        seconds = time.monotonic() - started
        self.progress.seconds = time.monotonic() - began
        self.progress.pending_losses += torch.stack(losses).tolist() if losses else []
        if len(losses) == wanted:
            self._report_steps(report, seconds / wanted)
        if self.stop_requested:
            self._save()
            raise Stopped(f"stopped after step {self.progress.step}; start it again to go on from there")

    def _steps_to_report(self) -> int:
        step, every, evaluate = self.progress.step, self.config.log_interval, self.config.eval_interval
        return min(every - step % every, evaluate - step % evaluate, self.config.max_steps - step)

    def _train_step(self, step: int) -> Tensor:
        """One optimizer step. returns: its loss, still on the device"""
        self.model.train()
        torch.manual_seed(_mix(self.config.seed, step))  # dropout follows from the step: a resumed run repeats it
        rate = learning_rate_at(step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.device)
        for micro in range(self.config.grad_accum_steps):
            idx, targets = self.data.batch(step * self.config.grad_accum_steps + micro)
            idx, targets = idx.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)
            with torch.autocast(
                self.device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None
            ):
                _, loss = self.step_model(idx, targets)
            loss = loss / self.config.grad_accum_steps
            loss.backward()
            total += loss.detach()
        if self.config.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def _report_steps(self, report: Report, step_seconds: float) -> None:
        losses, self.progress.pending_losses = self.progress.pending_losses, []
        first = self.progress.step - len(losses)
        if bad := [first + i for i, loss in enumerate(losses) if not math.isfinite(loss)]:
            raise TrainingDiverged(
                f"the loss is not finite at step {bad[0]}; the best checkpoint is of step {self.progress.best_step}. "
                "Try a lower learning_rate or a longer warmup"
            )
        values = {
            "train_loss": sum(losses) / len(losses),
            "learning_rate": learning_rate_at(self.progress.step - 1, self.config),
            "tokens_per_second": self.tokens_per_step / step_seconds,
            "step_seconds": step_seconds,
        }
        self._report(report, values, (self.config.max_steps - self.progress.step) * step_seconds)

    def _report(self, report: Report, values: dict[str, float], seconds_left: float) -> None:
        note = {"max_steps": self.config.max_steps, "seconds_left": seconds_left}
        report.metrics(self.progress.step, values, note)

    def _evaluate_and_save(self, report: Report, began: float) -> None:
        """Exact val_loss; keeps the best weights, then the state: a kill between the two costs nothing."""
        if self.progress.evaluated_step == self.progress.step:
            return  # a resumed run stands where it was last evaluated
        loss = mean_loss(self.model, self.val_tokens, self.config.block_size)
        progress = self.progress
        if progress.step == 0:
            progress.start_val_loss = loss
        if loss < progress.best_val_loss:
            progress.best_val_loss, progress.best_step, progress.evaluations_without_gain = (
                loss,
                progress.step,
                0,
            )
            weights = {name: parameter.detach() for name, parameter in self.model.named_parameters()}
            save_tensors(self.job.out / "best.safetensors", weights, {"step": str(progress.step)})
        else:
            progress.evaluations_without_gain += 1
        progress.seconds, progress.evaluated_step = time.monotonic() - began, progress.step
        self._save()
        report.metrics(progress.step, {"val_loss": loss}, {"max_steps": self.config.max_steps})

    def _save(self) -> None:
        save_state(self.job.out / "state.safetensors", self.model, self.optimizer, self.progress, self.fingerprint)

    def _finish(self, report: Report) -> None:
        with torch.no_grad():
            best = load_file(self.job.out / "best.safetensors")
            for name, parameter in self.model.named_parameters():
                parameter.copy_(best[name])
        facts = self.facts()
        save_checkpoint(self.job.out / "checkpoint", self.model, self.tokenizer, facts)
        write_json(self.job.out / "result.json", facts)
        progress = self.progress
        report.say(
            f"val_loss {progress.start_val_loss:.4f} -> {progress.best_val_loss:.4f} nats/token "
            f"(best at step {progress.best_step}) in {progress.seconds:.0f} s"
        )

    def facts(self) -> dict[str, object]:
        """What training.json says: how these weights came to be."""
        return {
            "config": asdict(self.config),
            "step": self.progress.best_step,
            "steps_trained": self.progress.step,
            "tokens_trained": self.progress.step * self.tokens_per_step,
            "val_loss": self.progress.best_val_loss,
            "start_val_loss": self.progress.start_val_loss,
            "seconds": round(self.progress.seconds, 1),
            "device": str(self.device),
            "dtype": "bfloat16" if self.autocast else "float32",
            "init_checkpoint": str(self.job.init_checkpoint or ""),
            "dataset": read_meta(self.job.bins).dataset,
            "data_version": self.job.data_version,
            "code_version": self.job.code_version,
            "mlflow_run_id": self.job.mlflow_run_id,
        }

    def _opening_line(self) -> str:
        where = f"{self.device}, {'bfloat16' if self.autocast else 'float32'}"
        start = f"resuming at step {self.progress.step}" if self.progress.step else "starting"
        return (
            f"{start}: {self.model.parameter_count():,} parameters, {self.tokens_per_step:,} tokens/step, "
            f"{self.config.max_steps:,} steps, {self.data.windows_per_epoch} windows/epoch, on {where}"
        )


def _fingerprint(job: TrainingJob) -> str:
    facts = {
        "config": asdict(job.config),
        "data": read_meta(job.bins).data_version,
        "init": str(job.init_checkpoint),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _mix(seed: int, step: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:7], "big")


def train(job: TrainingJob) -> dict[str, object]:
    """Run a job to its end and return its facts; one that ended before only delivers its report again.

    raises: ValueError for settings and data that do not fit; Stopped; TrainingDiverged; ReportError
    """
    job.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(job)
    _stop_on_signals(trainer)
    _stop_without_parent(trainer, job.parent_pid)
    metrics_file = job.out / "metrics.jsonl"
    with Report(metrics_file, job.mlflow_tracking_uri, job.mlflow_run_id, trainer.progress.step) as report:
        trainer.run(report)
    return trainer.facts()


def _stop_on_signals(trainer: Trainer) -> None:
    def request_stop(signal_number: int, frame: FrameType | None) -> None:
        trainer.stop_requested = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, request_stop)


def _stop_without_parent(trainer: Trainer, parent_pid: int) -> None:
    """Watch the launching process: a killed launcher must not leave a trainer behind."""
    import threading

    def watch() -> None:
        while _alive(parent_pid):
            time.sleep(1.0)
        trainer.stop_requested = True

    if parent_pid:
        threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _alive(pid: int) -> bool:
    if os.getppid() == pid:
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main(arguments: list[str] | None = None) -> int:
    """Command line. returns: 0, 1 for an error told in one line, 75 for a run that was stopped and can go on"""
    parser = argparse.ArgumentParser(prog="devopsgpt_model.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="training job, a JSON file")
    options = parser.parse_args(arguments)
    try:
        job = TrainingJob.read(options.config)
    except ValueError as error:
        print(f"training failed: {error}", file=sys.stderr)
        return FAILED
    try:
        train(job)
    except Stopped as stopped:
        return _end(job, str(stopped), STOPPED)
    except (ValueError, TrainingDiverged, ReportError, OSError) as error:
        return _end(job, f"training failed: {error}", FAILED)
    return 0


def _end(job: TrainingJob, reason: str, status: int) -> int:
    """Say why a run ended early, to whoever reads stderr and to the launcher. returns: status"""
    print(reason, file=sys.stderr)
    write_whole(job.out / FAILURE_FILE, f"{reason}\n".encode())
    return status


if __name__ == "__main__":
    sys.exit(main())
