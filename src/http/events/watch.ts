/**
 * GET /watch: events for the counters that a client follows. HTTP thread.
 *
 * Once a second the keys of the watchers of a phase are read, each once, in exact reads of a bounded size. Events are written
 * in slices of a few milliseconds. So neither an acknowledgement nor another read waits for all watchers.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CounterError } from '../../core/errors.js';
import { READ_KEYS_MAX, type CounterOperations, type ReadResult } from '../../core/counter-operations.js';
import type { RequestedCounterDocument } from '../documents.js';
import { documentText, type HttpRequestHead } from '../reply.js';
import { keysOf, parseQuery } from '../request-parameters.js';
import { counterDocument, KEYS_MAX, utf8Text } from '../routes.js';
import { eventText, type EventStream } from './event-stream.js';
import { Phases } from './phases.js';

/** How long events are written before other work of the thread gets its turn. */
const SLICE_MS = 2;

/** A key that somebody watches. All watchers of a key share it. */
interface WatchedKey {
  readonly bytes: Uint8Array;
  readonly text: string;
  watchers: number;
}

/** What a poll has found of a key: the sum as text, and the event that says so. */
interface Found {
  readonly sum: string;
  readonly event: string;
}

/** `unavailable`: the database did not answer. Undefined: try again a second later. */
type PollResult = Found | 'unavailable' | undefined;

interface Watcher {
  readonly stream: EventStream;
  readonly keys: readonly WatchedKey[];
  /** The sum that the client was told last, for each key. */
  readonly told: (string | undefined)[];
}

/** The watchers of an HTTP server. */
export class Watchers {
  readonly #operations: Pick<CounterOperations, 'read'>;
  readonly #keyBytesMax: number;
  readonly #reportBug: (error: unknown) => void;
  readonly #keys = new Map<string, WatchedKey>();
  /** Watchers whose first events are to be read next. */
  #new = new Set<Watcher>();
  #isReadingNew = false;
  /** Phases whose poll has not ended. */
  readonly #polling = new Set<ReadonlySet<Watcher>>();
  readonly #watchers = new Phases<Watcher>((watchers) => {
    void this.#pollPhase(watchers);
  });

  /** `keyBytesMax` is MAX_KEY_BYTES. */
  constructor(
    operations: Pick<CounterOperations, 'read'>,
    { keyBytesMax, reportBug }: { readonly keyBytesMax: number; readonly reportBug: (error: unknown) => void },
  ) {
    this.#operations = operations;
    this.#keyBytesMax = keyBytesMax;
    this.#reportBug = reportBug;
  }

  /** The keys that a request names. Throws CounterError `invalid-request`. */
  keysOf(head: HttpRequestHead): readonly Uint8Array[] {
    const keys = keysOf(parseQuery(head.query), KEYS_MAX, this.#keyBytesMax);
    const distinct = new Map(keys.map((key) => [utf8Text(key), key]));
    return [...distinct.values()];
  }

  /** Tells the sums of the keys on `stream`, now and whenever they change, until the returned function is called. */
  add(stream: EventStream, keys: readonly Uint8Array[]): () => void {
    const watcher: Watcher = { stream, keys: keys.map((key) => this.#take(key)), told: [] };
    this.#new.add(watcher);
    void this.#readNew();
    return () => {
      this.#new.delete(watcher);
      this.#watchers.delete(watcher);
      for (const key of watcher.keys) this.#release(key);
    };
  }

  #take(bytes: Uint8Array): WatchedKey {
    const text = utf8Text(bytes);
    const key = this.#keys.get(text) ?? { bytes: new Uint8Array(bytes), text, watchers: 0 };
    this.#keys.set(text, key);
    key.watchers += 1;
    return key;
  }

  #release(key: WatchedKey): void {
    key.watchers -= 1;
    if (key.watchers === 0) this.#keys.delete(key.text);
  }

  /** Reads for all watchers that have come since the last such read. From then on they have a beat of their own. */
  async #readNew(): Promise<void> {
    if (this.#isReadingNew) return;
    this.#isReadingNew = true;
    await nextTurn();
    while (this.#new.size > 0) {
      const watchers = this.#new;
      this.#new = new Set();
      await this.#poll(watchers);
      for (const watcher of watchers) if (!watcher.stream.isOver) this.#watchers.add(watcher);
    }
    this.#isReadingNew = false;
  }

  /** A poll that takes more than a second makes the next one of its phase fall out. */
  async #pollPhase(watchers: ReadonlySet<Watcher>): Promise<void> {
    if (this.#polling.has(watchers)) return;
    this.#polling.add(watchers);
    await this.#poll(watchers);
    this.#polling.delete(watchers);
  }

  async #poll(watchers: ReadonlySet<Watcher>): Promise<void> {
    try {
      const keys = new Set<WatchedKey>();
      for (const watcher of watchers) for (const key of watcher.keys) keys.add(key);
      const found = await this.#readAll([...keys]);
      let sliceEnd = performance.now() + SLICE_MS;
      // A copy: a watcher that does not read leaves the set.
      for (const watcher of [...watchers]) {
        tell(watcher, found);
        if (performance.now() < sliceEnd) continue;
        await nextTurn();
        sliceEnd = performance.now() + SLICE_MS;
      }
    } catch (error) {
      this.#reportBug(error);
    }
  }

  async #readAll(keys: readonly WatchedKey[]): Promise<ReadonlyMap<WatchedKey, PollResult>> {
    const found = new Map<WatchedKey, PollResult>();
    for (let start = 0; start < keys.length; start += READ_KEYS_MAX) {
      const part = keys.slice(start, start + READ_KEYS_MAX);
      const results = await this.#read(part);
      part.forEach((key, index) => {
        found.set(key, typeof results === 'string' ? results : foundOf(key, results?.[index]));
      });
    }
    return found;
  }

  async #read(keys: readonly WatchedKey[]): Promise<readonly ReadResult[] | 'unavailable' | undefined> {
    try {
      return await this.#operations.read(keys.map(({ bytes }) => bytes));
    } catch (error) {
      if (!(error instanceof CounterError)) throw error;
      return error.code === 'database-unavailable' ? 'unavailable' : undefined;
    }
  }
}

/** Writes the events of what has changed; after the database was unavailable, of everything. */
function tell({ stream, keys, told }: Watcher, found: ReadonlyMap<WatchedKey, PollResult>): void {
  let events = '';
  keys.forEach((key, index) => {
    const result = found.get(key);
    if (result === 'unavailable') told[index] = undefined;
    else if (result !== undefined && told[index] !== result.sum) {
      told[index] = result.sum;
      events += result.event;
    }
  });
  if (events !== '') stream.write(events);
}

/** Undefined where the row cannot be read; the log of the server says so where lists leave it out. */
function foundOf({ text }: WatchedKey, result: ReadResult): Found | undefined {
  if (result !== undefined && 'unreadable' in result) return undefined;
  const document = counterDocument(text, result);
  return { sum: String(document.sum), event: eventText('counter', documentText<RequestedCounterDocument>(document)) };
}
