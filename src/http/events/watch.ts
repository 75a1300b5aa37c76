/**
 * GET /watch: events for the counters that a client follows. HTTP thread.
 *
 * Once a second the keys of a phase's watchers are read, each once, in exact reads of a bounded size. Events are written in
 * slices of a few milliseconds. So neither an acknowledgement nor another read waits for all watchers.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { CounterError } from '../../core/errors.js';
import {
  READ_KEYS_MAX,
  type CounterOperations,
  type CounterReading,
  type ReadResult,
} from '../../core/counter-operations.js';
import type { HttpRequestHead } from '../reply.js';
import { keysOf, parseQuery } from '../request-parameters.js';
import { KEYS_MAX, utf8Text } from '../routes.js';
import { eventText, type EventStream } from './event-stream.js';
import { Phases } from './phases.js';

/** Least time between events of a watcher, so that a slow poll does not bring the next one closer. */
const TOLD_MIN_MS = 900;

/** How long events are written before other work of the thread runs. */
const SLICE_MS = 1;

/** A key that somebody watches. All watchers of a key share it. */
interface WatchedKey {
  readonly bytes: Uint8Array;
  readonly text: string;
  /** The text as JSON. */
  readonly json: string;
  watchers: number;
}

/** The result of a poll for a key: its sum as text, and the rest of an event. */
interface Found {
  readonly sum: string;
  readonly reading: CounterReading | undefined;
  /** The event, made for the first watcher that needs it. */
  event: string | undefined;
}

/** `unavailable`: the database did not answer. Undefined: try again in a second. */
type PollResult = Found | 'unavailable' | undefined;

/** Keys in the order of a request. All watchers of the same keys in the same order share the list. */
interface WatchedList {
  readonly name: string;
  readonly keys: readonly WatchedKey[];
  watchers: number;
}

/** The last sum sent to a client, for each key of its list. Watchers with the same sums share it. */
type Told = readonly (string | undefined)[];

interface Watcher {
  readonly stream: EventStream;
  readonly list: WatchedList;
  told: Told;
  /** When an event was last sent, of `performance.now()`. */
  toldAtMs: number;
}

/** The events of a poll for the watchers of a list that know the sums `before`. */
interface News {
  readonly before: Told;
  readonly after: Told;
  /** Empty where nothing has changed. */
  readonly events: Uint8Array;
}

const NOTHING: Told = [];

/** The watchers of an HTTP server. */
export class Watchers {
  readonly #operations: Pick<CounterOperations, 'read'>;
  readonly #keyBytesMax: number;
  readonly #reportBug: (error: unknown) => void;
  readonly #keys = new Map<string, WatchedKey>();
  readonly #lists = new Map<string, WatchedList>();
  /** Watchers that wait for their first events. */
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

  /** Sends the sums of the keys on `stream`, now and at each change, until the returned function is called. */
  add(stream: EventStream, keys: readonly Uint8Array[]): () => void {
    const watcher: Watcher = { stream, list: this.#takeList(keys), told: NOTHING, toldAtMs: Number.NEGATIVE_INFINITY };
    this.#new.add(watcher);
    void this.#readNew();
    return () => {
      this.#new.delete(watcher);
      this.#watchers.delete(watcher);
      this.#releaseList(watcher.list);
    };
  }

  #takeList(keys: readonly Uint8Array[]): WatchedList {
    // No key has a U+0000.
    const name = keys.map(utf8Text).join('\0');
    const list = this.#lists.get(name) ?? { name, keys: keys.map((key) => this.#take(key)), watchers: 0 };
    this.#lists.set(name, list);
    list.watchers += 1;
    return list;
  }

  #releaseList(list: WatchedList): void {
    list.watchers -= 1;
    if (list.watchers > 0) return;
    this.#lists.delete(list.name);
    for (const key of list.keys) this.#release(key);
  }

  #take(bytes: Uint8Array): WatchedKey {
    const text = utf8Text(bytes);
    const key = this.#keys.get(text) ?? { bytes: new Uint8Array(bytes), text, json: JSON.stringify(text), watchers: 0 };
    this.#keys.set(text, key);
    key.watchers += 1;
    return key;
  }

  #release(key: WatchedKey): void {
    key.watchers -= 1;
    if (key.watchers === 0) this.#keys.delete(key.text);
  }

  /** Reads for all new watchers, which then join a phase. */
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

  /** Skips a poll while the previous one of its phase runs. */
  async #pollPhase(watchers: ReadonlySet<Watcher>): Promise<void> {
    if (this.#polling.has(watchers)) return;
    this.#polling.add(watchers);
    await this.#poll(watchers);
    this.#polling.delete(watchers);
  }

  async #poll(members: ReadonlySet<Watcher>): Promise<void> {
    // A copy, because watchers that join meanwhile get newer sums.
    const watchers = [...members];
    try {
      const keys = new Set<WatchedKey>();
      for (const list of new Set(watchers.map(({ list }) => list))) for (const key of list.keys) keys.add(key);
      const found = await this.#readAll([...keys]);
      const news = new Map<WatchedList, News[]>();
      let sliceEnd = performance.now() + SLICE_MS;
      for (const watcher of watchers) {
        tell(watcher, newsOf(watcher, found, news));
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
        found.set(key, typeof results === 'string' ? results : foundOf(results, index));
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

function tell(watcher: Watcher, { after, events }: News): void {
  const now = performance.now();
  if (events.length > 0 && now - watcher.toldAtMs < TOLD_MIN_MS) return;
  watcher.told = after;
  if (events.length === 0) return;
  watcher.toldAtMs = now;
  watcher.stream.write(events);
}

/** The events of changed sums, or of all sums after the database was unavailable. Made once for watchers with the same sums. */
function newsOf(
  { list, told }: Watcher,
  found: ReadonlyMap<WatchedKey, PollResult>,
  made: Map<WatchedList, News[]>,
): News {
  const ofList = made.get(list) ?? [];
  made.set(list, ofList);
  const known = ofList.find(({ before }) => before === told);
  if (known !== undefined) return known;
  let events = '';
  const sums = list.keys.map((key, index) => {
    const result = found.get(key);
    if (result === 'unavailable') return undefined;
    if (result === undefined || told[index] === result.sum) return told[index];
    result.event ??= eventOf(key, result);
    events += result.event;
    return result.sum;
  });
  const same = ofList.find(({ after }) => after.every((sum, index) => sum === sums[index]));
  const news = { before: told, after: same?.after ?? sums, events: Buffer.from(events) };
  ofList.push(news);
  return news;
}

/** Undefined if the row cannot be read, which the list of counters logs. */
function foundOf(results: readonly ReadResult[] | undefined, index: number): Found | undefined {
  const reading = results?.[index];
  if (results === undefined || (reading !== undefined && 'unreadable' in reading)) return undefined;
  return { sum: reading === undefined ? 'null' : String(reading.sum), reading, event: undefined };
}

/** A `RequestedCounterDocument`, written by hand because there may be a hundred thousand a second. */
function eventOf({ json }: WatchedKey, { sum, reading }: Found): string {
  const { committed = 0, pending = 0, updatedAt = null } = reading ?? {};
  const time = updatedAt === null ? 'null' : `"${updatedAt}"`;
  const counts = `"sum":${sum},"committed":${committed},"pending":${pending}`;
  return eventText('counter', `{"key":${json},${counts},"updated_at":${time}}`);
}
