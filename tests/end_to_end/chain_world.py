"""The chain of one home, with its definitions and its Dagster instance."""

import dataclasses

import dagster as dg

from devopsgpt_model.config import TrainingConfig
from devopsgpt_pipeline.local import chain

TINY = TrainingConfig(
    **dict(
        n_layer=1, n_head=2, n_embd=32, block_size=64, batch_size=4, max_steps=20, warmup_steps=2
    ),
    **dict(eval_interval=10, log_interval=5, learning_rate=1e-2, device="cpu", dtype="float32"),
    optimizer="muon",
)
CHAIN = [
    *(
        "chapters_night_shift",
        "chapters_steady_service",
        "clean_text_night_shift",
        "clean_text_steady_service",
    ),
    *("token_bins_books", "finetuned_checkpoint", "evaluation", "registered_model", "champion"),
    "leaderboard",
]


class Chain:
    """One home with its definitions and its instance."""

    def __init__(self, home, definitions, instance):
        self.home, self.definitions, self.instance = home, definitions, instance
        self.job = definitions.resolve_job_def("whole_chain")
        self.events = []

    def observe(self):
        chain.materialize(
            self.definitions.resolve_job_def("observe_books"), self.instance, self.events.append
        )

    def stale(self):
        return [key.to_user_string() for key in chain.out_of_date(self.job, self.instance)]

    def materialize(self, keys, config=TINY, dataset="books", **changes):
        keys = [dg.AssetKey.from_user_string(key) for key in keys]
        settings = dataclasses.asdict(dataclasses.replace(config, **changes)) | {"dataset": dataset}
        run_config = {"ops": {"finetuned_checkpoint": {"config": settings}}}
        if dg.AssetKey("finetuned_checkpoint") not in keys:
            run_config = None
        chain.materialize(self.job, self.instance, self.events.append, keys, run_config)

    def metadata(self, key):
        entry = self.instance.get_latest_materialization_event(dg.AssetKey.from_user_string(key))
        return entry.asset_materialization.metadata

    def blob(self, key, name):
        return self.metadata(key)[name].value
