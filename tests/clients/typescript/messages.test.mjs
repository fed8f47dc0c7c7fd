// What works on a good day.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import Anthropic from '@anthropic-ai/sdk';

import { Gateway, MODEL, failureOf, textOf } from './gateway.mjs';

let gateway;
before(async () => (gateway = await Gateway.start()));
beforeEach(() => gateway.heal());
afterEach(() => gateway.untilIdle());
after(() => gateway?.stop());

const TOOL = {
  name: 'tide_table',
  description: 'When the sea rises.',
  input_schema: {
    type: 'object',
    properties: { harbour: { type: 'string' }, days: { type: 'integer' } },
    required: ['harbour', 'days'],
  },
};

test('a message is created', async () => {
  const message = await gateway.client().client.messages.create(gateway.ask());
  assert.deepEqual([message.type, message.role, message.model], ['message', 'assistant', MODEL]);
  assert.ok(['end_turn', 'max_tokens'].includes(message.stop_reason));
  assert.ok(message.usage.input_tokens > 0 && message.usage.output_tokens > 0);
  assert.ok(textOf(message));
  assert.match(message._request_id, /^req_/);
});

test('the answer says what it took', async () => {
  const { client } = gateway.client();
  const { data, response, request_id } = await client.messages.create(gateway.ask()).withResponse();
  assert.ok(textOf(data));
  assert.match(request_id, /^req_/);
  assert.equal(response.headers.get('x-seawall-attempts'), '1');
  assert.equal(response.headers.get('x-seawall-rung'), 'up');
  assert.ok(response.headers.get('anthropic-ratelimit-requests-limit'));
});

test('a stream holds the same message', async () => {
  const { client } = gateway.client();
  const ask = gateway.ask();
  const whole = await client.messages.create(ask);
  const pieces = [];
  const stream = client.messages.stream(ask).on('text', (piece) => pieces.push(piece));
  const final = await stream.finalMessage();
  assert.ok(pieces.length > 1);
  assert.equal(pieces.join(''), textOf(whole));
  assert.equal(textOf(final), textOf(whole));
  assert.equal(final.usage.output_tokens, whole.usage.output_tokens);
  assert.match(stream.request_id, /^req_/);
});

test('a raw stream has its events in order', async () => {
  const { client } = gateway.client();
  const events = [];
  for await (const event of await client.messages.create({ stream: true, ...gateway.ask() })) {
    events.push(event.type);
  }
  assert.deepEqual(events.slice(0, 2), ['message_start', 'content_block_start']);
  assert.deepEqual(events.slice(-3), ['content_block_stop', 'message_delta', 'message_stop']);
  assert.deepEqual([...new Set(events.slice(2, -3))], ['content_block_delta']);
});

test('a tool is called and its result answered', async () => {
  const { client } = gateway.client();
  const ask = gateway.ask({ tools: [TOOL] });
  const called = await client.messages.create({ ...ask, tool_choice: { type: 'any' } });
  assert.equal(called.stop_reason, 'tool_use');
  const [use] = called.content.filter((block) => block.type === 'tool_use');
  assert.equal(use.name, 'tide_table');
  assert.deepEqual(Object.keys(use.input).sort(), ['days', 'harbour']);
  ask.messages.push(
    { role: 'assistant', content: called.content },
    { role: 'user', content: [{ type: 'tool_result', tool_use_id: use.id, content: 'at noon' }] },
  );
  assert.ok(textOf(await client.messages.create(ask)));
});

test("a tool's input is streamed", async () => {
  const ask = gateway.ask({ tools: [TOOL], tool_choice: { type: 'tool', name: 'tide_table' } });
  const parts = [];
  const stream = gateway.client().client.messages.stream(ask);
  stream.on('inputJson', (part) => parts.push(part));
  const [use] = (await stream.finalMessage()).content;
  assert.deepEqual(Object.keys(use.input).sort(), ['days', 'harbour']);
  assert.deepEqual(JSON.parse(parts.join('')), { ...use.input });
});

test('thinking comes before the text and goes back', async () => {
  const { client } = gateway.client();
  const ask = gateway.ask({ max_tokens: 2000, thinking: { type: 'adaptive' } });
  const whole = await client.messages.create(ask);
  const thoughts = [];
  const stream = client.messages.stream(ask).on('thinking', (part) => thoughts.push(part));
  const streamed = await stream.finalMessage();
  for (const message of [whole, streamed]) {
    assert.deepEqual(message.content.map((block) => block.type), ['thinking', 'text']);
    assert.ok(message.content[0].signature);
    assert.equal(message.content[0].thinking, thoughts.join(''));
  }
  ask.messages.push({ role: 'assistant', content: streamed.content }, { role: 'user', content: 'and then?' });
  assert.ok(textOf(await client.messages.create(ask)));
});

test('a beta call goes the same way', async () => {
  const betas = ['interleaved-thinking-2025-05-14', 'never-heard-of-2027-01-01'];
  const { client } = gateway.client();
  assert.ok(textOf(await client.beta.messages.create({ betas, ...gateway.ask() })));
});

test('counted tokens are those that are billed', async () => {
  const { client } = gateway.client();
  const { max_tokens, ...counted } = gateway.ask({ system: 'Speak of the sea.' });
  const message = await client.messages.create({ max_tokens, ...counted });
  const { input_tokens } = await client.messages.countTokens(counted);
  assert.equal(input_tokens, message.usage.input_tokens);
});

test('models are listed and found', async () => {
  const { client } = gateway.client();
  const models = [];
  for await (const model of client.models.list({ limit: 1000 })) models.push(model);
  assert.ok(models.some((model) => model.id === MODEL));
  assert.ok(models.every((model) => model.display_name.startsWith('Claude ')));
  assert.equal((await client.models.retrieve(MODEL)).id, MODEL);
});

for (const name of ['ANTHROPIC_API_KEY', 'ANTHROPIC_AUTH_TOKEN']) {
  test(`${name} and ANTHROPIC_BASE_URL are enough`, async () => {
    Object.assign(process.env, { ANTHROPIC_BASE_URL: gateway.url, [name]: gateway.key() });
    try {
      assert.ok(textOf(await new Anthropic().messages.create(gateway.ask())));
    } finally {
      delete process.env.ANTHROPIC_BASE_URL;
      delete process.env[name];
    }
    assert.equal(await gateway.attempts(), 1);
  });
}

test('every form of the credential is taken', async () => {
  for (const [options, form] of [
    [{}, 'authorization'],
    [{ apiKey: null, authToken: gateway.key() }, 'authorization'],
    [{ defaultHeaders: { 'x-api-key': gateway.key(), authorization: null } }, 'x-api-key'],
    [{ defaultHeaders: { 'x-api-key': gateway.key() } }, 'x-api-key'],
  ]) {
    const { client, sent } = gateway.client(options);
    assert.ok(textOf(await client.messages.create(gateway.ask())));
    assert.ok(sent[0].has(form), form);
  }
  assert.equal(await gateway.attempts(), 4);
});

test('a key that the provider does not know is refused by it', async () => {
  for (const options of [{ apiKey: 'sk-unknown' }, { apiKey: null, authToken: 'unknown' }]) {
    const failure = await failureOf(gateway.client(options).client.messages.create(gateway.ask()));
    assert.ok(failure instanceof Anthropic.AuthenticationError);
    assert.equal(failure.type, 'authentication_error');
    assert.match(failure.requestID, /^req_/);
  }
});

test('fifty streams at once are fifty answers', async () => {
  const { client } = gateway.client();
  const asks = Array.from({ length: 50 }, () => gateway.ask());
  const streamed = await Promise.all(asks.map((ask) => client.messages.stream(ask).finalMessage()));
  const alone = await Promise.all(asks.map((ask) => client.messages.create(ask)));
  assert.deepEqual(streamed.map(textOf), alone.map(textOf));
  assert.equal(new Set(streamed.map(textOf)).size, 50);
  assert.equal(await gateway.attempts(), 100);
});
