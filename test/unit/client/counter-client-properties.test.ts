/**
 * Random increments through a peer that fails at random. Every increment is in the peer's sums, or in a batch that the
 * client reports as given up; the key of such a batch tells whether the peer counted it. `SEED` replays a run, `RUNS`
 * sets the number of runs.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CounterClient, CounterClientError, type RefusedBatch } from 'summing-counters/client';
import { CounterPeer, faults } from '../../support/counter-peer.js';
import { Mulberry32 } from '../../support/mulberry32.js';
import { countOfRuns, seedOfRun } from '../../support/random-runs.js';

const keys = [
  'a',
  'page:/home',
  '__proto__',
  'constructor',
  '0',
  '10',
  'ключ',
  '😀',
  '"sum":1,"',
  '\\',
  'a much longer key',
];
const amounts = [0, 1, -1, 42, -1000, Number.MAX_SAFE_INTEGER, -Number.MAX_SAFE_INTEGER];

class Run {
  readonly random: Mulberry32;
  readonly peer: CounterPeer;
  readonly client: CounterClient;
  /** All increments that the client took, minus those that it gave up and the peer did not count. */
  readonly expected = new Map<string, bigint>();
  readonly refused: RefusedBatch[] = [];
  readonly #flushes: Promise<void>[] = [];
  readonly #hasListener: boolean;

  constructor(seed: number, peer: CounterPeer, isHarsh: boolean) {
    this.random = new Mulberry32(seed);
    this.peer = peer;
    const { random } = this;
    this.#hasListener = random.below(2) === 0;
    const batchKeysMax = 1 + random.below(6);
    this.client = new CounterClient({
      url: peer.url,
      intervalMs: 1 + random.below(4),
      batchKeysMax,
      batchBytesMax: 1 + random.below(100),
      bufferKeysMax: batchKeysMax + random.below(8),
      requestTimeoutMs: 40,
      retryBaseMs: 1,
      retryDelayMsMax: 3,
      // Harsh runs give up some batches; in the others everything must arrive.
      ...(isHarsh ? { retryForMsMax: 1 + random.below(20) } : {}),
      onError: this.#hasListener ? (error) => this.refused.push(...error.refused) : undefined,
    });
    const faultPercent = random.below(80);
    peer.behaviour.fault = () => (random.below(100) < faultPercent ? random.pick(faults) : 'none');
    if (!isHarsh) return;
    peer.behaviour.bodyBytesMax = 10 + random.below(60);
    peer.behaviour.keyBytesMax = 5 + random.below(20);
  }

  async operate(): Promise<void> {
    for (let operation = 5 + this.random.below(60); operation > 0; operation -= 1) {
      const choice = this.random.below(12);
      if (choice === 0) await this.#flush();
      else if (choice === 1) this.#flushes.push(this.#flush());
      else if (choice < 4) await new Promise((resolve) => setImmediate(resolve));
      else this.#increment(choice < 9 ? 1 : 2 + this.random.below(4));
    }
    await Promise.all(this.#flushes);
    await this.#reported(this.client.close());
  }

  #increment(count: number): void {
    const increments = Array.from(
      { length: count },
      () => [this.random.pick(keys), this.random.pick(amounts)] as const,
    );
    try {
      this.client.incrementMany(increments);
    } catch (error) {
      assert.ok(error instanceof CounterClientError && error.code === 'buffer-full', String(error));
      return;
    }
    for (const [key, amount] of increments) this.#expect(key, BigInt(amount));
  }

  #flush(): Promise<void> {
    return this.#reported(this.client.flush());
  }

  async #reported(promise: Promise<void>): Promise<void> {
    try {
      await promise;
    } catch (error) {
      assert.ok(error instanceof CounterClientError, String(error));
      assert.ok(error.refused.length > 0);
      if (!this.#hasListener) this.refused.push(...error.refused);
    }
  }

  #expect(key: string, amount: bigint): void {
    this.expected.set(key, (this.expected.get(key) ?? 0n) + amount);
  }

  check(): void {
    const { counted, requests, sums } = this.peer;
    const bodies = new Map<string, string>();
    for (const { idempotencyKey, body } of requests) {
      assert.match(idempotencyKey, /^[0-9a-f]{32}$/);
      assert.equal(bodies.get(idempotencyKey) ?? body, body, 'the content of a batch is frozen');
      bodies.set(idempotencyKey, body);
    }
    // Several waiting flushes report the same batch.
    const refused = new Map(this.refused.map((batch) => [batch.token, batch]));
    for (const { token, counted: says, increments } of refused.values()) {
      if (says === 'no') assert.ok(!counted.has(token), 'a batch that is not counted is not counted');
      if (!counted.has(token)) for (const [key, amount] of increments) this.#expect(key, BigInt(-amount));
    }
    for (const key of keys) assert.equal(sums.get(key) ?? 0n, this.expected.get(key) ?? 0n, key);
  }
}

async function runs(label: string, count: number, isHarsh: boolean): Promise<void> {
  const first = seedOfRun();
  for (let index = 0; index < count; index += 1) {
    const seed = (first + index) % 0x8000_0000;
    const peer = await CounterPeer.start();
    try {
      const run = new Run(seed, peer, isHarsh);
      await run.operate();
      run.check();
      if (!isHarsh) assert.equal(run.refused.length, 0);
    } catch (error) {
      throw new Error(`${label}: replay with SEED=${seed} RUNS=1`, { cause: error });
    } finally {
      await peer.stop();
    }
  }
  console.log(`# ${label}: SEED=${first} RUNS=${count}`);
}

test('with any failure on the way, each batch is counted once and the sums are exact', () =>
  runs('faults', countOfRuns(30), false));

test('each batch that is given up is reported with its key, and nothing else is missing or counted twice', () =>
  runs('faults and refusals', countOfRuns(30), true));
