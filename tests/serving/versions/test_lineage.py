"""What a served version was made of, asked from the service."""

import json

import pytest
from openai import OpenAI

from devopsgpt_serving.errors import DamagedVersion
from devopsgpt_serving.versions.verification import read_lineage
from serving.conftest import serving

CHAPTER = {"book": "sre-book", "slug": "introduction", "content_sha256": "c" * 64}
LINEAGE = {"chapters": [CHAPTER], "runs": {"mlflow": "1"}}
DOCUMENTS = {"lineage.json": json.dumps(LINEAGE), "README.md": "---\nlicense: mit\n---\n"}


def retrieve(service):
    return OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0).models.retrieve(
        service.name
    )


def test_the_models_tags_and_lineage_are_told_also_while_the_registry_is_down(shelf, tmp_path):
    shelf.publish(documents=DOCUMENTS)
    for url in (shelf.url, "http://127.0.0.1:9"):  # nobody is there: it comes from the cache
        with serving(tmp_path, tracking_uri=url, model_name=shelf.name) as service:
            service.wait_for("1")
            assert service.ready()["from_cache"] is (url != shelf.url)
            model = retrieve(service)
            assert (model.id, model.object, model.owned_by) == (shelf.name, "model", "devopsgpt")
            assert model.created > 1_700_000_000
            assert model.lineage == LINEAGE
            assert model.tags["val_loss"] == "1.5"
            (listed,) = service.http.get("/v1/models").json()["data"]
            assert "tags" not in listed
            assert "lineage" not in listed  # the list stays short


def test_a_swap_swaps_the_lineage(shelf, tmp_path):
    shelf.publish(documents=DOCUMENTS)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        shelf.publish(seed=2)  # as versions were before lineage was recorded
        service.wait_for("2")
        assert retrieve(service).lineage == {}
        assert retrieve(service).tags["git_commit"] == "abc"


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is damaged"), ("[]", "must be an object, got list")]
)
def test_a_lineage_that_cannot_be_read_is_a_damaged_version(tmp_path, text, told):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "lineage.json").write_text(text)
    with pytest.raises(DamagedVersion, match=told):
        read_lineage(tmp_path)
