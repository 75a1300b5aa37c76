/**
 * Row locks: shared or exclusive, first come, first served, held until their owner's transaction ends.
 */

/** `share` is `for share`; `exclusive` is `for update`, an update, a deletion, or the insertion of a row. */
export type LockMode = 'share' | 'exclusive';

interface Waiting {
  readonly owner: object;
  readonly mode: LockMode;
  readonly granted: () => void;
}

interface Lock {
  readonly holders: Map<object, LockMode>;
  readonly waiting: Waiting[];
}

/** All locks, by the name of what they lock. */
export class LockTable {
  readonly #locks = new Map<string, Lock>();

  /** True if the owner has the lock now. Otherwise it waits, and `granted` is called once. */
  acquire(name: string, owner: object, mode: LockMode, granted: () => void): boolean {
    const lock = this.#locks.get(name) ?? { holders: new Map<object, LockMode>(), waiting: [] };
    this.#locks.set(name, lock);
    const held = lock.holders.get(owner);
    if (held === 'exclusive' || held === mode) return true;
    // A holder that wants more does not wait behind others, who wait for it.
    if ((held !== undefined || lock.waiting.length === 0) && isFree(lock, owner, mode)) {
      lock.holders.set(owner, mode);
      return true;
    }
    lock.waiting.push({ owner, mode, granted });
    return false;
  }

  isHeldByOther(name: string, owner: object): boolean {
    const holders = this.#locks.get(name)?.holders ?? new Map<object, LockMode>();
    return [...holders.keys()].some((holder) => holder !== owner);
  }

  /** The owner waits no longer. */
  giveUp(name: string, owner: object): void {
    const lock = this.#locks.get(name);
    const index = lock?.waiting.findIndex((waiting) => waiting.owner === owner) ?? -1;
    if (lock === undefined || index < 0) return;
    lock.waiting.splice(index, 1);
    this.#grant(name, lock);
  }

  release(name: string, owner: object): void {
    const lock = this.#locks.get(name);
    if (lock?.holders.delete(owner) === true) this.#grant(name, lock);
  }

  releaseAll(owner: object): void {
    for (const name of [...this.#locks.keys()]) this.release(name, owner);
  }

  /** Whether nobody holds anything. */
  get isEmpty(): boolean {
    return this.#locks.size === 0;
  }

  /** Nobody holds anything, and nobody waits. */
  clear(): void {
    this.#locks.clear();
  }

  #grant(name: string, lock: Lock): void {
    const granted: Waiting[] = [];
    for (let [next] = lock.waiting; next !== undefined && isFree(lock, next.owner, next.mode); [next] = lock.waiting) {
      lock.waiting.shift();
      lock.holders.set(next.owner, next.mode);
      granted.push(next);
    }
    if (lock.holders.size === 0 && lock.waiting.length === 0) this.#locks.delete(name);
    for (const { granted: callback } of granted) callback();
  }
}

function isFree({ holders }: Lock, owner: object, mode: LockMode): boolean {
  for (const [holder, held] of holders)
    if (holder !== owner && (mode === 'exclusive' || held === 'exclusive')) return false;
  return true;
}
