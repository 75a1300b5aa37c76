/**
 * Decides when a batch leaves the buffer, and delivers it.
 *
 * ```text
 * idle ──first key──► waiting ──interval, full batch or flush──► sending ──acknowledged or refused──► idle
 * ```
 *
 * One batch is in flight at a time, with its own Idempotency-Key. Its content is frozen when it leaves the buffer, and
 * all retries use the same key. Later increments wait for the next batch. Keys leave the buffer in the order in which
 * they entered it, so a flush only has to count keys.
 */
import { CounterClientError, mergedRefusals, type Counted, type Increment, type RefusedBatch } from './client-error.js';
import type { ClientNumbers } from './client-options.js';
import { failureOf, type Answer, type Exchange } from './exchange.js';
import { bodyOf, IncrementBuffer } from './increment-buffer.js';
import type { Reports } from './reports.js';
import { randomIdempotencyKey, type Retries } from './retries.js';

type State =
  | { readonly kind: 'idle' }
  | { readonly kind: 'waiting'; readonly timer: ReturnType<typeof setTimeout> }
  | { readonly kind: 'sending'; readonly keys: number };

/** A call of flush or close. It waits until `target` keys have left the buffer and are settled. */
interface Waiter {
  readonly target: number;
  readonly refusals: CounterClientError[];
  readonly settle: () => void;
}

/** What a sender works with. */
export interface BatchSenderDeps {
  readonly numbers: ClientNumbers;
  readonly exchange: Exchange;
  readonly retries: Retries;
  readonly reports: Reports;
}

/** The head of this file shows its states. */
export class BatchSender {
  readonly #deps: BatchSenderDeps;
  readonly #buffer: IncrementBuffer;
  readonly #waiters = new Set<Waiter>();
  /** Aborted by the signal of a close. */
  readonly #abandonment = new AbortController();
  #state: State = { kind: 'idle' };
  #isClosed = false;
  /** Keys that have ever entered the buffer, and how many of them are acknowledged or refused. */
  #keysEntered = 0;
  #keysSettled = 0;
  /** Refusals that no flush has reported yet. With `onError`, which reports all of them, only the first. */
  #refusals: CounterClientError[] = [];
  #refusedKeys = 0;

  constructor(deps: BatchSenderDeps) {
    this.#deps = deps;
    this.#buffer = new IncrementBuffer(deps.numbers);
  }

  /** Keys that wait for a batch. */
  get pending(): number {
    return this.#buffer.size;
  }

  /** Keys of the batch that is being sent. */
  get inFlight(): number {
    return this.#state.kind === 'sending' ? this.#state.keys : 0;
  }

  /** Takes all increments, or throws and takes none. */
  take(increments: readonly Increment[]): void {
    if (this.#isClosed) throw new CounterClientError('closed', 'The client is closed; nothing was counted.');
    const newKeys = this.#buffer.newKeysOf(increments);
    const held = this.#buffer.size + this.#refusedKeys + this.inFlight;
    const { bufferKeysMax } = this.#deps.numbers;
    if (newKeys > 0 && held + newKeys > bufferKeysMax) {
      const detail = `${held} keys are held of at most ${bufferKeysMax}; nothing was counted.`;
      throw new CounterClientError('buffer-full', detail, { retryable: true });
    }
    this.#buffer.add(increments);
    this.#keysEntered += newKeys;
    this.#schedule();
  }

  /** Takes no more increments. */
  close(): void {
    this.#isClosed = true;
  }

  /** Resolves once everything that was taken is acknowledged. Rejects if batches were refused or the wait was ended. */
  async settled(signal: AbortSignal | undefined, onAbort: 'keep-sending' | 'abandon'): Promise<void> {
    const refusals = this.#refusals;
    this.#refusals = [];
    this.#refusedKeys = 0;
    const isCutShort = await new Promise<boolean>((resolve) => {
      const end = (cutShort: boolean): void => {
        this.#waiters.delete(waiter);
        signal?.removeEventListener('abort', abort);
        resolve(cutShort);
      };
      const abort = (): void => {
        if (onAbort === 'keep-sending') end(true);
        else this.#abandonment.abort();
      };
      const waiter: Waiter = { target: this.#keysEntered, refusals, settle: () => end(false) };
      this.#waiters.add(waiter);
      this.#settleWaiters();
      if (!this.#waiters.has(waiter)) return;
      signal?.addEventListener('abort', abort);
      if (signal?.aborted === true) abort();
      this.#schedule();
    });
    const [first] = refusals;
    if (first !== undefined) throw refusals.length === 1 ? first : mergedRefusals(first, refusals);
    if (!isCutShort) return;
    const cause: unknown = signal?.reason;
    throw new CounterClientError('aborted', 'The wait was ended.', { retryable: true, counted: 'unknown', cause });
  }

  #settleWaiters(): void {
    for (const waiter of this.#waiters) if (waiter.target <= this.#keysSettled) waiter.settle();
  }

  #isUrgent(): boolean {
    return this.#waiters.size > 0 || this.#buffer.size >= this.#deps.numbers.batchKeysMax;
  }

  #schedule(): void {
    const state = this.#state;
    if (state.kind === 'sending' || this.#buffer.size === 0) return;
    if (this.#isUrgent()) {
      if (state.kind === 'waiting') clearTimeout(state.timer);
      void this.#send();
    } else if (state.kind === 'idle') {
      const timer = setTimeout(() => void this.#send(), this.#deps.numbers.intervalMs);
      this.#state = { kind: 'waiting', timer };
    }
  }

  async #send(): Promise<void> {
    do {
      const { increments, keys } = this.#buffer.cutBatch();
      this.#state = { kind: 'sending', keys };
      await this.#deliver(increments);
      this.#keysSettled += keys;
      this.#settleWaiters();
    } while (this.#buffer.size > 0 && this.#isUrgent());
    this.#state = { kind: 'idle' };
    this.#schedule();
  }

  /** Resolves once the batch is acknowledged or refused. Never rejects. */
  async #deliver(increments: readonly Increment[]): Promise<void> {
    const { signal } = this.#abandonment;
    const { exchange, retries, reports } = this.#deps;
    const token = randomIdempotencyKey();
    const headers = { 'content-type': 'application/json', 'idempotency-key': token };
    const request = { method: 'POST', path: '/increment', headers, body: bodyOf(increments) } as const;
    const attempt = async (): Promise<void> => {
      if (!signal.aborted) return exchange.send(request, acknowledge, signal);
      throw reports.failed(new CounterClientError('aborted', 'The client was closed before it was sent.'));
    };
    // Halves are new batches with new keys, so no earlier attempt may have counted the whole.
    const isDivisible = (failure: CounterClientError, counted: Counted): boolean =>
      counted === 'no' && increments.length > 1 && (failure.status === 413 || failure.code === 'invalid-request');
    const outcome = await retries.until(attempt, signal, isDivisible);
    if (outcome.failure === undefined) return;
    const { failure, counted } = outcome;
    if (isDivisible(failure, counted)) {
      const half = increments.length >> 1;
      await this.#deliver(increments.slice(0, half));
      await this.#deliver(increments.slice(half));
    } else this.#refuse(failure, { increments, counted, token });
  }

  #refuse(failure: CounterClientError, batch: RefusedBatch): void {
    const { code, status, retryable, retryAfterMs } = failure;
    const { counted, increments } = batch;
    const { reports } = this.#deps;
    const fields = { status, retryable, retryAfterMs, counted, refused: [batch], cause: failure };
    const error = new CounterClientError(code, `Given up on ${increments.length} keys: ${failure.message}`, fields);
    for (const { refusals } of this.#waiters) refusals.push(error);
    // Without `onError` only a flush reports the batch. Until then it counts against the buffer.
    if (this.#waiters.size === 0 && (!reports.reachesApplication || this.#refusals.length === 0)) {
      this.#refusals.push(error);
      if (!reports.reachesApplication) this.#refusedKeys += increments.length;
    }
    reports.refused(error);
  }
}

function acknowledge(answer: Answer): void {
  if (answer.status !== 202) throw failureOf(answer);
}
