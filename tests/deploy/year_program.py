"""Two years of rescrapes by a clock that is moved: python year_program.py HOME TRACKING_URI KEEP
on|off.

Each time a chapter has changed, so that all is made anew; a training and a dataset's download were
interrupted for good; a model of the hub has a new commit; a server was talkative. Prints a JSON
line after each: the day, trainings, and bytes on the disk by what is kept. off: no retention.
"""

import json
import os
import sys
import time
from pathlib import Path

from chaos.chain_program import TINY
from chaos.clock import move
from pipeline.sources.book_site import Server, sentence, small_site

from devopsgpt_model.atomic import write_json

DAY_S = 86_400
RESCRAPES, SPAN_DAYS = 9, 730
CHAPTER_SENTENCES = 3000  # 200 kB that change each time
STATE_BYTES, TALK_BYTES, LOG_BYTES, DOWNLOAD_BYTES = 1_000_000, 700_000, 1_000_000, 10_000


def on_disk(folder):
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*"))


def main(place, tracking_uri, keep, retention):
    site = small_site()
    server = Server(site)
    books = Path(place).with_name("books")
    books.mkdir()
    site.crawl_delay_s = 0.0
    site.book(books)
    os.environ |= {"DEVOPSGPT_BOOKS": str(books), "DEVOPSGPT_TRAINING": TINY}
    try:
        live(Path(place), tracking_uri, int(keep), retention == "on", site)
    finally:
        server.close()


def live(place, tracking_uri, keep, retained, site):
    from devopsgpt_pipeline.home import Home
    from devopsgpt_pipeline.local.servers import set_environment

    home = Home(place).prepare()
    set_environment(home, tracking_uri, tracking_uri)
    import dagster as dg

    from devopsgpt_pipeline.definitions import defs
    from devopsgpt_pipeline.local import chain
    from devopsgpt_pipeline.local.progress import ChainProgress
    from devopsgpt_pipeline.local.session import Session
    from devopsgpt_pipeline.operations.retention_job import Retention
    from devopsgpt_pipeline.sources.archive import ChapterArchive
    from devopsgpt_pipeline.tracking.client import connect, model_versions

    if not retained:
        ChapterArchive.__init__.__defaults__ = (10 * SPAN_DAYS,)  # earlier pages go without the job
    settings = dg.RunConfig(
        {"forget_what_is_old": Retention(versions=keep, log_bytes=LOG_BYTES)}
    ).to_config_dict()
    client = connect(tracking_uri)
    with ChainProgress() as progress, dg.DagsterInstance.get() as instance:
        session = Session(defs, instance, progress)
        for number in range(RESCRAPES):
            day = number * SPAN_DAYS // (RESCRAPES - 1)
            move(os.environ["CLOCK_FILE"], day * DAY_S)
            change(site, day)
            session.observe()
            session.update()
            leave_behind(home, number)
            if retained:
                chain.materialize(
                    defs.resolve_job_def("retention"), instance, progress, run_config=settings
                )
            models = sum(on_disk(folder) for folder in (home.mlflow / "artifacts").glob("*/models"))
            facts = {
                "day": day,
                "trainings": max(int(found.version) for found in model_versions(client)),
                "runs": on_disk(home.dagster),
                "versions": models,
                "notes": on_disk(home.mlflow) - models,
                "work": on_disk(home.training) + on_disk(home.checkpoints),
                "downloads": on_disk(home.hub) + on_disk(home.downloads),
                "pages": on_disk(home.chapters),
                "logs": on_disk(home.logs),
            }
            print(json.dumps(facts | {"home": on_disk(home.path)}), flush=True)
        assert chain.out_of_date(session.job, instance) == [], "retention forgot what an asset is"


def change(site, day):
    """The chapter of every day: another long text, and so a page that goes into the history."""
    paragraphs = (
        sentence(f"mark {part} of day {day}", 10) for part in range(CHAPTER_SENTENCES // 10)
    )
    site.chapters[0].inside = '<h1 class="heading">On the ferry</h1>' + "".join(
        f"<p>{text}</p>" for text in paragraphs
    )


def leave_behind(home, number):
    """What nobody goes on with, as old as the moved clock says, and a server's talk.

    A training's state, a dataset's shard, and the commit that a name stands for until the next
    time.
    """
    left(home.training / f"interrupted-{number}", "state.safetensors", STATE_BYTES)
    left(home.downloads / "openwebtext" / f"{number:012d}", "00000.bin", DOWNLOAD_BYTES)
    left(home.hub / "owner--name" / f"{number:040d}", "model.safetensors", DOWNLOAD_BYTES)
    (home.hub / "resolved").mkdir(exist_ok=True)
    write_json(
        home.hub / "resolved" / "owner--name.json",
        {"repository": "owner/name", "commit": f"{number:040d}"},
    )
    with (home.logs / "service.log").open("ab") as log:
        log.write(
            b"a line of a hundred characters, as a server writes them all day long, one after the "
            b"other......\n" * (TALK_BYTES // 97)
        )


def left(folder, name, size):
    folder.mkdir(parents=True)
    (folder / name).write_bytes(os.urandom(size))
    for path in (folder / name, folder):
        os.utime(path, (time.time(), time.time()))


if __name__ == "__main__":
    main(*sys.argv[1:])
