from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

import pytest
from structlog.testing import capture_logs

from routesync.backoff import Backoff
from routesync.tasks import RESTART, Supervisor, TaskDied
from support.waiting import eventually


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise RuntimeError("no more ink")


async def finish() -> None:
    return


def ends_into(record: list[str], name: str) -> Callable[[], Coroutine[object, object, None]]:
    async def run() -> None:
        try:
            await forever()
        finally:
            await asyncio.sleep(0)
            record.append(name)

    return run


async def test_a_requested_stop_ends_the_last_started_first() -> None:
    ended: list[str] = []
    supervisor = Supervisor()
    for name in ("events", "mirror", "kernel"):
        supervisor.start(name, ends_into(ended, name))
    waiting = asyncio.create_task(supervisor.wait())
    await asyncio.sleep(0)
    supervisor.request_stop()
    await asyncio.wait_for(waiting, 30)
    assert ended == ["kernel", "mirror", "events"]
    assert supervisor.names == ()


@pytest.mark.parametrize(("run", "said"), [(fail, "no more ink"), (finish, "it ended")])
async def test_a_death_is_said_and_ends_the_whole(
    run: Callable[[], Coroutine[object, object, None]], said: str
) -> None:
    ended: list[str] = []
    supervisor = Supervisor()
    supervisor.start("other", ends_into(ended, "other"))
    await asyncio.sleep(0)
    supervisor.start("pen", run)
    with capture_logs() as logs, pytest.raises(TaskDied, match=f"pen: {said}") as caught:
        await asyncio.wait_for(supervisor.wait(), 30)
    assert ended == ["other"]
    assert [(line["event"], line["task"], line["error"]) for line in logs] == [("task_died", "pen", said)]
    assert isinstance(caught.value.__cause__, RuntimeError) is (run is fail)


async def test_a_task_with_backoff_is_started_again() -> None:
    births = 0

    async def frail() -> None:
        nonlocal births
        births += 1
        if births < 3:
            raise OSError("gone")
        await forever()

    supervisor = Supervisor()
    with capture_logs() as logs:
        supervisor.start("frail", frail, restart=Backoff(first_s=0.001, most_s=0.002))
        waiting = asyncio.create_task(supervisor.wait())
        await eventually(lambda: births == 3, what="third birth")
        supervisor.request_stop()
        await asyncio.wait_for(waiting, 30)
    assert [(line["event"], line["task"], line["error"], line["deaths"]) for line in logs] == [
        ("task_restarts", "frail", "gone", 1),
        ("task_restarts", "frail", "gone", 2),
    ]


async def test_a_task_that_does_not_stop_is_named_and_left_behind() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    ended: list[str] = []
    supervisor = Supervisor(stop_within_s=0.05)
    supervisor.start("polite", ends_into(ended, "polite"))
    supervisor.start("stubborn", stubborn)
    await asyncio.sleep(0)
    supervisor.request_stop()
    with capture_logs() as logs:
        await asyncio.wait_for(supervisor.wait(), 30)
    assert (logs[0]["event"], logs[0]["task"]) == ("task_did_not_stop", "stubborn")
    await eventually(lambda: ended == ["polite"])
    release.set()


@pytest.mark.parametrize("restart", [None, RESTART])
async def test_a_failure_on_the_way_out_is_said_but_is_no_death(restart: Backoff | None) -> None:
    async def clumsy() -> None:
        try:
            await forever()
        finally:
            raise RuntimeError("tripped at the door")

    supervisor = Supervisor()
    supervisor.start("keeps-on", forever)
    supervisor.start("clumsy", clumsy, restart=restart)
    await asyncio.sleep(0)
    with capture_logs() as logs:
        await supervisor.end("clumsy")
    assert [(line["event"], line["error"]) for line in logs] == [
        ("task_failed_while_stopping", "tripped at the door")
    ]
    assert supervisor.names == ("keeps-on",)
    supervisor.request_stop()
    await asyncio.wait_for(supervisor.wait(), 30)


async def test_cancelling_the_wait_stops_everything() -> None:
    ended: list[str] = []
    supervisor = Supervisor()
    supervisor.start("only", ends_into(ended, "only"))
    waiting = asyncio.create_task(supervisor.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended == ["only"]


async def test_a_name_is_taken_once() -> None:
    supervisor = Supervisor()
    supervisor.start("one", forever)
    with pytest.raises(ValueError, match="'one' runs already"):
        supervisor.start("one", forever)
    await supervisor.end("one")
    supervisor.start("one", forever)
    await supervisor.end("one")


async def test_a_replacement_starts_when_the_former_has_ended_and_keeps_its_place() -> None:
    record: list[str] = []

    async def successor() -> None:
        record.append("successor starts")
        await ends_into(record, "successor")()

    supervisor = Supervisor()
    supervisor.start("events", ends_into(record, "former"))
    supervisor.start("kernel", ends_into(record, "kernel"))
    await asyncio.sleep(0)
    await supervisor.replace("events", successor)
    await asyncio.sleep(0)
    assert record == ["former", "successor starts"]
    assert supervisor.names == ("events", "kernel")
    supervisor.request_stop()
    await asyncio.wait_for(supervisor.wait(), 30)
    assert record == ["former", "successor starts", "kernel", "successor"]


async def test_a_replacement_with_a_back_off_is_started_again() -> None:
    starts = 0

    async def fails_once() -> None:
        nonlocal starts
        starts += 1
        await (fail() if starts == 1 else forever())

    supervisor = Supervisor()
    with capture_logs():
        await supervisor.replace("pen", fails_once, restart=Backoff(first_s=0, most_s=0))
        await eventually(lambda: starts == 2)
        supervisor.request_stop()
        await asyncio.wait_for(supervisor.wait(), 30)


async def test_a_replacement_that_fails_ends_the_whole() -> None:
    supervisor = Supervisor()
    await supervisor.replace("pen", forever)
    await supervisor.replace("pen", fail)
    with capture_logs(), pytest.raises(TaskDied, match="pen: no more ink"):
        await asyncio.wait_for(supervisor.wait(), 30)
