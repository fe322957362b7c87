"""A year of rescrapes by a clock that is moved: python year_program.py HOME TRACKING_URI RESCRAPES TRAIN_EVERY KEEP.

Prints a JSON line after each rescrape: the day, Dagster's runs, model versions, and bytes on the disk by folder.
"""

import json
import os
import sys
from pathlib import Path

from chaos.chain_program import TINY
from chaos.clock import move

DAY_S = 86_400
YEAR_DAYS = 365


def on_disk(folder):
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def main(place, tracking_uri, rescrapes, train_every, keep):
    from devopsgpt_pipeline.environment import configure
    from devopsgpt_pipeline.home import Home

    home = Home(Path(place)).prepare()
    configure(home, tracking_uri, tracking_uri)
    import dagster as dg

    from devopsgpt_pipeline import chain
    from devopsgpt_pipeline.progress import ChainProgress
    from devopsgpt_pipeline.registry.tracking import MODEL_NAME, connect
    from devopsgpt_pipeline.retention import Retention
    from devopsgpt_pipeline.whole_chain import Session

    settings = dg.RunConfig({"forget_what_is_old": Retention(versions=keep)}).to_config_dict()
    with ChainProgress() as progress, dg.DagsterInstance.get() as instance:
        for number in range(rescrapes):
            day = number * YEAR_DAYS // (rescrapes - 1)
            move(os.environ["CLOCK_FILE"], day * DAY_S)
            os.environ["DEVOPSGPT_TRAINING"] = f"{TINY} seed={number // train_every}"
            definitions = definitions_of_today()
            session = Session(definitions, instance, progress)
            session.observe()
            session.update()
            retention = definitions.resolve_job_def("retention")
            chain.materialize(retention, instance, progress, run_config=settings)
            sizes = {name: on_disk(home.path / name) for name in ("dagster", "mlflow", "training", "chapters")}
            versions = connect(tracking_uri).search_model_versions(f"name = '{MODEL_NAME}'")
            facts = {"day": day, "runs": instance.get_runs_count(), "versions": len(versions)}
            print(json.dumps(facts | sizes | {"home": on_disk(home.path)}), flush=True)
        assert chain.out_of_date(session.job, instance) == [], "retention forgot what an asset is"


def definitions_of_today():
    from devopsgpt_pipeline.definitions import _from_environment

    return _from_environment()


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
