/**
 * The cost of processes from /proc of Linux: CPU time of a process and its descendants, and resident memory.
 */
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';

/** CPU time, user and system, since the start of the processes. */
export interface CpuTime {
  /** All threads of the process itself. */
  readonly ownMs: number;
  /** All its descendants, including those that have ended. */
  readonly descendantsMs: number;
}

interface Stat {
  readonly parent: number;
  readonly ownTicks: number;
  /** Ended children that were waited for, and their descendants. */
  readonly endedTicks: number;
}

let ticksPerSecond: number | undefined;

function tickMs(): number {
  ticksPerSecond ??= Number(execFileSync('getconf', ['CLK_TCK'], { encoding: 'utf8' }));
  return 1000 / ticksPerSecond;
}

/** CPU time of a process and its descendants. Throws if it has ended or the system has no /proc. */
export function cpuTime(pid: number): CpuTime {
  if (process.platform !== 'linux') throw new Error('The benchmark reads CPU time from /proc, which only Linux has.');
  const stats = new Map<number, Stat>();
  for (const name of readdirSync('/proc')) {
    const stat = /^\d+$/.test(name) ? readStat(`/proc/${name}/stat`) : undefined;
    if (stat !== undefined) stats.set(Number(name), stat);
  }
  const own = stats.get(pid);
  if (own === undefined) throw new Error(`process ${pid} has ended`);
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
    // The process has ended since the listing.
    return undefined;
  }
  // The second field is the command in parentheses, which may hold anything; the third is the state.
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const number = (field: number): number => Number(fields[field - 3]);
  return { parent: number(4), ownTicks: number(14) + number(15), endedTicks: number(16) + number(17) };
}

/** CPU time of the main thread of a process since its start, user and system. Throws if the process has ended. */
export function mainThreadMs(pid: number): number {
  const stat = readStat(`/proc/${pid}/task/${pid}/stat`);
  if (stat === undefined) throw new Error(`process ${pid} has ended`);
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
