"""Wait for an execution while a call is open: progress, cancellation, questions of the code.

What the code asks goes to the user behind the client, if that can be asked: over the legacy
wire by a request of ours within the call; over the 2026-07-28 wire by an answer that makes
the client ask and call again, with the execution in the state that it hands back. Passwords
are never asked for like that (MCP forbids it); send_input answers those, and all questions
of clients that can't be asked.
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import anyio
from mcp import MCPError
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ElicitRequest, ElicitRequestFormParams, ElicitResult, InputRequiredResult
from pydantic import BaseModel, Field

from kernelry import Execution, Session
from kernelry.errors import ConflictError
from kernelry.models import Question
from kernelry.session import Run, steering
from kernelry_mcp.callers import is_modern, may_only_have_dropped
from kernelry_mcp.context import Ctx, app_of

log = logging.getLogger(__name__)

PROGRESS_INTERVAL = 3.0  # seconds between progress notifications
PROGRESS_CHARS = 200  # of the newest output line in one
ANSWER = "answer"  # key of the question's one field, and of the request


class Answer(BaseModel):
    """What the user is asked to fill in."""

    answer: str = Field(description="What the code asks for")


@contextmanager
def interrupting(ctx: Ctx, session: Session, run: Run) -> Iterator[None]:
    """Interrupt a run in the background if the client cancels its call meanwhile.

    Setting `on_cancel` may say not to; a connection that may only have dropped leaves it alone.
    """
    try:
        yield
    except anyio.get_cancelled_exc_class():
        app = app_of(ctx)
        if app.settings.on_cancel == "interrupt" and not may_only_have_dropped(ctx):
            app.sessions.interrupt_soon(session, run)
        raise


async def wait_for(ctx: Ctx, session: Session, run: Run, seconds: float) -> None:
    """Wait for a run to end or to ask, telling the client each few seconds that it goes on."""
    pause = PROGRESS_INTERVAL if seconds > PROGRESS_INTERVAL else None
    with interrupting(ctx, session, run), anyio.move_on_after(seconds):
        while not await run.wait(pause, or_question=session.record.stdin):
            await ctx.report_progress(run.elapsed, message=newest(session, run))


def newest(session: Session, run: Run) -> str:
    """Return a line on how far a run is."""
    line = session.newest_line(run)[:PROGRESS_CHARS]
    parts = ["paused" if run.held_since else "", run.execution.progress[:PROGRESS_CHARS], line]
    return "; ".join(filter(None, parts)) or "no output yet"


@dataclass(frozen=True, slots=True)
class Asked:
    """An execution whose question was put to a user, who has reacted."""

    #: the execution
    execution: Execution
    #: the question, if the user did not want to answer; empty: that was answered
    refused: str


async def wait_and_ask(
    ctx: Ctx, session: Session, run: Run, seconds: float, *, refused: str = ""
) -> InputRequiredResult | None:
    """Wait for a run; have the user answer what its code asks meanwhile.

    Args:
        ctx: The call.
        session: Where it runs.
        run: What is waited for.
        seconds: How long; the time in which the user thinks does not count.
        refused: Id of a question that the user does not want to answer.

    Returns:
        What makes a client of the 2026-07-28 wire ask and call again; None: answer the call.
    """
    while True:
        await wait_for(ctx, session, run, seconds)
        question = run.execution.question
        if run.done.is_set() or question is None or question.id == refused:
            return None
        if question.hidden or not can_be_asked(ctx):
            return None
        if is_modern(ctx):
            return required(run, question)
        with interrupting(ctx, session, run):
            text = await ask_within(ctx, run, question)
        if text is None:
            refused = question.id
        else:
            await answer_in_time(session, run, text)


def can_be_asked(ctx: Ctx) -> bool:
    """Say whether there is a user behind the client whom it asks."""
    capabilities = ctx.client_capabilities
    elicitation = capabilities.elicitation if capabilities else None
    # Before there were modes a client declared an empty object.
    return elicitation is not None and not (elicitation.url and not elicitation.form)


async def ask_within(ctx: Ctx, run: Run, question: Question) -> str | None:
    """Ask the user within the call; None: no answer, or it is not wanted any more."""
    asking = asyncio.ensure_future(ctx.elicit(prompt_of(question), Answer))
    ending = asyncio.ensure_future(run.wait(None, unless=question))
    try:
        await asyncio.wait([asking, ending], return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            return None
        try:
            result = asking.result()
        except MCPError as error:  # it can't be asked after all; send_input is left
            log.info("a client could not ask its user: %s", error)
            return None
        return result.data.answer if result.action == "accept" else None
    finally:
        asking.cancel()
        ending.cancel()


def required(run: Run, question: Question) -> InputRequiredResult:
    """Return what makes the client ask its user and call again."""
    params = ElicitRequestFormParams(
        message=prompt_of(question), requested_schema=Answer.model_json_schema()
    )
    state = json.dumps({"execution": run.id, "question": question.id})
    return InputRequiredResult(
        input_requests={ANSWER: ElicitRequest(params=params)}, request_state=state
    )


async def asked_before(ctx: Ctx) -> Asked | None:
    """Return the execution to whose question this call brings the user's reaction.

    Returns:
        The execution, its question answered; None: this is a call like any other.
    """
    if not ctx.request_state:
        return None
    state: dict[str, str] = json.loads(ctx.request_state)
    sessions = app_of(ctx).sessions
    execution = await sessions.execution(state["execution"])
    response = (ctx.input_responses or {}).get(ANSWER)
    if not isinstance(response, ElicitResult):
        raise ToolError("the question was handed back without an answer")
    if response.action != "accept":
        return Asked(execution, state["question"])
    live, question = sessions.live_run(execution.id), execution.question
    if live and question and question.id == state["question"]:
        text = str((response.content or {}).get(ANSWER, ""))
        with anyio.CancelScope(shield=True):
            await answer_in_time(live[0], live[1], text)
    return Asked(execution, "")


async def answer_in_time(session: Session, run: Run, text: str) -> None:
    """Answer a question; that it is not asked any more is no fault of whoever answers."""
    try:
        await steering.answer(session, run, text)
    except ConflictError:
        return


def prompt_of(question: Question) -> str:
    """Return what the user is shown."""
    return question.prompt.strip() or "The code that runs asks for a line of text."
