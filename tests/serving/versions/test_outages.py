"""A registry that is away, a cache that is damaged: what is served then."""

import pytest

from serving.conftest import Shelf, serving, until


@pytest.mark.parametrize("mode", ["500", "hang", "refuse"])
def test_the_service_outlives_its_registry(shelf, tmp_path, proxy, mode):
    shelf.publish(seed=1)
    with serving(
        tmp_path, tracking_uri=proxy.url, model_name=shelf.name, registry_timeout_s=1
    ) as service:
        service.wait_for("1")
        proxy.refuse() if mode == "refuse" else setattr(proxy, "mode", mode)
        until(lambda: service.ready()["registry_up"] is False)
        assert service.ready()["ready"]
        assert proxy.url in service.ready()["problem"]
        assert service.generate("x").json()["version"] == "1"
        assert service.metric("registry_up") == 0
        shelf.publish(seed=2)
        proxy.listen_again() if mode == "refuse" else setattr(proxy, "mode", "pass")
        service.wait_for("2")
        assert service.ready()["registry_up"]


def test_a_restart_without_the_registry_serves_the_last_good_version(shelf, tmp_path):
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
        expected = service.generate("hello", seed=1).json()
    nobody = "http://127.0.0.1:9"
    with serving(tmp_path, tracking_uri=nobody, model_name=shelf.name) as service:
        service.wait_for("1")
        assert service.ready()["from_cache"]
        assert nobody in service.ready()["problem"]
        assert service.generate("hello", seed=1).json() == expected
    for other in (
        {"model_name": f"{shelf.name}-b"},
        {"model_name": shelf.name, "alias": "challenger"},
    ):
        with serving(tmp_path, tracking_uri=nobody, **other) as service:
            until(lambda: service.ready()["registry_up"] is False)
            assert service.ready()["version"] is None
            assert service.generate("hello").status_code == 503


def test_a_name_of_its_own_is_not_answered_by_another_while_it_is_fetched(
    shelf, mlflow_server, tmp_path, proxy
):
    other = Shelf(mlflow_server.url)
    for each in (shelf, other):
        each.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
    proxy.mode = "stall"
    with serving(tmp_path, tracking_uri=proxy.url, model_name=other.name) as service:
        until(lambda: any("safetensors" in path for path in proxy.requests))
        assert service.ready()["version"] is None
        assert service.generate("hello").status_code == 503
        proxy.mode = "pass"
        service.wait_for("1")


def test_a_damaged_cache_is_not_served(shelf, tmp_path):
    shelf.publish(seed=1)
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
    (path,) = (tmp_path / "cache").glob("*/model/model.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    with serving(tmp_path, tracking_uri="http://127.0.0.1:9", model_name=shelf.name) as service:
        until(lambda: service.ready()["registry_up"] is False)
        assert service.generate("x").status_code == 503
    with serving(tmp_path, tracking_uri=shelf.url, model_name=shelf.name) as service:
        service.wait_for("1")
