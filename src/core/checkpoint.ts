/**
 * Positions in a stream of records. Any thread.
 */

/** A log sequence number: the position of a record in its stream, from 1, without gaps. 0 is before the first. */
export type Lsn = number;

/** How far a stream is in the database: the owner's epoch, and the LSN up to which it is in `counters`. */
export interface Checkpoint {
  readonly epoch: number;
  readonly lsn: Lsn;
}

/**
 * A time by the database's clock: whole seconds since 1970, rounded down. 0: no time, older than any other. It is never
 * compared with the clock of a node.
 */
export type DatabaseTime = number;
