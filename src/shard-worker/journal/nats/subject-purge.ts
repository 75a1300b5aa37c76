/**
 * Removes committed records from the broker. Shard thread.
 */
import type { Checkpoint } from '../../../core/checkpoint.js';
import type { Clock } from '../../../core/clock.js';
import { decodedOr } from '../shared/message-format.js';
import type { Broker, BrokerMessage } from './broker.js';
import { Errand, type WriteLine } from './errand.js';
import { isFence } from './nats-message.js';
import { PurgeSchedule, type PurgeMark } from './purge-schedule.js';

/** Collaborators and limits of the purges. */
export interface SubjectPurgeDeps {
  readonly broker: Pick<Broker, 'read' | 'purge'>;
  readonly clock: Pick<Clock, 'monotonic' | 'uptime'>;
  /** JOURNAL_KEEP_SECONDS. */
  readonly keepSeconds: number;
  /** This long after a read was sent the broker may have restarted. */
  readonly confirmAfterMs: number;
  readonly log: WriteLine;
}

/** The purges of all streams that this thread writes or flushes. */
export class SubjectPurge {
  readonly #deps: SubjectPurgeDeps;
  readonly #schedules = new Map<string, PurgeSchedule>();
  readonly #errand: Errand;
  #isClosing = false;

  constructor(deps: SubjectPurgeDeps) {
    this.#deps = deps;
    const failure = 'Cannot remove committed records from NATS now; retrying with later ones';
    this.#errand = new Errand(deps.log, failure);
  }

  /** The purges of a stream. */
  of(stream: string): PurgeSchedule {
    const found = this.#schedules.get(stream) ?? new PurgeSchedule(this.#deps.keepSeconds * 1000);
    this.#schedules.set(stream, found);
    return found;
  }

  /** Forgets the commits of a stream. */
  forget(stream: string): void {
    this.#schedules.delete(stream);
  }

  /** Forgets streams with nothing left to purge, except needed ones. */
  forgetAllBut(isNeeded: (stream: string) => boolean): void {
    for (const [stream, { isEmpty }] of this.#schedules)
      if (isEmpty && !isNeeded(stream)) this.#schedules.delete(stream);
  }

  /** This thread has moved the checkpoint of a stream to `at`. */
  noteCommitted(stream: string, at: Checkpoint): void {
    this.#schedules.get(stream)?.noteCommitted(at, this.#deps.clock.monotonic());
  }

  /** Removes records, in the background, whose keep time had passed at `askedAt` and that these rows show as committed. */
  run(rows: readonly (Checkpoint & { readonly stream: string })[], askedAt: number): void {
    this.#errand.run(() => this.#purge(new Map(rows.map((row) => [row.stream, row])), askedAt));
  }

  /** Ends after the stream under way. */
  async close(): Promise<void> {
    this.#isClosing = true;
    await this.#errand.ended;
  }

  /** Another round removes the rest. */
  async #purge(rows: ReadonlyMap<string, Checkpoint>, askedAt: number): Promise<void> {
    for (const [stream, schedule] of [...this.#schedules]) {
      if (this.#isClosing) return;
      const due = schedule.takeDue(askedAt, rows.get(stream));
      if (due === undefined) continue;
      const isThere = await this.below(stream, due.sequence, (message) => isMarked(message, due));
      // The broker has lost messages. Whoever retires the stream purges the rest.
      if (!isThere) schedule.clear();
    }
  }

  /**
   * Removes the messages below one that `isSame` recognises. False where it is another message. Removes nothing where the answer
   * took too long; a later purge does.
   */
  async below(stream: string, sequence: number, isSame: (message: BrokerMessage) => boolean): Promise<boolean> {
    const { broker, clock, confirmAfterMs } = this.#deps;
    const until = clock.uptime() + confirmAfterMs;
    const [message] = await broker.read(stream, sequence, 1);
    if (message?.sequence !== sequence || !isSame(message)) return false;
    if (clock.uptime() < until) await broker.purge(stream, sequence);
    return true;
  }
}

/** Whether a message is still that of the mark. */
function isMarked({ sequence, data }: BrokerMessage, mark: PurgeMark): boolean {
  if (sequence !== mark.sequence) return false;
  return isFence(data) ? mark.lsn === undefined : decodedOr(data, () => undefined)?.lastLsn === mark.lsn;
}
