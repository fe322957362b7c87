"""OpenWebText from a local hub that serves small parquet shards."""

import hashlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from devopsgpt_model.token_bins import TokenBins
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.datasets.books import DatasetError
from devopsgpt_pipeline.datasets.folder import parse_text_folders, write_folder
from devopsgpt_pipeline.datasets.openwebtext import held_out_documents, write_openwebtext
from devopsgpt_pipeline.hub.download import HubUnavailable
from devopsgpt_pipeline.hub.source import REPOSITORY, Source
from pipeline.hub.local_hub import serving_hub

PLAIN = Tokenizer.plain_bytes()
SHARDS = {
    f"plain_text/train-0000{n}-of-00003.parquet": [f"shard {n} text {i} é" for i in range(40)]
    for n in range(3)
}
PINNED = [670, 1982, 2628, 3393, 7259]  # of 8,013 documents, by datasets 5.2
FIRST, SECOND, THIRD = SHARDS

# The command that a killed run and a measured one are: a process of their own, which tells its
# peaks of memory.
PROGRAM = """
import resource, sys
from pathlib import Path
from devopsgpt_model.tokenizer import Tokenizer
from devopsgpt_pipeline.hub.source import Source
from devopsgpt_pipeline.datasets.openwebtext import held_out_documents, write_openwebtext
folder, endpoint = Path(sys.argv[1]), sys.argv[2]
source = Source(endpoint=endpoint)
write_openwebtext(folder / "bins", folder / "work", source, Tokenizer.plain_bytes())
whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
print(*(resource.getrusage(who).ru_maxrss for who in whose))
"""


def write_shards(folder, shards):
    for name, texts in shards.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"text": texts}), path, row_group_size=16)
    (folder / "README.md").write_text("OpenWebText, a little of it")


@pytest.fixture
def hub(tmp_path):
    write_shards(tmp_path / "hub", SHARDS)
    with serving_hub({f"datasets/{REPOSITORY}": tmp_path / "hub"}) as hub:
        yield hub


def make(hub, tmp_path, documents=0):
    source = Source(documents=documents, endpoint=hub.url)
    return write_openwebtext(tmp_path / "bins", tmp_path / "work", source, PLAIN)


def asked_for(hub, name):
    return [line for line in hub.asked if line.startswith("GET") and line.endswith(name)]


def documents_of(folder, split):
    return (
        PLAIN.decode_bytes(TokenBins.open(folder).tokens(split).tolist())
        .decode()
        .split("<|endoftext|>")[:-1]
    )


def test_every_document_stands_in_one_split_and_the_split_is_nanogpts(hub, tmp_path):
    meta = make(hub, tmp_path)
    everything = [text for texts in SHARDS.values() for text in texts]
    train, val = (documents_of(tmp_path / "bins", split) for split in ("train", "val"))
    assert sorted(train + val) == sorted(everything)
    # datasets' train_test_split(test_size=0.0005, seed=2357, shuffle=True): 120 documents hold out
    # one
    assert val == [everything[np.random.default_rng(2357).permutation(120)[0]]]
    assert meta.splits["train"].text_bytes == sum(len(text.encode()) for text in train)
    assert (
        meta.splits["val"].sha256
        == hashlib.sha256((tmp_path / "bins" / "val.bin").read_bytes()).hexdigest()
    )
    assert [name for name, _ in meta.splits["train"].documents] == list(SHARDS)
    assert TokenBins.open(tmp_path / "bins").meta == meta
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("count", [2, 120, 2000, 2001, 8013])
def test_the_documents_held_out_are_those_that_datasets_takes_for_nanogpt(count):
    datasets = pytest.importorskip("datasets", reason="datasets comes with the extra lm-eval")
    rows = datasets.Dataset.from_dict({"number": list(range(count))})
    theirs = rows.train_test_split(test_size=0.0005, seed=2357, shuffle=True)["test"]["number"]
    assert np.flatnonzero(held_out_documents(count, whole=True)).tolist() == sorted(theirs)


def test_the_documents_held_out_are_pinned():
    assert np.flatnonzero(held_out_documents(8013, whole=True)).tolist() == PINNED
    # nanoGPT: 8,013,769 documents, of which its val.bin holds 0.0005, rounded up
    assert held_out_documents(8_013_769, whole=True).sum() == 4007


def test_a_part_reads_only_the_shards_that_it_needs(hub, tmp_path):
    make(hub, tmp_path, documents=50)
    train, val = (documents_of(tmp_path / "bins", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (47, 3)
    assert not any("train-00002" in line for line in hub.asked)


def test_a_run_that_was_cut_off_goes_on_with_the_shard_that_was_under_way(hub, tmp_path):
    hub.missing.add(SECOND)
    with pytest.raises(HubUnavailable, match="what was encoded is kept"):
        make(hub, tmp_path)
    assert not (tmp_path / "bins").exists()
    hub.missing.clear()
    make(hub, tmp_path)
    assert [len(asked_for(hub, name)) for name in (FIRST, THIRD)] == [1, 1]
    assert len(documents_of(tmp_path / "bins", "train")) == 119


def test_a_killed_run_goes_on_too_and_gives_the_same_bins(hub, tmp_path):
    hub.held[SECOND] = threading.Event()
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), hub.url]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 20
        while not asked_for(hub, SECOND) and time.monotonic() < until:
            time.sleep(0.02)
        process.kill()
    assert asked_for(hub, SECOND)
    assert not (tmp_path / "bins").exists()
    hub.held.pop(SECOND).set()
    make(hub, tmp_path)
    assert len(asked_for(hub, FIRST)) == 1
    whole = write_openwebtext(
        tmp_path / "at once", tmp_path / "work", Source(endpoint=hub.url), PLAIN
    )
    assert TokenBins.open(tmp_path / "bins").meta == whole


def test_a_download_that_breaks_off_again_and_again_is_told_and_taken_up_later(hub, tmp_path):
    hub.cut[SECOND] = 300
    with pytest.raises(HubUnavailable):
        make(hub, tmp_path)
    hub.cut.clear()
    make(hub, tmp_path)
    assert len(asked_for(hub, FIRST)) == 1
    assert len(documents_of(tmp_path / "bins", "train")) == 119


def test_a_hub_that_fails_for_a_moment_is_asked_again(hub, tmp_path):
    hub.busy[SECOND] = 1
    make(hub, tmp_path)
    assert hub.busy[SECOND] == 0
    assert len(documents_of(tmp_path / "bins", "train")) == 119


def test_a_shard_that_is_not_what_the_hub_declares_is_refused_and_fetched_again(hub, tmp_path):
    hub.altered.add(SECOND)
    with pytest.raises(
        ValueError, match=rf"of {REPOSITORY} should have the hash \w+ and has \w+; it was removed"
    ):
        make(hub, tmp_path)
    assert list((tmp_path / "work").rglob("*.parquet")) == []
    hub.altered.clear()
    make(hub, tmp_path)
    assert len(documents_of(tmp_path / "bins", "train")) == 119


def test_a_revision_that_has_not_all_shards_is_refused(hub, tmp_path):
    (tmp_path / "hub" / SECOND).unlink()
    with pytest.raises(
        ValueError,
        match=r"has 2 parquet files at revision .*, their names say 3; name another revision",
    ):
        make(hub, tmp_path)
    for name in (FIRST, THIRD):
        (tmp_path / "hub" / name).unlink()
    with pytest.raises(ValueError, match="has 0 parquet files at revision"):
        make(hub, tmp_path)


def test_what_is_whole_is_not_fetched_again(hub, tmp_path):
    meta = make(hub, tmp_path)
    hub.asked.clear()
    assert make(hub, tmp_path) == meta
    assert hub.asked == []
    assert make(hub, tmp_path, documents=50).data_version != meta.data_version


def test_at_most_one_shard_lies_on_the_disk(hub, tmp_path):
    hub.missing.add(THIRD)
    with pytest.raises(HubUnavailable):
        make(hub, tmp_path)
    assert list((tmp_path / "work").rglob("*.parquet")) == []


def peaks_mb(tmp_path, shards, shard_mb):
    """Peak memory of the run and of the largest of its processes, in MB, for as many shards."""
    folder = tmp_path / f"{shards} shards"
    document = "".join(f"{i:05} words, " for i in range(400))  # 5 kB
    texts = [f"{i} {document}" for i in range(shard_mb * 1_000_000 // len(document))]
    write_shards(
        folder / "hub", {f"train-{n:05}-of-{shards:05}.parquet": texts for n in range(shards)}
    )
    with serving_hub({f"datasets/{REPOSITORY}": folder / "hub"}) as hub:
        command = [sys.executable, "-c", PROGRAM, str(folder), hub.url]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    return [int(peak) / 1000 for peak in answer.stdout.split()]


@pytest.mark.parametrize(
    ("sizes", "shard_mb"),
    [
        ((1, 8), 5),
        pytest.param((1, 4, 16, 32), 25, marks=[pytest.mark.slow, pytest.mark.timeout(400)]),
    ],
)
def test_memory_does_not_grow_with_the_data(tmp_path, sizes, shard_mb):
    peaks = {shards: peaks_mb(tmp_path, shards, shard_mb) for shards in sizes}
    for shards, (run, encoder) in peaks.items():
        print(
            f"{shards * shard_mb:>4} MB of text: the run {run:.0f} MB, the largest encoding "
            f"process {encoder:.0f} MB"
        )
    run, encoder = (peaks[max(sizes)][i] - peaks[1][i] for i in (0, 1))
    assert run < 20  # where kept text or tokens would be 35 MB at least
    assert encoder < 10


def test_without_a_network_it_is_told(tmp_path):
    source = Source(documents=5, endpoint="http://127.0.0.1:9", by_hand=tmp_path / "shards")
    told = (
        r"Skylion007/openwebtext could not be fetched .* of revision 79d93d786212\w+ into "
        rf"{tmp_path / 'shards'}"
    )
    with pytest.raises(HubUnavailable, match=told):
        write_openwebtext(tmp_path / "bins", tmp_path / "work", source, PLAIN)


def test_shards_put_there_by_hand_need_no_network_and_stay(hub, tmp_path):
    by_hand = hub.repositories[f"datasets/{REPOSITORY}"] / "plain_text"
    source = Source(endpoint="http://127.0.0.1:9", by_hand=by_hand)
    meta = write_openwebtext(tmp_path / "by hand", tmp_path / "work", source, PLAIN)
    assert meta.data_version == make(hub, tmp_path).data_version
    assert len(list(by_hand.iterdir())) == 3
    (tmp_path / "hub" / THIRD).unlink()
    with pytest.raises(ValueError, match="has 2 parquet files"):
        write_openwebtext(tmp_path / "whole", tmp_path / "work", source, PLAIN)
    part = Source(documents=80, endpoint=source.endpoint, by_hand=by_hand)
    assert (
        write_openwebtext(tmp_path / "part", tmp_path / "work", part, PLAIN).splits["val"].tokens
        > 0
    )


def test_more_documents_than_there_are_cannot_be_had(hub, tmp_path):
    with pytest.raises(ValueError, match="was asked for 121 documents, its shards hold 120"):
        make(hub, tmp_path, documents=121)


def test_a_folder_of_texts_holds_whole_files_out(tmp_path):
    texts = tmp_path / "texts"
    for i in range(20):
        path = texts / f"part{i % 2}" / f"note-{i}.{'md' if i % 3 else 'txt'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"note {i}")
    (texts / "picture.png").write_bytes(b"\x89")
    meta = write_folder(tmp_path / "bins", "notes", texts, PLAIN)
    names = {
        split: [name for name, _ in meta.splits[split].documents] for split in ("train", "val")
    }
    assert (len(names["train"]), len(names["val"])) == (18, 2)
    assert not set(names["train"]) & set(names["val"])
    assert documents_of(tmp_path / "bins", "val") == [
        (texts / name).read_text() for name in names["val"]
    ]


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


def test_folders_are_named_with_their_datasets(tmp_path):
    folders = parse_text_folders(f"notes={tmp_path}, runbooks=/somewhere")
    assert folders == {"notes": tmp_path, "runbooks": Path("/somewhere")}
    assert parse_text_folders("") == {}
    for wrong in ("notes", "sre=/x", "No=/x"):
        with pytest.raises(ValueError, match="DEVOPSGPT_TEXT_FOLDERS must be name=folder"):
            parse_text_folders(wrong)
