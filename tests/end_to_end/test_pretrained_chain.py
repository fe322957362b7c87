"""The graph in process, from pretrained weights."""

import dataclasses

import dagster as dg
import pytest
from conftest import shared_file
from whole_chain import CHAIN, Chain

from devopsgpt_model.checkpoint import load_checkpoint
from devopsgpt_pipeline.definitions import build_definitions
from devopsgpt_pipeline.home import Home
from devopsgpt_pipeline.hub.pretrained import PRETRAINED
from devopsgpt_pipeline.local import chain
from devopsgpt_pipeline.profiles import PROFILES
from devopsgpt_pipeline.sources.books import books_of_profile


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_sre_profile_finetunes_pretrained_weights(
    mlflow_server, tmp_path, gpt2_tokenizer, monkeypatch
):
    """The chain of the profile `sre` on the sample books, from a small checkpoint in place of
    OpenAI's."""
    from devopsgpt_model.checkpoint import save_checkpoint
    from devopsgpt_model.config import GPTConfig
    from devopsgpt_model.gpt import GPT

    home = Home(tmp_path).prepare()
    small = GPTConfig(vocab_size=50257, block_size=128, n_layer=1, n_head=2, n_embd=16)
    save_checkpoint(home.pretrained / "gpt2", GPT(small).init_weights(1), gpt2_tokenizer, {})
    monkeypatch.setitem(PRETRAINED, "gpt2", dataclasses.replace(PRETRAINED["gpt2"], sha256=""))
    with dg.DagsterInstance.ephemeral() as instance:
        definitions = build_definitions(
            PROFILES["sre"], books_of_profile("sample"), home, mlflow_server.url, mlflow_server.url
        )
        whole = Chain(home, definitions, instance)
        whole.observe()
        pretrained = definitions.resolve_job_def("fetch_pretrained_gpt2")
        chain.materialize(pretrained, instance, whole.events.append, partition="gpt2")
        settings = dict(block_size=64, grad_accum_steps=2, max_steps=4, learning_rate=1e-2)
        whole.materialize(
            CHAIN, config=dataclasses.replace(PROFILES["sre"].training, device="cpu", **settings)
        )
        assert whole.stale() == []
        assert load_checkpoint(home.finetuned).tokenizer.name == "gpt2"
        assert whole.blob("evaluation", "gain_bits_per_byte") > 0

        # Tiny shakespeare from the same weights: trained and evaluated on it, judged on the books
        # all the same.
        text = shared_file("tinyshakespeare.txt").read_bytes()
        (home.text / "tinyshakespeare.txt").write_bytes(text)
        datasets, shakespeare = (
            definitions.resolve_job_def("datasets"),
            [dg.AssetKey("token_bins_shakespeare")],
        )
        chain.materialize(datasets, instance, whole.events.append, shakespeare)
        assert whole.blob("token_bins_shakespeare", "train_tokens") == 301_966
        tiny = dataclasses.replace(PROFILES["sre"].training, device="cpu", **settings)
        whole.materialize(CHAIN[5:], config=tiny, dataset="shakespeare")
        assert home.finetuned_facts()["dataset"] == "shakespeare"
        assert "than the champion" in whole.blob("champion", "decision")
