"""The asynchronous client, and many calls at once."""

import asyncio

import anthropic
import pytest

from gateway import text_of

STREAMS = 50


def use(gateway, work, **options):
    """Runs one coroutine with an asynchronous client."""

    async def run():
        async with anthropic.AsyncAnthropic(**gateway.options(**options)) as client:
            return await asyncio.wait_for(work(client), 60)

    return asyncio.run(run())


async def streamed(client, ask):
    async with client.messages.stream(**ask) as stream:
        return text_of(await stream.get_final_message())


def test_a_message_a_stream_a_count_and_the_models(gateway):
    ask = gateway.ask()

    async def work(client):
        message = await client.messages.create(**ask)
        assert await streamed(client, ask) == text_of(message)
        counted = await client.messages.count_tokens(model=ask["model"], messages=ask["messages"])
        assert counted.input_tokens == message.usage.input_tokens
        assert [model.id async for model in client.models.list()]

    use(gateway, work)


def test_fifty_streams_at_once_are_fifty_answers(gateway):
    asks = [gateway.ask() for _ in range(STREAMS)]

    async def work(client):
        together = await asyncio.gather(*(streamed(client, ask) for ask in asks))
        alone = await asyncio.gather(*(client.messages.create(**ask) for ask in asks))
        return together, [text_of(message) for message in alone]

    together, alone = use(gateway, work)
    assert together == alone, "no answer is mixed with another"
    assert len(set(together)) == STREAMS
    assert gateway.attempts() == 2 * STREAMS


def test_fifty_streams_of_which_every_second_breaks(gateway):
    gateway.fail("cut_stream", after_events=6, models=["claude-opus"])
    models = ["claude-opus-5-5", "claude-sonnet-5-5"]

    async def work(client):
        # A key for each: the breaker of a common one would hold back who comes last.
        calls = [
            streamed(client.with_options(api_key=gateway.key()), gateway.ask(model=models[n % 2]))
            for n in range(STREAMS)
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    for n, outcome in enumerate(use(gateway, work)):
        if n % 2:
            assert isinstance(outcome, str), outcome
        else:
            assert isinstance(outcome, anthropic.APIStatusError), outcome
            assert outcome.type in ("overloaded_error", "api_error")


def test_a_cancelled_task_stops_the_provider(gateway):
    gateway.fail("stall_before_content")

    async def work(client):
        task = asyncio.create_task(streamed(client, gateway.ask()))
        await asyncio.to_thread(gateway.until_busy)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(gateway.until_idle)

    use(gateway, work)
    assert gateway.stats()["aborted"] == 1


def test_a_failure_is_raised_once(gateway):
    gateway.fail("overloaded")

    async def work(client):
        with pytest.raises(anthropic.InternalServerError) as caught:
            await client.messages.create(**gateway.ask())
        return caught.value

    failure = use(gateway, work)
    assert (failure.status_code, failure.type) == (529, "overloaded_error")
    assert gateway.attempts() == 3
