/**
 * The history checker finds every kind of wrong history, and names the key, the operations and their times. Right histories
 * with all kinds of outcomes pass.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { checkHistory, type CheckOptions } from '../support/history/check-history.js';
import type { Deletion, Flush, Increment, Loss, Operation, Read, Shown, Watch } from '../support/history/history.js';

type Amounts = Readonly<Record<string, number>>;
type Sums = Readonly<Record<string, bigint>>;

/** POST /increment to `server` from `askedAt` to a ms later; status 0: no answer. */
function add(
  server: string,
  askedAt: number,
  amounts: Amounts,
  status = 202,
  more: Partial<Increment> = {},
): Increment {
  const answeredAt = status === 0 ? Number.POSITIVE_INFINITY : askedAt + 1;
  return { kind: 'increment', server, askedAt, answeredAt, members: Object.entries(amounts), status, ...more };
}

function retried(idempotencyKey: string): Partial<Increment> {
  return { idempotencyKey };
}

function read(server: string, askedAt: number, key: string, shown: bigint | null | Shown): Read {
  const all = typeof shown === 'object' && shown !== null ? shown : { sum: shown };
  return { kind: 'read', server, askedAt, answeredAt: askedAt + 1, key, ...all };
}

/** The answer's status is 200 with a sum, 404 with null, and there is none with undefined. */
function remove(server: string, askedAt: number, key: string, sum?: bigint | null, idempotencyKey?: string): Deletion {
  const answeredAt = sum === undefined ? Number.POSITIVE_INFINITY : askedAt + 1;
  const when = { server, askedAt, answeredAt, idempotencyKey };
  if (sum === undefined || sum === null) return { kind: 'delete', key, ...when, status: sum === null ? 404 : 0 };
  return { kind: 'delete', key, ...when, status: 200, sum };
}

function flush(server: string, askedAt: number, status = 200): Flush {
  return { kind: 'flush', server, askedAt, answeredAt: askedAt + 1, status };
}

function lost(server: string, at: number, increments: number): Loss {
  return { kind: 'loss', server, at, increments };
}

/** Events at these times, in seconds, in a stream of ten seconds that nothing disturbs. */
function watch(
  server: string,
  key: string,
  events: readonly (readonly [number, bigint | null])[],
  isTimely = true,
): Watch {
  const shown = events.map(([seconds, sum]) => ({ at: seconds * 1000, sum }));
  return { kind: 'watch', server, askedAt: 0, answeredAt: 10_000, key, events: shown, isTimely };
}

interface Case {
  readonly name: string;
  readonly operations: readonly Operation[];
  /** The table in the end. */
  readonly sums: Sums;
  readonly options?: CheckOptions;
}

interface WrongCase extends Case {
  readonly finds: RegExp;
}

const ones = Array.from({ length: 12 }, (_, index) => add('A', index * 2, { k: 1 }, index < 6 ? 202 : 0));

const wrong: readonly WrongCase[] = [
  {
    name: 'an acknowledged increment is not counted',
    operations: [add('A', 1, { k: 1 }), add('A', 3, { k: 4 }), add('A', 5, { k: 16 })],
    sums: { k: 17n },
    finds: /^k in the end is 17: 4 of a request to A from 3\.0 to 4\.0 ms, acknowledged, was counted 0 times/,
  },
  {
    name: 'an acknowledged increment is counted twice',
    operations: [add('A', 1, { k: 1 }), add('B', 3, { k: 4 })],
    sums: { k: 9n },
    finds: /^k .*: 4 of a request to B from 3\.0 to 4\.0 ms, acknowledged, was counted 2 times/,
  },
  {
    name: 'an increment of a counter that was never counted is lost',
    operations: [add('A', 1, { k: 0 })],
    sums: {},
    finds: /^k in the end is absent: 0 of a request to A from 1\.0 to 2\.0 ms, acknowledged, was counted 0 times/,
  },
  {
    name: 'an increment that was refused with 503 is counted',
    operations: [add('A', 1, { k: 1 }), add('A', 3, { k: 4 }, 503)],
    sums: { k: 5n },
    finds: /^k .*: 4 of a request to A from 3\.0 to 4\.0 ms, refused, was counted 1 times/,
  },
  {
    name: 'an increment without an answer is counted twice',
    operations: [add('A', 1, { k: 1 }, 0), add('A', 3, { k: 4 }, 500)],
    sums: { k: 6n },
    finds: /^k .*: 1 of a request to A from 1\.0 to Infinity ms, of unknown outcome, was counted 2 times/,
  },
  {
    name: 'a counter was never sent',
    operations: [add('A', 1, { k: 1 })],
    sums: { k: 1n, stray: 1n },
    finds: /^stray in the end is 1: nothing was sent that it can hold/,
  },
  {
    name: 'no choice among increments of unknown outcome adds up to the sum',
    operations: [add('A', 1, { k: 5 }, 0), add('A', 3, { k: 7 }, 0), add('A', 5, { k: 1 })],
    sums: { k: 7n },
    finds: /^k .* is 7: no choice of these adds up to it: .*7 of a request to A from 3\.0 to Infinity ms/,
  },
  {
    name: 'one of equal acknowledged increments is lost',
    operations: ones,
    sums: { k: 5n },
    finds: /^k .* is 5: it must be from 6 to 12 and hold 1 of a request to A from 10\.0 to 11\.0 ms, acknowledged/,
  },
  {
    name: 'more was counted than sent',
    operations: ones,
    sums: { k: 13n },
    finds: /^k .* is 13: it must be from 6 to 12 however these ended: 1 of a request to A from 22\.0 to Infinity ms/,
  },
  {
    name: 'a retry was counted as well',
    operations: [
      add('A', 1, { k: 4 }, 0, retried('once')),
      add('B', 9, { k: 4 }, 202, retried('once')),
      add('A', 11, { k: 1 }),
    ],
    sums: { k: 9n },
    finds:
      /^k .*: 4 of a request once to A from 1\.0 to Infinity ms, again to B from 9\.0 to 10\.0 ms, acknowledged, was counted 2/,
  },
  {
    name: 'an idempotent request is counted in part',
    operations: [add('A', 1, { k: 1, l: 1 }, 0, retried('whole'))],
    sums: { k: 1n },
    finds: /^only a part of a request whole to A from 1\.0 to Infinity ms, of unknown outcome, was counted/,
  },
  {
    name: 'a retry is answered as a mismatch',
    operations: [add('A', 1, { k: 1 }, 202, retried('same')), add('A', 3, { k: 1 }, 422, retried('same'))],
    sums: { k: 1n },
    finds:
      /^a request same to A from 3\.0 to 4\.0 ms, refused, was answered 422, but was never sent with other content/,
  },
  {
    name: 'a first attempt is answered as a replay',
    operations: [add('A', 1, { k: 1 }, 202, { idempotencyKey: 'first', isReplayed: true })],
    sums: { k: 1n },
    finds:
      /^a request first to A from 1\.0 to 2\.0 ms, acknowledged, was answered as a replay, but was not sent before/,
  },
  {
    name: 'a read misses what the same server has acknowledged',
    operations: [add('A', 1, { k: 1 }), add('A', 3, { k: 4 }), read('A', 5, 'k', 1n)],
    sums: { k: 5n },
    finds:
      /^k read at A from 5\.0 to 6\.0 ms is 1: 4 of a request to A from 3\.0 to 4\.0 ms, acknowledged, was counted 0 times/,
  },
  {
    name: 'a read shows what was not sent yet',
    operations: [add('A', 1, { k: 1 }), read('A', 5, 'k', 5n), add('A', 7, { k: 4 })],
    sums: { k: 5n },
    finds:
      /^k read at A from 5\.0 to 6\.0 ms is 5: 4 of a request to A from 7\.0 to 8\.0 ms, acknowledged, was counted 1 times/,
  },
  {
    name: 'a read shows what was refused',
    operations: [add('A', 1, { k: 1 }), add('A', 3, { k: 4 }, 503), read('A', 5, 'k', 5n)],
    sums: { k: 1n },
    finds:
      /^k read at A from 5\.0 to 6\.0 ms is 5: 4 of a request to A from 3\.0 to 4\.0 ms, refused, was counted 1 times/,
  },
  {
    name: 'what a server has shown goes back',
    operations: [...ones, read('A', 30, 'k', 9n), read('A', 40, 'k', 8n)],
    sums: { k: 9n },
    finds: /^k read at A from 40\.0 to 41\.0 ms is 8, but k read at A from 30\.0 to 31\.0 ms was 9/,
  },
  {
    name: 'an increment without an answer is shown, and a later read has others instead',
    operations: [add('A', 1, { k: 4 }, 0), read('A', 5, 'k', 4n), add('A', 7, { k: 16 }), read('A', 9, 'k', 16n)],
    sums: { k: 20n },
    finds: /^k read at A from 9\.0 to 10\.0 ms is 16: 4 of a request to A from 1\.0 to Infinity ms, .* counted 0 times/,
  },
  {
    name: 'a flush succeeds, and another server does not show what it commits',
    operations: [add('A', 1, { k: 4 }), flush('A', 3), read('B', 5, 'k', null)],
    sums: { k: 4n },
    finds: /^k read at B from 5\.0 to 6\.0 ms is absent: 4 of a request to A from 1\.0 to 2\.0 ms, .* counted 0 times/,
  },
  {
    name: 'what was committed goes back at another server',
    operations: [...ones, read('A', 30, 'k', { committed: 9n }), read('B', 40, 'k', { committed: 8n })],
    sums: { k: 9n },
    options: { isShared: true },
    finds:
      /^k read at B, committed, from 40\.0 to 41\.0 ms is 8, but k read at A, committed, from 30\.0 to 31\.0 ms was 9/,
  },
  {
    name: 'what was committed is not in the end',
    operations: [
      add('A', 1, { k: 4 }, 0),
      add('A', 3, { k: 1 }),
      read('A', 5, 'k', { sum: 5n, committed: 4n, pending: 1n }),
      read('B', 9, 'k', { committed: 1n }),
    ],
    sums: { k: 5n },
    finds: /^k read at B, committed, from 9\.0 to 10\.0 ms is 1: 4 of a request to A from 1\.0 to Infinity ms/,
  },
  {
    name: 'a document does not add up',
    operations: [add('A', 1, { k: 4 }), read('A', 3, 'k', { sum: 4n, committed: 4n, pending: 4n })],
    sums: { k: 4n },
    finds: /^k read at A from 3\.0 to 4\.0 ms is 4, but 4 committed and 4 pending/,
  },
  {
    name: 'a deletion misses what its server has acknowledged',
    operations: [add('A', 1, { k: 1 }), add('A', 3, { k: 4 }), remove('A', 5, 'k', 1n)],
    sums: { k: 4n },
    finds:
      /^k deleted at A from 5\.0 to 6\.0 ms is 1: 4 of a request to A from 3\.0 to 4\.0 ms, acknowledged, was counted 0 times/,
  },
  {
    name: 'a deletion holds what was sent after it',
    operations: [add('A', 1, { k: 1 }), remove('A', 3, 'k', 5n), add('A', 7, { k: 4 })],
    sums: {},
    finds:
      /^k deleted at A from 3\.0 to 4\.0 ms is 5: 4 of a request to A from 7\.0 to 8\.0 ms, acknowledged, was counted 1 times/,
  },
  {
    name: 'an increment is on both sides of a deletion',
    operations: [add('B', 1, { k: 4 }), remove('A', 3, 'k', 4n)],
    sums: { k: 4n },
    finds: /^k in the end, with what was deleted, is 8: 4 of a request to B from 1\.0 to 2\.0 ms, .* counted 2 times/,
  },
  {
    name: 'an increment is on neither side of a deletion',
    operations: [add('A', 1, { k: 1 }), add('B', 1, { k: 4 }), remove('A', 3, 'k', 1n)],
    sums: {},
    finds: /^k in the end, with what was deleted, is 1: 4 of a request to B from 1\.0 to 2\.0 ms, .* counted 0 times/,
  },
  {
    name: 'a retry of a deletion is answered otherwise',
    operations: [
      add('A', 1, { k: 4 }),
      remove('A', 3, 'k', 4n, 'd'),
      add('A', 5, { k: 1 }),
      remove('A', 7, 'k', 1n, 'd'),
    ],
    sums: {},
    finds: /^k deleted again at A from 7\.0 to 8\.0 ms was 1, but the first answer was 4/,
  },
  {
    name: 'a read still shows what was deleted',
    operations: [add('A', 1, { k: 4 }), remove('A', 3, 'k', 4n), read('B', 7, 'k', 4n)],
    sums: {},
    finds: /^k read at B from 7\.0 to 8\.0 ms is 4: nothing was sent that it can hold/,
  },
  {
    name: 'a change shows in a watch after more than two seconds',
    operations: [
      watch('A', 'k', [
        [0.01, null],
        [4, 4n],
      ]),
      add('A', 1_000, { k: 4 }),
    ],
    sums: { k: 4n },
    finds: /^k watched at A from 2000\.0 to 10\.0 ms is absent: 4 of a request to A from 1000\.0 to 1001\.0 ms/,
  },
  {
    name: 'a watch goes back',
    operations: [
      ...ones,
      watch(
        'A',
        'k',
        [
          [1, 8n],
          [2, 9n],
          [3, 8n],
        ],
        false,
      ),
    ],
    sums: { k: 9n },
    finds: /^k watched at A from 0\.0 to 3000\.0 ms is 8, but k watched at A from 0\.0 to 2000\.0 ms was 9/,
  },
  {
    name: 'more is missing than servers said that they lost',
    operations: [...ones, add('A', 30, { l: 1 }), add('A', 32, { l: 4 }), lost('A', 40, 2)],
    sums: { k: 5n },
    finds: /^3 acknowledged increments are missing, but servers said that they lost 2/,
  },
  {
    name: 'an increment is missing that another server said it lost, or that was committed before',
    operations: [add('A', 1, { k: 1 }), flush('A', 3), add('B', 1, { k: 4 }), lost('A', 7, 2)],
    sums: {},
    finds:
      /^k .* is absent: 4 of a request to B .* counted 0 times\nk .* is absent: 1 of a request to A .* counted 0 times$/,
  },
];

const right: readonly Case[] = [
  {
    name: 'acknowledged, refused and unanswered increments',
    operations: [
      add('A', 1, { k: 1, l: 7 }),
      add('A', 3, { k: 4, l: 7 }, 503),
      add('A', 5, { k: 16, l: -9 }, 0),
      add('A', 7, { k: 64 }, 500),
      add('A', 9, { k: 256 }, 400),
    ],
    sums: { k: 17n, l: 7n },
  },
  {
    name: 'a member twice, zero, and equal amounts',
    operations: [
      ...ones,
      add('A', 40, {}, 202, {
        members: [
          ['k', 1],
          ['k', 1],
          ['zero', 0],
        ],
      }),
    ],
    sums: { k: 11n, zero: 0n },
  },
  {
    name: 'a retry that shows beside its original until its flush',
    operations: [
      add('A', 1, { k: 4 }, 0, retried('r')),
      read('B', 3, 'k', { sum: 4n, committed: 4n, pending: 0n }),
      add('B', 5, { k: 4 }, 202, { idempotencyKey: 'r' }),
      read('B', 7, 'k', { sum: 8n, committed: 4n, pending: 4n }),
      read('B', 9, 'k', 4n),
      add('B', 11, { k: 4 }, 202, { idempotencyKey: 'r', isReplayed: true }),
    ],
    sums: { k: 4n },
  },
  {
    name: 'other content under the same Idempotency-Key, known and unknown',
    operations: [
      add('A', 1, { k: 1 }, 202, retried('m')),
      add('A', 3, { k: 4 }, 422, retried('m')),
      add('B', 5, { k: 4 }, 202, retried('m')),
    ],
    sums: { k: 1n },
  },
  {
    name: 'a refused attempt that a retry makes good, as a whole',
    operations: [add('A', 1, { k: 1, l: 1 }, 503, retried('w')), add('B', 3, { l: 1, k: 1 }, 202, retried('w'))],
    sums: { k: 1n, l: 1n },
  },
  {
    name: 'reads that overlap increments, and reads at another server that lag',
    operations: [
      add('A', 1, { k: 1 }),
      add('A', 3, { k: 4 }, 202, { answeredAt: 20 }),
      read('A', 5, 'k', 1n),
      read('A', 7, 'k', 5n),
      read('B', 9, 'k', null),
      flush('A', 11, 503),
      read('B', 13, 'k', null),
      flush('A', 21),
      read('B', 23, 'k', { sum: 5n, committed: 5n, pending: 0n }),
    ],
    sums: { k: 5n },
  },
  {
    name: 'pending sums that move to another server and show there',
    operations: [
      ...ones,
      read('A', 30, 'k', 9n),
      read('B', 32, 'k', 9n),
      read('B', 40, 'k', null),
      read('B', 42, 'k', { committed: 9n }),
    ],
    sums: { k: 9n },
    options: { isShared: true },
  },
  {
    name: 'deletions with what is acknowledged elsewhere on either side, and a counter that begins anew',
    operations: [
      add('A', 1, { k: 1 }),
      add('B', 1, { k: 4 }),
      add('B', 1, { k: 16 }),
      remove('A', 3, 'k', 5n),
      read('B', 5, 'k', 16n),
      add('A', 7, { k: 64 }, 202, { answeredAt: 20 }),
      remove('B', 9, 'k', 16n),
      remove('B', 30, 'k', 64n, 'd'),
      remove('B', 32, 'k', 64n, 'd'),
      read('A', 34, 'k', null),
      remove('A', 36, 'k', null),
    ],
    sums: {},
  },
  {
    name: 'a deletion without an answer took what was sent before its end, or did not',
    operations: [
      add('A', 1, { k: 1, l: 1 }),
      remove('A', 3, 'k'),
      remove('A', 3, 'l'),
      add('A', 5, { k: 4, l: 4 }),
      read('A', 7, 'k', 4n),
    ],
    sums: { k: 4n, l: 5n },
  },
  {
    name: 'watches in time, and one behind an outage',
    operations: [
      watch('A', 'k', [
        [0.01, null],
        [2.9, 4n],
        [5, 20n],
      ]),
      watch(
        'B',
        'k',
        [
          [0.01, null],
          [9, 20n],
        ],
        false,
      ),
      add('A', 1_000, { k: 4 }),
      add('A', 4_000, { k: 16 }),
    ],
    sums: { k: 20n },
  },
  {
    name: 'as many increments are missing as a server said that it lost',
    operations: [...ones, add('A', 30, { l: 1 }), add('A', 32, { l: 4 }), lost('A', 40, 3), read('A', 50, 'l', 4n)],
    sums: { k: 5n, l: 0n },
  },
];

function violations({ operations, sums, options }: Case): string {
  return checkHistory(operations, new Map(Object.entries(sums)), options).join('\n');
}

test(`each of ${wrong.length} wrong histories is found`, () => {
  for (const each of wrong) assert.match(violations(each), each.finds, each.name);
});

test('right histories with every kind of outcome pass', () => {
  for (const each of right) assert.equal(violations(each), '', each.name);
});
