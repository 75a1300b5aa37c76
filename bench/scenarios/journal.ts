/**
 * `npm run bench:journal`: the file journal compared with its disk: durable appends a second, overhead besides the
 * system calls, and recovery. Compare the ratios of one run.
 */
import { closeSync, fdatasyncSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { systemClock } from '#product/core/clock.js';
import { systemDisk, type Disk } from '#product/shard-worker/journal/file/disk.js';
import { createFileJournal, openFileJournal } from '#product/shard-worker/journal/file/file-journal.js';
import type { FileJournalOptions } from '#product/shard-worker/journal/file/file-journal-options.js';
import type { RecordBytes } from '#product/shard-worker/journal/journal.js';
import { RECORD_OFFSET } from '#product/shard-worker/protocol/record-layout.js';
import { wholeNumber } from './options.js';
import { withCleanup } from '../processes/owned-process.js';
import { appendRecord, provenance, runsFile, SYNCS_SCENARIO, type JournalScenario } from '../report/record.js';

const RECORD_BYTES = 2048;
const usage = `npm run bench:journal -- [options]
Options:
  --seconds N         of each scenario, default 3
  --directory DIR     on the disk to measure, default the system's for temporary files
  --out FILE          append the run's line to this file, default bench/results/runs.jsonl
`;
const { values } = parseArgs({
  options: {
    seconds: { type: 'string', default: '3' },
    directory: { type: 'string', default: tmpdir() },
    out: { type: 'string', default: runsFile },
    help: { type: 'boolean', default: false },
  },
});
const root = values.directory;
let seconds = 0;
const scenarios: JournalScenario[] = [];

function record(): RecordBytes {
  const bytes = new Uint8Array(RECORD_BYTES).fill(0x61, 40);
  new DataView(bytes.buffer).setUint32(RECORD_OFFSET.bytes, RECORD_BYTES, true);
  return bytes;
}

function inDirectory<T>(action: (directory: string) => T): T {
  const directory = mkdtempSync(join(root, 'bench-journal-'));
  try {
    return action(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

function options(directory: string, disk: Disk, syncPolicy: 'always' | 'everysec' = 'always'): FileJournalOptions {
  return {
    disk,
    directory: join(directory, 'journal'),
    clock: systemClock,
    syncPolicy,
    bytesMax: 64 * 1024 ** 3,
    keepSeconds: 0,
    nodeId: '11111111-2222-4333-8444-555555555555',
    shard: 0,
    databaseId: undefined,
  };
}

/** One thing to measure. Several run in turns, so that other load on the machine affects all of them alike. */
interface Contestant {
  readonly step: () => void;
  readonly end: () => void;
}

const TURN_MS = 100;

/** Runs the contestants in turns, each for the time of a scenario. Returns the calls a second of each. */
function rates(contestants: readonly Contestant[]): number[] {
  const calls = contestants.map(() => 0);
  const elapsed = contestants.map(() => 0);
  for (let turn = 0; turn < (seconds * 1000) / TURN_MS; turn += 1) {
    for (const [index, { step }] of contestants.entries()) {
      const start = performance.now();
      let done = 0;
      for (; performance.now() - start < TURN_MS; done += 16) for (let n = 0; n < 16; n += 1) step();
      calls[index] = (calls[index] ?? 0) + done;
      elapsed[index] = (elapsed[index] ?? 0) + performance.now() - start;
    }
  }
  for (const { end } of contestants) end();
  return calls.map((count, index) => (count * 1000) / (elapsed[index] ?? 1));
}

function report(scenario: string, figures: Record<string, number>): void {
  const rounded = Object.fromEntries(
    Object.entries(figures).map(([name, value]) => [name, Number(value.toPrecision(4))]),
  );
  scenarios.push({ name: scenario, figures: rounded });
  console.log(JSON.stringify({ scenario, ...rounded }));
}

/** Write and fdatasync of a plain file, growing or over zeros: what the disk itself can do. */
function bareFile(directory: string, preallocated: boolean): Contestant {
  const fd = openSync(join(directory, preallocated ? 'zeros' : 'growing'), 'w');
  const fileBytes = 64 * 1024 * 1024;
  if (preallocated) writeSync(fd, Buffer.alloc(fileBytes), 0, fileBytes, 0);
  fdatasyncSync(fd);
  const bytes = record();
  let at = 0;
  return {
    step() {
      writeSync(fd, bytes, 0, bytes.length, at);
      fdatasyncSync(fd);
      at = preallocated ? (at + bytes.length) % fileBytes : at + bytes.length;
    },
    end: () => closeSync(fd),
  };
}

/** A disk whose writes and syncs do nothing, to measure the cost of the journal itself. */
const idleDisk: Disk = {
  ...systemDisk,
  create(path) {
    const file = systemDisk.create(path);
    return {
      write: (bytes) => bytes.byteLength,
      writeAll: (parts) => parts.reduce((sum, part) => sum + part.byteLength, 0),
      read: (into, offset) => file.read(into, offset),
      sync: () => undefined,
      size: () => file.size(),
      isAt: (path) => file.isAt(path),
      close: () => file.close(),
    };
  },
};

function appends(directory: string, disk: Disk, groupSize: number): Contestant {
  const journal = createFileJournal(options(directory, disk));
  const group = Array.from({ length: groupSize }, record);
  let appended = 0;
  return {
    step() {
      journal.append(group);
      appended += 1;
      // Now and then, as a flush does.
      if (appended % 2000 === 0) journal.prune(journal.endLsn);
    },
    end: () => journal.close(),
  };
}

function recovery(records: number): void {
  inDirectory((directory) => {
    const journal = createFileJournal(options(directory, systemDisk, 'everysec'));
    const group = Array.from({ length: 64 }, record);
    while (journal.endLsn < records) journal.append(group);
    journal.close();
    const start = performance.now();
    const reopened = openFileJournal({ ...options(directory, systemDisk), stream: journal.stream });
    reopened.recover(0);
    const recovered = performance.now();
    let replayed = 0;
    for (const { entries } of reopened.replay(0)) replayed += entries.byteLength > 0 ? 1 : 0;
    const end = performance.now();
    reopened.close();
    report('recovery', {
      records: replayed,
      recoverMs: recovered - start,
      replayMs: end - recovered,
      recordsPerSecond: (replayed * 1000) / (end - start),
      megabytesPerSecond: (replayed * RECORD_BYTES) / 1e6 / ((end - start) / 1000),
    });
  });
}

function durableAppends(): void {
  inDirectory((directory) => {
    const contestants = [
      bareFile(directory, false),
      bareFile(directory, true),
      appends(directory, systemDisk, 1),
      appends(directory, systemDisk, 16),
    ];
    const [growing = 0, zeros = 0, one = 0, many = 0] = rates(contestants);
    report('bare file, growing', { perSecond: growing });
    report(SYNCS_SCENARIO, { perSecond: zeros, toGrowing: zeros / growing });
    report('journal, groups of 1', { perSecond: one, toGrowing: one / growing, toZeros: one / zeros });
    report('journal, groups of 16', { perSecond: many, recordsPerSecond: many * 16, toZeros: many / zeros });
    const [idleOne = 0, idleMany = 0] = rates([appends(directory, idleDisk, 1), appends(directory, idleDisk, 16)]);
    report('journal without a disk, groups of 1', { microsecondsPerRecord: 1e6 / idleOne });
    report('journal without a disk, groups of 16', { microsecondsPerRecord: 1e6 / idleMany / 16 });
  });
}

await withCleanup(() => {
  if (values.help) {
    console.log(usage);
    return;
  }
  seconds = wholeNumber('seconds', values.seconds, 1);
  const facts = provenance('no uWebSockets.js');
  durableAppends();
  recovery(200_000);
  appendRecord(values.out, { ...facts, kind: 'journal', secondsAScenario: seconds, scenarios });
});
