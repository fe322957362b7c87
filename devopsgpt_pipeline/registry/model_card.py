"""The model card: README.md in Hugging Face's form, written from the lineage and the evaluation of
a checkpoint.

It lies beside the weights, in the manifest like every file. Every number in it is one that was
measured or recorded.
"""

from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from devopsgpt_model.config import in_millions
from devopsgpt_pipeline.evaluation.comparison import Comparison
from devopsgpt_pipeline.evaluation.measure import Measurement
from devopsgpt_pipeline.evaluation.memorization import RUN_TOKENS
from devopsgpt_pipeline.registry.licence import front_matter_licence, terms_of_weights
from devopsgpt_pipeline.tracking.client import MODEL_NAME
from devopsgpt_pipeline.training.lineage import CURVE_FILE

CARD_FILE = "README.md"
HUB_DATASETS = {"openwebtext": "Skylion007/openwebtext", "shakespeare": "karpathy/tiny_shakespeare"}
METRICS = {
    "val_loss": "loss (nats/token)",
    "perplexity": "perplexity",
    "bits_per_byte": "bits per byte",
}

LIMITS = """\
- It goes on from a text as its data would; it follows no instructions, knows no date, and states \
what is false with the
  same ease. Check every command and every number before you act on it.
- English only, and at most {context_tokens:,} tokens of prompt and answer together.
- It can repeat its training text: asked to go on from {run_tokens} tokens of it, \
{memorization:.1%} of the sampled
  answers of {run_tokens} tokens stand in it word for word.
- What the data leaves out or gets wrong, the model does too; nothing was done against bias."""

LOADING = """\
The folder of this file, fetched from the registry, is all that is needed:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("model")
model = AutoModelForCausalLM.from_pretrained("model")
inputs = tokenizer("The service", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=40)[0]))
```

With vLLM: `vllm serve ./model`. With DevopsGPT's own service, which follows the registry's \
champion: `devopsgpt serve`,
then `curl http://127.0.0.1:8000/api/generate -H 'content-type: application/json' \
-d '{"prompt": "The service"}'`.
`lineage.json` beside this file tells every chapter, hash, setting and run; `devopsgpt lineage` \
shows it."""


def model_card(
    lineage: dict[str, Any],
    comparison: Comparison,
    context_tokens: int,
    run_url: str,
    curve: bool = False,
) -> str:
    """The card's text.

    lineage: as `lineage.json` has it; context_tokens: the model's block_size; run_url: of the run
    in MLflow that trained it; curve: whether the picture of its losses lies beside the card
    """
    parts = [
        f"---\n{_front_matter(lineage, comparison)}\n---",
        f"# {MODEL_NAME}",
        _summary(lineage, comparison),
        "## Data",
        _data(lineage),
        "## Results",
        _results(comparison),
        "## Training",
        _training(lineage, run_url, curve),
        "## Limits",
        LIMITS.format(
            context_tokens=context_tokens,
            run_tokens=RUN_TOKENS,
            memorization=comparison.memorization,
        ),
        "## How to load it",
        LOADING,
        "## Samples",
        comparison.samples_markdown(),
    ]
    return "\n\n".join(parts)


def _front_matter(lineage: dict[str, Any], comparison: Comparison) -> str:
    def result(measured: Measurement, metric: str, value: float) -> "EvalResult":
        return EvalResult(
            task_type="text-generation",
            dataset_type=measured.dataset,
            dataset_name=measured.dataset,
            dataset_split="val",
            dataset_revision=measured.data_version,
            metric_type=metric,
            metric_name=METRICS.get(metric, metric),
            metric_value=value,
        )

    pairs = comparison.measurements()
    results = [
        result(after, metric, getattr(after, metric)) for _, after in pairs for metric in METRICS
    ]
    for _, after in pairs:
        if after.dataset == comparison.dataset:
            results.append(result(after, "memorization", comparison.memorization))
    card = ModelCardData(
        **front_matter_licence(lineage["books"]),
        language="en",
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=_base_model(lineage["initial_weights"]),
        datasets=_hub_datasets(lineage),
        tags=["gpt2", "devopsgpt"],
        model_name=MODEL_NAME,
        eval_results=results,
    )
    return str(card.to_yaml()).strip()


def _base_model(weights: dict[str, str]) -> str | None:
    """The hub's name of the model that training started from; None for none of the hub's."""
    if "repository" in weights:
        return weights["repository"]
    name = weights["name"].partition("@")[0]
    return name if "/" in name else None


def _hub_datasets(lineage: dict[str, Any]) -> list[str] | None:
    """The data under the hub's name for it; None where the hub has it not."""
    known = HUB_DATASETS.get(lineage["data"]["dataset"])
    return [known] if known else None


def _training(lineage: dict[str, Any], run_url: str, curve: bool) -> str:
    """The run, its losses and its settings."""
    picture = f"\n\n![train_loss and val_loss against the step]({CURVE_FILE})" if curve else ""
    settings = "\n".join(f"    {name} = {value}" for name, value in lineage["settings"].items())
    return f"[The run in MLflow]({run_url}){picture}\n\n{settings}"


def _summary(lineage: dict[str, Any], comparison: Comparison) -> str:
    data, weights = lineage["data"], lineage["initial_weights"]
    start = "random weights" if weights["name"] == "scratch" else f"`{weights['name']}`"
    if "repository" in weights:
        start += f" ({weights['repository']} at revision {weights['revision']})"
    return (
        f"A GPT-2 of {in_millions(comparison.parameters)} parameters, trained from {start} on "
        f"`{data['dataset']}` "
        f"(data version {data['data_version']}), checkpoint sha256 {comparison.checkpoint_sha256}."
    )


def _data(lineage: dict[str, Any]) -> str:
    data = lineage["data"]
    tokens = (
        f"{data['train_tokens']:,} tokens to learn from and {data['val_tokens']:,} held out, in "
        "whole chapters "
        f"({data['tokenizer']} tokenizer, {data['vocab_size']:,} ids)."
    )
    if not lineage["books"]:
        return tokens
    rows = ["| book | chapters learned | held out | licence |", "|---|---|---|---|"]
    for book in lineage["books"]:
        splits = [one["split"] for one in lineage["chapters"] if one["book"] == book["name"]]
        counts = f"{splits.count('train')} | {splits.count('val')}"
        rows.append(f"| [{book['title']}]({book['contents_url']}) | {counts} | {book['licence']} |")
    credits = "\n".join(f"- {book['attribution']}" for book in lineage["books"])
    return f"{tokens}\n\n" + "\n".join(rows) + f"\n\n{credits}" + terms_of_weights(lineage["books"])


def _results(comparison: Comparison) -> str:
    rows = ["| dataset | | before | after |", "|---|---|---|---|"]
    for before, after in comparison.measurements():
        for metric, name in METRICS.items():
            values = f"{getattr(before, metric):.4f} | {getattr(after, metric):.4f}"
            rows.append(f"| {after.dataset} ({after.data_version}) | {name} | {values} |")
    return (
        "On the held-out part of each dataset, before this training and after it:\n\n"
        + "\n".join(rows)
    )
