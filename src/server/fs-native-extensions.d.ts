// The package has no types. Declares the one function in use.
declare module 'fs-native-extensions' {
  /** Takes an exclusive lock on an open file without waiting. False if another open file holds it. */
  export function tryLock(fd: number): boolean;
}
