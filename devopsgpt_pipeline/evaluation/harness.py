"""lm-evaluation-harness in a process of its own.

`python -m devopsgpt_pipeline.evaluation.harness JOB.json RESULTS.json`

Its libraries read their environment (offline or not) when they are imported, and what it needs is
an extra.
"""

import json
import sys
from pathlib import Path
from typing import Any

YAML = {
    "lambada_openai": "lambada/lambada_openai.yaml",
    "wikitext": "wikitext/wikitext.yaml",
    "hellaswag": "hellaswag/hellaswag.yaml",
}


def run(job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """One run of the harness. scratch: a folder for its task files

    job: checkpoint, tasks (names), local (of tasks on local data: what replaces the dataset in the
    task's YAML), limit, batch_size, device
    returns: results, the metrics of each task, and samples, how many rows each took
    """
    import lm_eval

    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={
            "pretrained": job["checkpoint"],
            "dtype": "float32",
            "trust_remote_code": False,
        },
        tasks=job["tasks"],
        task_manager=_task_manager(job["tasks"], job["local"], scratch),
        num_fewshot=0,
        limit=job["limit"],
        batch_size=job["batch_size"],
        device=job["device"],
        bootstrap_iters=0,
        log_samples=False,
    )
    samples = {task: counts["effective"] for task, counts in results["n-samples"].items()}
    return {"results": results["results"], "samples": samples}


def _task_manager(tasks: list[str], local: dict[str, Any], scratch: Path) -> Any:
    """Knows only the chosen tasks where it can: reading the YAML of all of them takes longer than a
    small run."""
    from lm_eval import tasks as theirs

    if not set(tasks) <= set(YAML):
        return theirs.TaskManager()
    root, folder = Path(theirs.__file__).parent, scratch / "tasks"
    folder.mkdir()
    for task in tasks:
        own = {"include": str(root / YAML[task]), "task": task, **local.get(task, {})}
        (folder / f"{task}.yaml").write_text(json.dumps(own))  # JSON is YAML
    return theirs.TaskManager(include_defaults=False, include_path=folder)


if __name__ == "__main__":
    job_file, results_file = Path(sys.argv[1]), Path(sys.argv[2])
    results_file.write_text(json.dumps(run(json.loads(job_file.read_text()), job_file.parent)))
