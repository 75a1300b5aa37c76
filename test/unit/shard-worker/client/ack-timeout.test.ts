/** The acknowledgement timeout while the wall clock is set. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { IncrementBodyScanner } from '#product/http/scanner/increment-body-scanner.js';
import { readUint64, RECORD_OFFSET } from '#product/shard-worker/protocol/record-layout.js';
import type { BatchMessage } from '#product/shard-worker/protocol/batches.js';
import { ShardClient } from '#product/shard-worker/client/shard-client.js';
import { ManualClock } from '../../../support/manual-clock.js';

const ACK_TIMEOUT_MS = 1000;

/** A client of a shard that never answers. */
class Unanswered {
  readonly clock = new ManualClock();
  readonly client = new ShardClient(this.clock);
  readonly outcomes: string[] = [];
  readonly posted: BatchMessage[] = [];
  readonly #scanner = new IncrementBodyScanner({ keyBytesMax: 512 });

  constructor() {
    this.client.connect({
      listen: () => undefined,
      receive: () => undefined,
      post: (message) => this.posted.push(message),
      close: () => undefined,
    });
  }

  submit(): void {
    const increments = this.#scanner.scan(Buffer.from('{"k":1}'), false);
    this.client.open(100);
    this.client.write(increments, 0);
    this.client.finish({ settle: (refusal) => this.outcomes.push(refusal ?? 'created') }, 1, 15);
    this.client.endTurn();
  }
}

for (const setByMs of [3_600_000, -3_600_000]) {
  test(`a wall clock that is set by ${setByMs / 3_600_000} h neither ends the timeout nor prolongs it`, () => {
    const shard = new Unanswered();
    const { clock, client } = shard;
    const acceptedAt = clock.now();
    shard.submit();
    // The first is posted; the second waits for its answer.
    shard.submit();
    clock.set(setByMs);
    clock.advance(ACK_TIMEOUT_MS);
    client.expire(ACK_TIMEOUT_MS);
    assert.deepEqual(shard.outcomes, []);
    clock.advance(1);
    client.expire(ACK_TIMEOUT_MS);
    assert.deepEqual(shard.outcomes.sort(), ['ack-timeout', 'outcome-unknown']);
    const [batch] = shard.posted;
    assert.ok(batch !== undefined);
    assert.equal(readUint64(new DataView(batch.memory), RECORD_OFFSET.acceptedAt), acceptedAt);
  });
}
