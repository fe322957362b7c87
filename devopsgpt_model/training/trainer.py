"""One training run: model, optimizer and data, and the way from step to step, to evaluations and
saved states."""

import hashlib
import json
import math
import time
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from devopsgpt_model.atomic import write_json
from devopsgpt_model.batches import ShuffledWindows
from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_model.config import GPTConfig, TrainingConfig
from devopsgpt_model.device import choose_autocast
from devopsgpt_model.evaluate import summed_loss
from devopsgpt_model.gpt import GPT
from devopsgpt_model.shutdown import NEVER, Stopped, StopRequest
from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.training.job import TrainingJob
from devopsgpt_model.training.ranks import Ranks
from devopsgpt_model.training.saver import STATE_FILE, RunSaver
from devopsgpt_model.training.state import TrainingProgress, read_progress
from devopsgpt_model.training.step import TrainingStep, learning_rate_at


class TrainingDiverged(ArithmeticError):
    """A loss that is not finite."""


def initial_model(config: TrainingConfig, init_checkpoint: Path | None, vocab_size: int) -> GPT:
    """The model before its first step, float32 on the CPU, in evaluation mode.

    raises: ValueError where the checkpoint's vocabulary or context does not fit the data and the
    settings
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
    model = load_checkpoint(init_checkpoint, dropout=config.dropout).model
    if model.config.vocab_size != vocab_size:
        raise ValueError(
            f"the token bins have a vocabulary of {vocab_size:,} and {init_checkpoint} one of "
            f"{model.config.vocab_size:,}; materialize token_bins with this checkpoint's tokenizer"
        )
    if config.block_size > model.config.block_size:
        raise ValueError(
            f"block_size must be at most the checkpoint's context of {model.config.block_size}, "
            f"got {config.block_size}"
        )
    return model


class Listener(Protocol):
    """Who hears of a run: `report.Report` on rank 0."""

    def metrics(
        self, step: int, values: dict[str, float], note: dict[str, float] | None = None
    ) -> None:
        """Values of one step."""

    def say(self, text: str) -> None:
        """A line for a person."""


class Trainer:
    """One run: model, optimizer and data, and the way from step to step."""

    def __init__(self, job: TrainingJob, ranks: Ranks, stop: StopRequest = NEVER) -> None:
        """raises: ValueError for settings, data and a state that do not fit each other"""
        self.job, self.config, self.ranks, self.stop = job, job.config, ranks, stop
        self.bins = TokenBins.open(job.bins)
        if ranks.first:
            self.bins.check()
        # now: a damaged one is told before the first step, and the bins may be written anew by the
        # last
        self.tokenizer = self.bins.tokenizer
        fingerprint = _fingerprint(job, self.bins)
        earlier = read_progress(job.out / STATE_FILE, fingerprint, self.config.optimizer)
        self.progress = earlier or TrainingProgress()
        if not ranks.agree(self.progress.step):
            raise ValueError(
                f"rank {ranks.rank} stands at step {self.progress.step}, others elsewhere: "
                f"{job.out} must be a folder that every machine sees"
            )
        self.device = ranks.device(self.config.device)
        self.dtype = choose_autocast(self.config.dtype, self.device)
        self.val_tokens = self.bins.tokens("val")
        self.data = ShuffledWindows(
            self.bins.tokens("train"),
            self.config.block_size,
            self.config.batch_size,
            self.config.seed,
        )
        self.model = initial_model(self.config, job.init_checkpoint, self.bins.meta.vocab_size).to(
            self.device
        )
        self.step = TrainingStep(self.model, self.config, self.device, self.dtype, ranks)
        self.saver = RunSaver(job.out, fingerprint, self.model, self.step.optimizer, ranks)
        if earlier:
            self.saver.restore(earlier)

    @property
    def tokens_per_step(self) -> int:
        return self.config.grad_accum_steps * self.config.batch_size * self.config.block_size

    def run(self, report: Listener) -> None:
        """Train to max_steps or early stop, then leave the best weights as a checkpoint folder.

        raises: Stopped when told to stop; TrainingDiverged for a loss that is not finite
        """
        began = time.monotonic() - self.progress.seconds
        report.say(self._opening_line())
        try:
            with self.saver:
                self._train_and_save(report, began)
        except TrainingDiverged:
            self.saver.write_checkpoint(self.tokenizer, self.facts())
            raise
        self.saver.write_checkpoint(self.tokenizer, self.facts())
        self._finish(report)

    def _train_and_save(self, report: Listener, began: float) -> None:
        try:
            self._train(report, began)
        except Stopped:
            self.saver.save(self.progress)
            self.saver.wait()
            raise Stopped(
                f"stopped after step {self.progress.step}; start it again to go on from there"
            ) from None
        self.saver.save(self.progress, finished=True)

    def _train(self, report: Listener, began: float) -> None:
        while not self._finished():
            if self.progress.step % self.config.eval_interval == 0:
                self._evaluate(report, began)
                if self.saver.due(self.progress):
                    self.saver.save(self.progress)
            self._train_steps(report, began)
        self._evaluate(report, began)

    def _finished(self) -> bool:
        too_long = 0 < self.config.patience <= self.progress.evaluations_without_gain
        return self.progress.step >= self.config.max_steps or too_long

    def _train_steps(self, report: Listener, began: float) -> None:
        """Train to the next step that is reported; losses are looked at once, there, so that a GPU
        never waits."""
        losses: list[Tensor] = []
        started, wanted = time.monotonic(), self._steps_to_report()
        try:
            while len(losses) < wanted:
                losses.append(self.step(self.progress.step, self.data, self.stop))
                self.progress.step += 1
        except Stopped:
            self._keep(losses, began)
            raise
        self._keep(losses, began)
        self._report_steps(report, (time.monotonic() - started) / wanted)

    def _keep(self, losses: list[Tensor], began: float) -> None:
        """Note what was trained and not yet reported: the one place that waits for a GPU, so clocks
        are read after it."""
        self.progress.pending_losses += self._over_ranks(losses)
        self.progress.seconds = time.monotonic() - began

    def _over_ranks(self, losses: list[Tensor]) -> list[float]:
        means: list[float] = (
            (self.ranks.sum(torch.stack(losses)) / self.ranks.size).tolist() if losses else []
        )
        return means

    def _steps_to_report(self) -> int:
        step, config = self.progress.step, self.config
        to_report = config.log_interval - step % config.log_interval
        to_evaluation = config.eval_interval - step % config.eval_interval
        return min(to_report, to_evaluation, config.max_steps - step)

    def _report_steps(self, report: Listener, step_seconds: float) -> None:
        losses, self.progress.pending_losses = self.progress.pending_losses, []
        first = self.progress.step - len(losses)
        if bad := [first + i for i, loss in enumerate(losses) if not math.isfinite(loss)]:
            raise self._diverged(f"the loss is not finite at step {bad[0]}")
        values = {
            "train_loss": sum(losses) / len(losses),
            "learning_rate": learning_rate_at(self.progress.step - 1, self.config),
            "tokens_per_second": self.tokens_per_step / step_seconds,
            "step_seconds": step_seconds,
        }
        self._report(report, values, (self.config.max_steps - self.progress.step) * step_seconds)

    def _diverged(self, what: str) -> TrainingDiverged:
        """The error to raise, once the best weights are being written."""
        progress = self.progress
        best = "no checkpoint was good"
        if math.isfinite(progress.best_val_loss):
            self.saver.save_best(progress)
            best = (
                f"the best checkpoint is of step {progress.best_step}, in "
                f"{self.job.out / 'checkpoint'}"
            )
        return TrainingDiverged(f"{what}; {best}. Try a lower learning_rate or a longer warmup")

    def _report(self, report: Listener, values: dict[str, float], seconds_left: float) -> None:
        note = {"max_steps": self.config.max_steps, "seconds_left": seconds_left}
        report.metrics(self.progress.step, values, note)

    def _evaluate(self, report: Listener, began: float) -> None:
        """Exact val_loss; it is reported before it is saved: no state on disk stands for a value
        that nobody heard.

        raises: TrainingDiverged; Stopped
        """
        if self.progress.evaluated_step == self.progress.step:
            return  # a resumed run stands where it was last evaluated
        progress, loss = self.progress, self._val_loss()
        if not math.isfinite(loss):
            raise self._diverged(f"val_loss is not finite at step {progress.step}")
        if progress.step == 0:
            progress.start_val_loss = loss
        if loss < progress.best_val_loss:
            progress.best_val_loss, progress.best_step = loss, progress.step
            progress.evaluations_without_gain = 0
            self.saver.keep_best()
        else:
            progress.evaluations_without_gain += 1
        progress.seconds, progress.evaluated_step = time.monotonic() - began, progress.step
        report.metrics(progress.step, {"val_loss": loss}, {"max_steps": self.config.max_steps})

    def _val_loss(self) -> float:
        """val_loss of every held-out token, in the steps' number format; the ranks share the
        windows out."""
        total, count = summed_loss(
            *(self.model, self.val_tokens, self.config.block_size, self.dtype),
            self.ranks.rank,
            self.ranks.size,
            # shards are gathered in step, to the last pass
            stop=NEVER if self.step.sharded else self.stop,
        )
        sums = torch.tensor([total, count, self.stop.made], dtype=torch.float64)
        total, count, stopped = self.ranks.sum(sums).tolist()
        if stopped:
            raise Stopped
        return total / count

    def _finish(self, report: Listener) -> None:
        """Say that the run is complete: to who looks for result.json, and to a person."""
        if not self.ranks.first:
            return
        write_json(self.job.out / "result.json", self.facts())
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
            "dtype": "bfloat16" if self.dtype else "float32",
            "init_checkpoint": str(self.job.init_checkpoint or ""),
            "dataset": self.bins.meta.dataset,
            "data_version": self.job.data_version,
            "code_version": self.job.code_version,
            "mlflow_run_id": self.job.mlflow_run_id,
        }

    def _opening_line(self) -> str:
        where = f"{self.device}, {'bfloat16' if self.dtype else 'float32'}"
        where += ", compiled" if self.step.compiled else ""
        if self.ranks.size > 1:
            where += f", {self.ranks.size} processes ({self.config.parallel})"
        if self.step.at_once > 1:
            where += f", {self.step.at_once * self.config.batch_size} sequences at once"
        start = f"resuming at step {self.progress.step}" if self.progress.step else "starting"
        return (
            f"{start}: {self.model.config.parameter_count:,} parameters, "
            f"{self.tokens_per_step:,} tokens/step, {self.config.max_steps:,} steps, "
            f"{self.data.windows_per_epoch} windows/epoch, on {where}"
        )


def _fingerprint(job: TrainingJob, bins: TokenBins) -> str:
    facts = {
        "config": asdict(job.config),
        "data": bins.meta.data_version,
        "init": str(job.init_checkpoint),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
