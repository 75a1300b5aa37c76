/**
 * The node's operations as a front end of another thread calls them: each call goes to the main thread and is answered
 * from there. Front-end thread.
 */
import { CounterError, type ErrorCode } from '../../core/errors.js';
import type { OperationCall, OperationResults } from './messages.js';
import type {
  CounterListPage,
  CounterListQuery,
  CounterOperations,
  CounterReading,
  Readiness,
} from '../../core/counter-operations.js';
import type { Sum } from '../../core/increment.js';

/** Most calls that wait for the main thread; one more is `overloaded`. */
const CALLS_MAX = 10_000;

interface PendingCall {
  readonly resolve: (result: OperationResults[OperationCall['operation']]) => void;
  readonly reject: (error: CounterError) => void;
}

/** The operations, at the other end of a port. */
export class RemoteOperations implements CounterOperations {
  readonly #post: (id: number, call: OperationCall) => void;
  readonly #pending = new Map<number, PendingCall>();
  #nextId = 1;

  /** `post` sends a call, which {@link resolve} or {@link reject} answers. */
  constructor(post: (id: number, call: OperationCall) => void) {
    this.#post = post;
  }

  read(key: Uint8Array): Promise<CounterReading | undefined> {
    // A copy: of a view, the whole buffer below it would be sent.
    return this.#call<'read'>({ operation: 'read', key: new Uint8Array(key) });
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

  /** The call succeeded. */
  resolve(id: number, result: OperationResults[OperationCall['operation']]): void {
    this.#take(id)?.resolve(result);
  }

  /** The call failed. */
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
      return Promise.reject(new CounterError('overloaded', 'Too many requests wait for the main thread.'));
    }
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#pending.set(id, {
        // The main thread answers a call with what the called operation resolved to.
        resolve: resolve as PendingCall['resolve'],
        reject,
      });
      this.#post(id, call);
    });
  }
}
