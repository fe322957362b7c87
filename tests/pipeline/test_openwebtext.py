"""OpenWebText from a local hub that serves small parquet shards."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from devopsgpt_model.token_bins import read_meta, read_tokens
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.datasets import openwebtext
from devopsgpt_pipeline.datasets.books import DatasetError
from devopsgpt_pipeline.datasets.folder import folders_from_environment, write_folder
from devopsgpt_pipeline.datasets.openwebtext import REVISION, HubUnavailable, Source, write_openwebtext

PLAIN = Tokenizer.plain_bytes()
SHARDS = {f"data/train-0000{n}-of-00003.parquet": [f"shard {n} text {i} é" for i in range(40)] for n in range(3)}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as a dataset needs: the list of its files, and the files."""

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body):
        self.server.asked.append(f"{self.command} {self.path}")
        name = self.path.partition(f"/resolve/{REVISION}/")[2]
        if name in self.server.broken:
            self.send_error(404)
            return
        if name:
            body = (self.server.folder / name).read_bytes()
        else:
            listed = [{"rfilename": name} for name in ["README.md", *SHARDS]]
            body = json.dumps({"id": openwebtext.REPOSITORY, "sha": REVISION, "siblings": listed}).encode()
        self.send_response(200)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tmp_path):
    for name, texts in SHARDS.items():
        path = tmp_path / "hub" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": texts}), path, row_group_size=16)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.folder, server.asked, server.broken = tmp_path / "hub", [], set()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def make(hub, tmp_path, documents=0):
    source = Source(documents=documents, endpoint=f"http://127.0.0.1:{hub.server_port}")
    return write_openwebtext(tmp_path / "bins", tmp_path / "work", source, PLAIN)


def documents_of(folder, split):
    return PLAIN.decode_bytes(read_tokens(folder, split).tolist()).decode().split("<|endoftext|>")[:-1]


def test_every_document_stands_in_one_split_and_the_split_is_nanogpts(hub, tmp_path):
    meta = make(hub, tmp_path)
    everything = [text for texts in SHARDS.values() for text in texts]
    train, val = (documents_of(tmp_path / "bins", split) for split in ("train", "val"))
    assert sorted(train + val) == sorted(everything)
    # datasets' train_test_split(test_size=0.0005, seed=2357, shuffle=True): 120 documents hold out one
    assert val == [everything[np.random.default_rng(2357).permutation(120)[0]]]
    assert meta.splits["train"].text_bytes == sum(len(text.encode()) for text in train)
    assert meta.splits["val"].sha256 == hashlib.sha256((tmp_path / "bins" / "val.bin").read_bytes()).hexdigest()
    assert [name for name, _ in meta.splits["train"].documents] == list(SHARDS)
    assert read_meta(tmp_path / "bins") == meta
    assert list((tmp_path / "work").iterdir()) == []


def test_a_part_reads_only_the_shards_that_it_needs(hub, tmp_path):
    make(hub, tmp_path, documents=50)
    train, val = (documents_of(tmp_path / "bins", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (47, 3)
    assert not any("train-00002" in line for line in hub.asked)


def test_an_interrupted_run_goes_on_with_the_shard_that_was_cut_short(hub, tmp_path):
    second = list(SHARDS)[1]
    hub.broken.add(second)
    with pytest.raises(HubUnavailable, match="what was encoded is kept"):
        make(hub, tmp_path)
    assert not (tmp_path / "bins").exists()
    hub.broken.clear()
    hub.asked.clear()
    make(hub, tmp_path)
    assert not any("train-00000" in line for line in hub.asked)
    assert len(documents_of(tmp_path / "bins", "train")) == 119


def test_what_is_whole_is_not_fetched_again(hub, tmp_path):
    meta = make(hub, tmp_path)
    hub.asked.clear()
    assert make(hub, tmp_path) == meta
    assert hub.asked == []
    assert make(hub, tmp_path, documents=50).data_version != meta.data_version


def test_at_most_one_shard_lies_on_the_disk(hub, tmp_path):
    hub.broken.add(list(SHARDS)[2])
    with pytest.raises(HubUnavailable):
        make(hub, tmp_path)
    assert list((tmp_path / "work").rglob("*.parquet")) == []


def test_without_a_network_it_is_told(tmp_path):
    source = Source(documents=5, endpoint="http://127.0.0.1:9")
    with pytest.raises(HubUnavailable, match="could not be fetched from the Hugging Face hub"):
        write_openwebtext(tmp_path / "bins", tmp_path / "work", source, PLAIN)


def test_a_folder_of_texts_holds_whole_files_out(tmp_path):
    texts = tmp_path / "texts"
    for i in range(20):
        path = texts / f"part{i % 2}" / f"note-{i}.{'md' if i % 3 else 'txt'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"note {i}")
    (texts / "picture.png").write_bytes(b"\x89")
    meta = write_folder(tmp_path / "bins", "notes", texts, PLAIN)
    names = {split: [name for name, _ in meta.splits[split].documents] for split in ("train", "val")}
    assert (len(names["train"]), len(names["val"])) == (18, 2)
    assert not set(names["train"]) & set(names["val"])
    assert documents_of(tmp_path / "bins", "val") == [(texts / name).read_text() for name in names["val"]]


def test_a_folder_with_one_file_is_split_by_characters(tmp_path):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "all.txt").write_text("0123456789" * 10)
    meta = write_folder(tmp_path / "bins", "notes", tmp_path / "texts", PLAIN)
    assert (meta.splits["train"].tokens, meta.splits["val"].tokens) == (91, 11)


def test_a_folder_without_text_is_told(tmp_path):
    with pytest.raises(DatasetError, match=r"it needs files named \*\.txt or \*\.md"):
        write_folder(tmp_path / "bins", "notes", tmp_path, PLAIN)
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DatasetError, match="is not UTF-8"):
        write_folder(tmp_path / "bins", "notes", tmp_path, PLAIN)


def test_folders_are_named_in_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("DEVOPSGPT_TEXT_FOLDERS", f"notes={tmp_path}, runbooks=/somewhere")
    assert list(folders_from_environment()) == ["notes", "runbooks"]
    for wrong in ("notes", "sre=/x", "No=/x"):
        monkeypatch.setenv("DEVOPSGPT_TEXT_FOLDERS", wrong)
        with pytest.raises(ValueError, match="DEVOPSGPT_TEXT_FOLDERS must be name=folder"):
            folders_from_environment()
