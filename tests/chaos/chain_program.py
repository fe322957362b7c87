"""One walk over the chain, as `devopsgpt run` takes it, with a tiny model and an MLflow server that
runs elsewhere.

python chain_program.py HOME TRACKING_URI SEED: a new seed makes everything from training on out of
date; a seed that 5 divides looks at the books first.
"""

import os
import sys
from pathlib import Path

TINY = (
    "sample n_layer=1 n_head=2 n_embd=32 block_size=64 batch_size=4 max_steps=12 warmup_steps=2 "
    "eval_interval=6 log_interval=3 learning_rate=0.01 device=cpu dtype=float32"
)


def forked(arguments, environment, log):
    """In a child that was forked from a process with the heavy imports done: seconds less than a
    start from nothing."""
    os.setsid()
    with open(log, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    main(arguments)


def main(arguments):
    place, tracking_uri, seed = arguments[0], arguments[1], int(arguments[2])
    from devopsgpt_pipeline.home import Home
    from devopsgpt_pipeline.local.servers import set_environment

    os.environ["DEVOPSGPT_TRAINING"] = f"{TINY} seed={seed}"
    home = Home(Path(place)).prepare()
    set_environment(home, tracking_uri, tracking_uri)

    import dagster as dg

    from devopsgpt_pipeline.local import chain
    from devopsgpt_pipeline.local.progress import ChainProgress
    from devopsgpt_pipeline.local.session import Session

    with ChainProgress() as progress, dg.DagsterInstance.get() as instance:
        chain.end_abandoned_runs(instance)
        from devopsgpt_pipeline.definitions import defs

        session = Session(defs, instance, progress)
        if seed % 5 == 0:  # three seconds, of which most rounds can be spared
            session.observe()
        session.update()


if __name__ == "__main__":
    main(sys.argv[1:])
