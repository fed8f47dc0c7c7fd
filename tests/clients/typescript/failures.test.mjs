// Typed errors, who retries, streams that break and clients that leave.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import Anthropic from '@anthropic-ai/sdk';

import { Gateway, failureOf, textOf } from './gateway.mjs';

let gateway;
before(async () => (gateway = await Gateway.start()));
beforeEach(() => gateway.heal());
afterEach(() => gateway.untilIdle());
after(() => gateway?.stop());

// The fault, the SDK's error, the status, the type in the body, attempts upstream.
const FAILURES = [
  ['invalid_request', Anthropic.BadRequestError, 400, 'invalid_request_error', 1],
  ['authentication', Anthropic.AuthenticationError, 401, 'authentication_error', 1],
  ['permission', Anthropic.PermissionDeniedError, 403, 'permission_error', 1],
  ['not_found', Anthropic.NotFoundError, 404, 'not_found_error', 1],
  ['too_large', Anthropic.APIError, 413, 'request_too_large', 1],
  ['rate_limited', Anthropic.RateLimitError, 429, 'rate_limit_error', 3],
  // The real provider says `x-should-retry: false` with it.
  ['internal', Anthropic.InternalServerError, 500, 'api_error', 1],
  ['bad_gateway', Anthropic.InternalServerError, 502, null, 3],
  ['unavailable', Anthropic.InternalServerError, 503, null, 3],
  ['timeout', Anthropic.InternalServerError, 504, 'timeout_error', 3],
  ['overloaded', Anthropic.InternalServerError, 529, 'overloaded_error', 3],
];
// The edge answers these without the API, so without a request id.
const EDGE = new Set([413, 502, 503]);

for (const [kind, error, status, type, attempts] of FAILURES) {
  for (const stream of [false, true]) {
    test(`${kind}${stream ? ' of a stream' : ''} is its own error and is not retried twice`, async () => {
      await gateway.fail({ kind, ...(status === 429 ? { retry_after: '10ms' } : {}) });
      const { client, sent } = gateway.client({ maxRetries: 2 });
      const failure = await failureOf(client.messages.create({ stream, ...gateway.ask() }));
      assert.ok(failure instanceof error, failure);
      assert.deepEqual([failure.status, failure.type], [status, type]);
      assert.equal(failure.requestID === null, EDGE.has(status));
      assert.equal(failure.headers.get('x-should-retry'), 'false');
      assert.equal(sent.length, 1, 'the SDK retried what seawall had retried');
      assert.equal(await gateway.attempts(), attempts);
      assert.equal(failure.headers.get('x-seawall-attempts'), String(attempts));
    });
  }
}

test('529 has a class of its own', async () => {
  await gateway.fail({ kind: 'overloaded' });
  const failure = await failureOf(gateway.client().client.messages.create(gateway.ask()));
  assert.equal(failure.constructor.name, 'OverloadedError');
});

test("a body over the gateway's limit is 413", async () => {
  const { client, sent } = gateway.client();
  const messages = [{ role: 'user', content: 'x'.repeat(8 << 20) }];
  const failure = await failureOf(client.messages.create(gateway.ask({ messages })));
  assert.deepEqual([failure.status, failure.type], [413, 'request_too_large']);
  assert.match(failure.apiMessage, /^seawall: /);
  assert.deepEqual([sent.length, await gateway.attempts()], [1, 0]);
});

test('what seawall retries is not seen', async () => {
  for (const kind of ['overloaded', 'bad_gateway', 'reset_before_headers', 'truncated_json', 'truncated_body']) {
    await gateway.heal();
    await gateway.fail({ kind, attempts: [1, 2] });
    const { client, sent } = gateway.client();
    const { data, response } = await client.messages.create(gateway.ask()).withResponse();
    assert.ok(textOf(data), kind);
    assert.equal(response.headers.get('x-seawall-attempts'), '3');
    assert.deepEqual([sent.length, await gateway.attempts()], [1, 3]);
  }
});

test('a hint is kept beside the word to stop', async () => {
  await gateway.fail({ kind: 'overloaded', retry_after: '1s' });
  const failure = await failureOf(gateway.client().client.messages.create(gateway.ask()));
  assert.equal(failure.headers.get('retry-after'), '1');
  assert.equal(failure.headers.get('x-should-retry'), 'false');
  assert.equal(await gateway.attempts(), 3);
});

test('a route of one attempt leaves retrying to the SDK', async () => {
  await gateway.fail({ kind: 'overloaded' });
  const { client, sent } = gateway.client({ route: 'once', maxRetries: 1 });
  const failure = await failureOf(client.messages.create(gateway.ask()));
  assert.equal(failure.headers.get('x-should-retry'), 'true');
  assert.deepEqual(sent.map((headers) => headers.get('x-stainless-retry-count')), ['0', '1']);
  assert.equal(await gateway.attempts(), 2);
});

test("the SDK's own retries add up and do not multiply", async () => {
  // The SDK's timeout is shorter than seawall's, so that it sends the call again by itself.
  await gateway.fail({ kind: 'stall_before_content', attempts: [1, 1] }, { kind: 'overloaded' });
  const { client, sent } = gateway.client({ maxRetries: 2, timeout: 1000 });
  const failure = await failureOf(client.messages.create(gateway.ask()));
  assert.equal(failure.status, 529);
  assert.deepEqual(sent.map((headers) => headers.get('x-stainless-retry-count')), ['0', '1', '2']);
  // 3 attempts and 2 retries could have been 9.
  assert.equal(await gateway.attempts(), 3);
});

test('a gateway that is not there is a connection error', async () => {
  // Port 9 of loopback: nothing is served there.
  const { client } = gateway.client({ baseURL: 'http://127.0.0.1:9', maxRetries: 0 });
  const failure = await failureOf(client.messages.create(gateway.ask()));
  assert.ok(failure instanceof Anthropic.APIConnectionError);
});

const BREAKS = ['stream_error', 'cut_stream', 'reset_after_headers'];

for (const kind of BREAKS) {
  test(`${kind} after content is never a message`, async () => {
    await gateway.fail({ kind, after_events: 6 });
    const { client, sent } = gateway.client();
    const pieces = [];
    const stream = client.messages.stream(gateway.ask()).on('text', (piece) => pieces.push(piece));
    const failure = await failureOf(stream.finalMessage());
    assert.ok(pieces.join(''), 'the content before the break arrived');
    assert.ok(failure instanceof Anthropic.APIError, failure);
    assert.ok(['overloaded_error', 'api_error'].includes(failure.type), failure.type);
    assert.match(failure.requestID, /^req_/);
    assert.deepEqual([sent.length, await gateway.attempts()], [1, 1], 'nothing is sent again after content');
  });

  test(`${kind} before content is retried unseen`, async () => {
    const after_events = kind === 'reset_after_headers' ? 0 : 1;
    await gateway.fail({ kind, after_events, attempts: [1, 2] });
    const { client, sent } = gateway.client();
    assert.ok(textOf(await client.messages.stream(gateway.ask()).finalMessage()));
    assert.deepEqual([sent.length, await gateway.attempts()], [1, 3]);
  });
}

test('a stream that falls silent ends in an error', async () => {
  await gateway.fail({ kind: 'stall_in_stream', after_events: 6 });
  const { client } = gateway.client({ route: 'strict' });
  const failure = await failureOf(client.messages.stream(gateway.ask()).finalMessage());
  assert.ok(failure instanceof Anthropic.APIError, failure);
});

test('silence before content is retried unseen', async () => {
  await gateway.fail({ kind: 'stall_before_content', attempts: [1, 1] });
  const { client } = gateway.client({ route: 'strict' });
  assert.ok(textOf(await client.messages.stream(gateway.ask()).finalMessage()));
  assert.equal(await gateway.attempts(), 2);
});

test('a client that leaves a stream stops the provider', async () => {
  await gateway.fail({ kind: 'stall_in_stream', after_events: 6 });
  const stream = gateway.client().client.messages.stream(gateway.ask());
  stream.on('text', () => stream.abort());
  const failure = await failureOf(stream.finalMessage());
  assert.ok(failure instanceof Anthropic.APIUserAbortError);
  await gateway.untilIdle();
  assert.equal((await gateway.stats()).aborted, 1);
});

test('an abort before the answer stops the provider', async () => {
  await gateway.fail({ kind: 'stall_before_content' });
  const leaving = new AbortController();
  const call = gateway.client().client.messages.create(gateway.ask(), { signal: leaving.signal });
  const failing = failureOf(call);
  await gateway.untilBusy();
  leaving.abort();
  assert.ok((await failing) instanceof Anthropic.APIUserAbortError);
  await gateway.untilIdle();
  assert.equal((await gateway.stats()).aborted, 1);
});

for (const stream of [false, true]) {
  test(`the SDK's timeout${stream ? ' of a stream' : ''} stops the provider`, async () => {
    await gateway.fail({ kind: 'stall_before_content' });
    const { client, sent } = gateway.client({ maxRetries: 0, timeout: 1000 });
    const failure = await failureOf(client.messages.create({ stream, ...gateway.ask() }));
    assert.ok(failure instanceof Anthropic.APIConnectionTimeoutError, failure);
    await gateway.untilIdle();
    assert.deepEqual([sent.length, (await gateway.stats()).aborted], [1, 1]);
  });
}

test('of fifty streams every second breaks, and those alone', async () => {
  await gateway.fail({ kind: 'cut_stream', after_events: 6, models: ['claude-opus'] });
  const models = ['claude-opus-5-5', 'claude-sonnet-5-5'];
  // A client for each, hence a key: the breaker of a common one would hold back who comes last.
  const calls = Array.from({ length: 50 }, (_, n) =>
    gateway.client().client.messages.stream(gateway.ask({ model: models[n % 2] })).finalMessage(),
  );
  const outcomes = await Promise.allSettled(calls);
  for (const [n, { status, reason }] of outcomes.entries()) {
    assert.equal(status, n % 2 ? 'fulfilled' : 'rejected', reason);
    if (reason) assert.ok(['overloaded_error', 'api_error'].includes(reason.type), reason);
  }
});
