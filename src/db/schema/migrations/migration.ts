/** What a step of the schema is. Any thread. */

/** One step of the schema; a version that has been released never changes. */
export interface Migration {
  readonly version: number;
  readonly name: string;
  readonly sql: string;
}
