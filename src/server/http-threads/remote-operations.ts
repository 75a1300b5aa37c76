/** The operations of the server for other HTTP threads: the main thread answers each call. HTTP thread. */
import { CounterError, type ErrorCode } from '../../core/errors.js';
import type { OperationCall, OperationResults } from './messages.js';
import type {
  CounterListPage,
  CounterListQuery,
  CounterOperations,
  DashboardUpdate,
  ReadResult,
  Readiness,
} from '../../core/counter-operations.js';
import type { Sum } from '../../core/increment.js';

/** Most calls that wait for the main thread. One more is refused as `overloaded`. */
const CALLS_MAX = 10_000;

interface PendingCall {
  readonly resolve: (result: OperationResults[OperationCall['operation']]) => void;
  readonly reject: (error: CounterError) => void;
}

/** Operations that the main thread performs. */
export class RemoteOperations implements CounterOperations {
  readonly #post: (id: number, call: OperationCall) => void;
  readonly #pending = new Map<number, PendingCall>();
  #nextId = 1;

  /** `post` sends a call. {@link resolve} or {@link reject} settles it. */
  constructor(post: (id: number, call: OperationCall) => void) {
    this.#post = post;
  }

  read(keys: readonly Uint8Array[]): Promise<readonly ReadResult[]> {
    // Copies, because posting a view would send its whole buffer.
    return this.#call<'read'>({ operation: 'read', keys: keys.map((key) => new Uint8Array(key)) });
  }

  delete(key: Uint8Array, id: string | undefined): Promise<Sum | undefined> {
    return this.#call<'delete'>({ operation: 'delete', key: new Uint8Array(key), id });
  }

  list(query: CounterListQuery): Promise<CounterListPage> {
    return this.#call<'list'>({ operation: 'list', query });
  }

  flush(): Promise<number> {
    return this.#call<'flush'>({ operation: 'flush' });
  }

  readiness(): Promise<Readiness> {
    return this.#call<'readiness'>({ operation: 'readiness' });
  }

  metrics(): Promise<string> {
    return this.#call<'metrics'>({ operation: 'metrics' });
  }

  dashboard(since: number): Promise<DashboardUpdate> {
    return this.#call<'dashboard'>({ operation: 'dashboard', since });
  }

  /** Settles a call that succeeded. */
  resolve(id: number, result: OperationResults[OperationCall['operation']]): void {
    this.#take(id)?.resolve(result);
  }

  /** Settles a call that failed. */
  reject(id: number, code: ErrorCode, detail: string): void {
    this.#take(id)?.reject(new CounterError(code, detail));
  }

  #take(id: number): PendingCall | undefined {
    const call = this.#pending.get(id);
    this.#pending.delete(id);
    return call;
  }

  #call<Name extends OperationCall['operation']>(
    call: Extract<OperationCall, { readonly operation: Name }>,
  ): Promise<OperationResults[Name]> {
    if (this.#pending.size >= CALLS_MAX) {
      return Promise.reject(
        new CounterError(
          'overloaded',
          `${CALLS_MAX} operations already wait for the main thread, which is the limit; retry later.`,
        ),
      );
    }
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, {
        // The main thread answers a call with the result of the called operation.
        resolve: resolve as PendingCall['resolve'],
        reject,
      });
      this.#post(id, call);
    });
  }
}
