/**
 * What processes have used, from Linux's /proc: CPU time of a process and of everything below it, and resident memory.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** CPU time, user and system, since the start of the processes. */
export interface CpuTime {
  /** Of the process itself, all its threads. */
  readonly ownMs: number;
  /** Of all its descendants, those that have ended included. */
  readonly descendantsMs: number;
}

interface Stat {
  readonly parent: number;
  readonly ownTicks: number;
  /** Of children that have ended and were waited for, and theirs. */
  readonly endedTicks: number;
}

let ticksPerSecond: number | undefined;

function tickMs(): number {
  ticksPerSecond ??= Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  return 1000 / ticksPerSecond;
}

/** CPU time of a process and its descendants. Throws where it is gone or the system has no /proc. */
export function cpuTime(pid: number): CpuTime {
  if (process.platform !== 'linux') throw new Error('The benchmark reads CPU time from /proc, which only Linux has.');
  const stats = new Map<number, Stat>();
  for (const name of readdirSync('/proc')) {
    const stat = /^\d+$/.test(name) ? readStat(`/proc/${name}/stat`) : undefined;
    if (stat !== undefined) stats.set(Number(name), stat);
  }
  const own = stats.get(pid);
  if (own === undefined) throw new Error(`process ${pid} is gone`);
  let ticks = own.endedTicks;
  for (const [id, stat] of stats) {
    if (id !== pid && descends(id, pid, stats)) ticks += stat.ownTicks + stat.endedTicks;
  }
  return { ownMs: own.ownTicks * tickMs(), descendantsMs: ticks * tickMs() };
}

function descends(id: number, ancestor: number, stats: ReadonlyMap<number, Stat>): boolean {
  for (let at = stats.get(id)?.parent; at !== undefined && at > 1; at = stats.get(at)?.parent) {
    if (at === ancestor) return true;
  }
  return false;
}

function readStat(file: string): Stat | undefined {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch {
    // It ended between the listing and now.
    return undefined;
  }
  // The second field is the command in parentheses, which may hold anything; the third is the state.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const number = (field: number): number => Number(fields[field - 3]);
  return { parent: number(4), ownTicks: number(14) + number(15), endedTicks: number(16) + number(17) };
}

/** CPU time of a process's main thread, user and system, since its start. Throws where it is gone. */
export function mainThreadMs(pid: number): number {
  const stat = readStat(`/proc/${pid}/task/${pid}/stat`);
  if (stat === undefined) throw new Error(`process ${pid} is gone`);
  return stat.ownTicks * tickMs();
}

/** Resident memory of a process, in bytes. */
export function residentBytes(pid: number): number {
  return statusBytes(pid, /^VmRSS:\s+(\d+) kB$/m);
}

/** The most resident memory that a process has had since its start, in bytes. */
export function residentBytesMax(pid: number): number {
  return statusBytes(pid, /^VmHWM:\s+(\d+) kB$/m);
}

function statusBytes(pid: number, line: RegExp): number {
  const kib = line.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  if (kib === undefined) throw new Error(`process ${pid} has ended`);
  return Number(kib) * 1024;
}
