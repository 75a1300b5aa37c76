/**
 * UUIDs as text. Any thread.
 */

const UUID = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** True for a UUID in lower case with hyphens, the form that `randomUUID` makes. */
export function isUuid(text: string): boolean {
  return UUID.test(text);
}
