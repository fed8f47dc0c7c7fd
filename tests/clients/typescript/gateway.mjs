// `seawall serve` in front of `seawall sim`, each a process of its own on a port of its own.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import Anthropic from '@anthropic-ai/sdk';

const HERE = dirname(fileURLToPath(import.meta.url));
export const MODEL = 'claude-sonnet-5-5';
// Longest wait for a state, in milliseconds.
const BOUND = 20_000;

export class Gateway {
  static async start() {
    const gateway = new Gateway();
    try {
      await gateway.start();
    } catch (error) {
      await gateway.stop();
      throw error;
    }
    return gateway;
  }

  async start() {
    this.files = mkdtempSync(join(tmpdir(), 'seawall-clients-'));
    this.processes = [];
    this.number = 0;
    // A key of its own gives each test breakers and budgets of its own.
    const keys = Array.from({ length: 1000 }, (_, n) => `sk-node-${n}`);
    this.keys = keys.values();
    const scenario = join(this.files, 'scenario.toml');
    writeFileSync(scenario, `instant = true\nerror_latency = '0ms'\napi_keys = ${JSON.stringify(keys)}\n`);
    this.sim = await this.run('sim', '--listen', '127.0.0.1:0', '--scenario', scenario);
    const config = join(HERE, '..', 'gateway.toml');
    this.url = await this.run(
      ...['serve', '--listen', '127.0.0.1:0', '--upstream', this.sim, '--config', config],
    );
  }

  async run(...args) {
    const process_ = spawn(process.env.SEAWALL_BIN, args, { stdio: ['ignore', 'pipe', 'ignore'] });
    this.processes.push(process_);
    const lines = createInterface({ input: process_.stdout });
    const [line] = await Promise.race([once(lines, 'line'), once(lines, 'close').then(() => ['nothing'])]);
    const address = line.split(' ').at(-1);
    assert.match(address, /^http:\/\//, `${args[0]} said ${line}`);
    return address;
  }

  async stop() {
    const running = this.processes.filter((process_) => process_.exitCode === null);
    const exits = running.map((process_) => once(process_, 'exit'));
    running.forEach((process_) => process_.kill('SIGKILL'));
    await Promise.all(exits);
    rmSync(this.files, { recursive: true });
  }

  key() {
    return this.keys.next().value;
  }

  /** A call that no other test sends: the provider tells calls by their messages. */
  ask(more = {}) {
    const messages = [{ role: 'user', content: `hello ${this.number++}` }];
    return { model: MODEL, max_tokens: 200, messages, ...more };
  }

  /** A client that notes the headers of every request it sends in `sent`. */
  client({ route, defaultHeaders = {}, ...options } = {}) {
    const sent = [];
    const client = new Anthropic({
      baseURL: this.url,
      apiKey: this.key(),
      // A call that hangs fails its test, and no more.
      timeout: BOUND,
      defaultHeaders: route ? { ...defaultHeaders, 'x-seawall-route': route } : defaultHeaders,
      fetch: (url, init) => {
        sent.push(new Headers(init.headers));
        return fetch(url, init);
      },
      ...options,
    });
    return { client, sent };
  }

  async json(url, body) {
    const init = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
    const answer = await fetch(url, { ...init, signal: AbortSignal.timeout(BOUND) });
    assert.equal(answer.status, 200, await answer.clone().text());
    return answer.json();
  }

  heal() {
    return this.json(`${this.sim}/_sim/reset`, {});
  }

  fail(...faults) {
    return this.json(`${this.sim}/_sim/faults`, faults);
  }

  stats() {
    return this.json(`${this.sim}/_sim/stats`);
  }

  async attempts() {
    return (await this.stats()).attempts;
  }

  async until(state, holds) {
    const end = Date.now() + BOUND;
    for (;;) {
      const now = await state();
      if (holds(now)) return;
      assert.ok(Date.now() < end, JSON.stringify(now));
      await pause(2);
    }
  }

  /** Waits until neither the provider nor the gateway works for anybody. */
  async untilIdle() {
    await this.until(() => this.stats(), (stats) => stats.in_flight === 0);
    await this.until(() => this.json(`${this.url}/_seawall/status`), (status) => status.in_flight === 0);
  }

  untilBusy() {
    return this.until(() => this.stats(), (stats) => stats.in_flight > 0);
  }
}

export const textOf = (message) =>
  message.content
    .filter((block) => block.type === 'text')
    .map((block) => block.text)
    .join('');

/** The error that a promise fails with. */
export async function failureOf(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new assert.AssertionError({ message: 'it succeeded' });
}
