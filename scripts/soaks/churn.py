"""Sessions that come and go, kernels that are replaced again and again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from bounds import HANG, Scale, check, memory, run, service, settled, text_of

from kernelry import SessionSpec
from kernelry.errors import KernelDeadError
from tests.faults.matrix import fault


@fault("E3")
async def cycles(scale: Scale) -> None:
    """300 times create, run, delete; what is held is the same afterwards."""
    count = scale.of(300)
    async with service() as sessions:

        async def cycle(number: int) -> None:
            session = await sessions.create(SessionSpec(id=f"s{number}"))
            found = await run(sessions, session, f"print('x' * 200_000); {number}")
            if not text_of(found).endswith(str(number)):
                check(False, f"cycle {number}: {found.error}")
            await sessions.delete(session.id)

        # The event loop's own threads come first.
        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(64)))
        for number in range(5):
            await cycle(number)
        before, rss = await settled(sessions), memory()
        began = time.monotonic()
        for number in range(5, count):
            await cycle(number)
        took = time.monotonic() - began
        after = await settled(sessions)
        print(f"   {count} cycles, {took / (count - 5) * 1000:.0f} ms each")
        print(f"   the server grew by {(memory() - rss) / count:.0f} bytes a cycle")
        check(after == before, f"held before {before}, after {after}")


@fault("E6")
async def restarts(scale: Scale) -> None:
    """100 restarts while cells are asked for all the time."""
    count = scale.of(100)
    async with service() as sessions:
        session = await sessions.create(SessionSpec(id="s"))
        bystander = await sessions.create(SessionSpec(id="bystander"))
        ends: Counter[str] = Counter()
        running = True

        async def call(number: int) -> None:
            while running:
                try:
                    asked = await sessions.run(session, f"import time; time.sleep(0.01); {number}")
                except KernelDeadError:
                    ends["refused"] += 1
                    await asyncio.sleep(0.001)
                    continue
                check_answered = await asked.wait(HANG)
                found = asked.snapshot()
                ends[found.status] += 1
                if not check_answered or (await sessions.execution(asked.id)) != found:
                    check(False, f"a call got no answer, or another: {found}")
                if found.status == "completed" and text_of(found) != str(number):
                    # The kernel may be killed between its reply and the output before it.
                    if found.outputs_complete or text_of(found):
                        check(False, f"an answer is another's: {found}")
                    ends["of them known to be cut short"] += 1

        await asyncio.gather(*(asyncio.to_thread(time.sleep, 0.05) for _ in range(64)))
        before = await settled(sessions)
        callers = [asyncio.create_task(call(number)) for number in range(8)]
        began = time.monotonic()
        try:
            for _ in range(count):
                await asyncio.sleep(0.02)
                async with asyncio.timeout(HANG):
                    await session.restart()
                if text_of(await run(sessions, bystander, "1+1")) != "2":
                    check(False, "a neighbour is disturbed")
        except TimeoutError:
            check(False, f"a restart has not ended after {HANG:g} s")
        finally:
            took = time.monotonic() - began
            running = False
        await asyncio.gather(*callers)
        print(f"   {count} restarts in {took:.1f} s; calls: {dict(ends)}")
        check(session.record.generation == count + 1, f"{session.record.generation} generations")
        check(ends["completed"] > 0 and ends["died"] > 0, "calls were answered, and met restarts")
        after = await settled(sessions)
        check(after == before, f"held before {before}, after {after}")
