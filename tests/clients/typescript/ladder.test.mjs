// Streams that the provider did not write: kept and fixed ones.

import assert from 'node:assert/strict';
import { after, afterEach, before, beforeEach, test } from 'node:test';

import { Gateway, MODEL, textOf } from './gateway.mjs';

let gateway;
before(async () => (gateway = await Gateway.start()));
beforeEach(() => gateway.heal());
afterEach(() => gateway.untilIdle());
after(() => gateway?.stop());

/** The final message of a stream, the text that came on the way, and the headers before it. */
async function streamed(client, ask) {
  const pieces = [];
  const stream = client.messages.stream(ask).on('text', (piece) => pieces.push(piece));
  const { response } = await stream.withResponse();
  return { message: await stream.finalMessage(), text: pieces.join(''), headers: response.headers };
}

test('a kept stream is the message that was kept', async () => {
  const { client } = gateway.client({ route: 'kept' });
  const ask = gateway.ask();
  const first = await streamed(client, ask);
  const again = await streamed(client, ask);
  assert.equal(again.headers.get('x-seawall-rung'), 'cache');
  assert.match(again.headers.get('x-seawall-cache'), /^hit; age=/);
  assert.ok(first.text);
  assert.deepEqual([again.text, textOf(again.message)], [first.text, first.text]);
  for (const field of ['id', 'model', 'stop_reason']) assert.equal(again.message[field], first.message[field]);
  assert.equal(again.message.model, MODEL);
  assert.equal(again.message.usage.output_tokens, first.message.usage.output_tokens);
  assert.equal(textOf(await client.messages.create(ask)), first.text);
  assert.equal(await gateway.attempts(), 1);
});

test('a fixed stream is a message', async () => {
  await gateway.fail({ kind: 'overloaded' });
  const { client, sent } = gateway.client({ route: 'fixed' });
  const { message, text, headers } = await streamed(client, gateway.ask());
  assert.equal(headers.get('x-seawall-degraded'), 'static');
  assert.equal(text, textOf(message));
  assert.ok(text.startsWith('Away, "for" now: é, back in '), text);
  assert.deepEqual([message.model, message.stop_reason], ['static', 'end_turn']);
  assert.deepEqual([message.usage.input_tokens, message.usage.output_tokens], [0, 0]);
  assert.equal(sent.length, 1);
});
