/**
 * Documents as JSON text whose integers are literals of any length, which JSON.stringify has no way to write from a
 * bigint. Any thread.
 */
import type { Sum } from '../core/increment.js';

/** A document as it is in memory: where the document has a number, a bigint will do. */
export type InMemory<T> = T extends number ? Sum : T extends object ? { readonly [K in keyof T]: InMemory<T[K]> } : T;

/** The text of a document of type `T`, members in their order; those that are undefined are left out. */
export function exactJson<T extends object>(document: InMemory<T>): string {
  return textOf(document);
}

function textOf(value: unknown): string {
  if (typeof value === 'bigint') return value.toString();
  if (Array.isArray(value)) return `[${value.map(textOf).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const members = Object.entries(value).filter(([, member]) => member !== undefined);
  return `{${members.map(([name, member]) => `${JSON.stringify(name)}:${textOf(member)}`).join(',')}}`;
}
