// The package has no types of its own; this is the one call that is used of it.
declare module 'fs-native-extensions' {
  /** Takes an exclusive lock on an open file without waiting. False where another open file holds it. */
  export function tryLock(fd: number): boolean;
}
