from __future__ import annotations

import asyncio

from routesync.kernel.source import PAUSE_S, SHARE, ResyncSchedule

NEVER_S = 3600.0


async def _due_after_s(schedule: ResyncSchedule) -> tuple[tuple[str, ...], float]:
    loop = asyncio.get_running_loop()
    began = loop.time()
    return await schedule.due(), loop.time() - began


async def test_a_burst_of_causes_is_one_resync_after_a_pause() -> None:
    schedule = ResyncSchedule(NEVER_S)
    schedule.took(0.0)
    for cause in ("link", "address", "link"):
        schedule.request(cause)
    causes, waited_s = await _due_after_s(schedule)
    assert causes == ("link", "address")
    assert waited_s >= PAUSE_S * 0.99
    assert not schedule.pending


async def test_causes_that_never_pause_do_not_put_a_resync_off_for_ever() -> None:
    schedule = ResyncSchedule(NEVER_S)
    schedule.took(0.0)

    async def churn() -> None:
        while True:
            schedule.request("link")
            await asyncio.sleep(PAUSE_S / 5)

    churning = asyncio.create_task(churn())
    async with asyncio.timeout(30):
        assert await schedule.due() == ("link",)
    churning.cancel()


async def test_resyncs_take_at_most_a_share_of_the_time() -> None:
    schedule = ResyncSchedule(NEVER_S)
    took_s = 0.1
    schedule.took(took_s)
    schedule.request("link")
    _, waited_s = await _due_after_s(schedule)
    assert waited_s >= took_s * (1 / SHARE - 1) * 0.99


async def test_without_a_cause_a_periodic_one_comes_by_itself() -> None:
    schedule = ResyncSchedule(0.05)
    schedule.took(0.0)
    async with asyncio.timeout(30):
        assert await schedule.due() == ("periodic",)
