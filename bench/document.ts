/**
 * `npm run bench:document -- [FILE]`: writes the figures of FILE, default the baseline, into docs/benchmarks.md, so that
 * none is typed by hand. The document names its places: `<!-- figures: NAME -->` … `<!-- end -->`, where NAME is a
 * scenario, `peers`, `grid`, `soak`, `memory` or `bounds`; the newest run of that name goes between, or "Not measured yet.".
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { withCleanup } from './owned-process.js';
import { projectRoot } from './project.js';
import {
  baselineFile,
  newestTurns,
  readRecords,
  type BoundsRecord,
  type GridRecord,
  type RunRecord,
} from './record.js';
import { markdownTable, origin, provenanceSentence, thousands, turnsRows } from './table.js';

const documentFile = join(projectRoot, 'docs', 'benchmarks.md');
const place = /(<!-- figures: ([a-z0-9-]+) -->\n)[\s\S]*?(\n<!-- end -->)/g;

await withCleanup(() => {
  const records = readRecords(process.argv[2] ?? baselineFile);
  const before = readFileSync(documentFile, 'utf8');
  const after = before.replaceAll(place, (_, head: string, name: string, tail: string) => {
    const text = figures(name, records);
    console.log(`${name}: ${text === undefined ? 'not measured yet' : 'written'}`);
    return `${head}\n${text ?? 'Not measured yet.'}\n${tail}`;
  });
  writeFileSync(documentFile, after);
  return Promise.resolve();
});

function figures(name: string, records: readonly RunRecord[]): string | undefined {
  if (name === 'grid') return gridTable(records.filter((record) => record.kind === 'grid'));
  if (name === 'soak') {
    const run = records.findLast((record) => record.kind === 'soak');
    return (
      run &&
      `${run.minutes} minutes at ${thousands(run.incrementsPerSecond)} increments/s (${run.scenario}, ${run.journal}), ` +
        `${thousands(run.increments)} increments, sums exact. Resident memory: ` +
        `${thousands(run.residentMibAfterFirstMinute)} MiB after the first minute, ` +
        `${thousands(run.residentMibAtEnd)} MiB at the end, ${thousands(run.residentMibMax)} MiB at most.\n\n` +
        provenanceSentence(run)
    );
  }
  if (name === 'memory') {
    const run = records.findLast((record) => record.kind === 'memory');
    return (
      run &&
      `${thousands(run.bytesPerPendingKey)} bytes of resident memory for each of ${thousands(run.keys)} pending keys of ` +
        `${run.keyBytes} bytes (${run.journal}, ${run.shards} shards).\n\n${provenanceSentence(run)}`
    );
  }
  if (name === 'bounds') return boundsTable(records.findLast((record) => record.kind === 'bounds'));
  const run = newestTurns(records).get(name);
  if (run === undefined) return undefined;
  const notes = run.contenders.flatMap(({ name: contender, note }) =>
    note === undefined ? [] : `- ${contender}: ${note}`,
  );
  return [markdownTable(turnsRows(run)), ...(notes.length === 0 ? [] : [notes.join('\n')]), origin(run)].join('\n\n');
}

/** The cells of the newest run: they share its date. */
function gridTable(cells: readonly GridRecord[]): string | undefined {
  const newest = cells.at(-1);
  if (newest === undefined) return undefined;
  const rows = cells
    .filter(({ date }) => date === newest.date)
    .map(({ connections, keys, pairsPerBody, shards, figures: { incrementsPerSecond, serverCpuUs, latency } }) =>
      [connections, keys, pairsPerBody, shards, incrementsPerSecond]
        .map(thousands)
        .concat(serverCpuUs.toFixed(2), latency.p99Ms.toFixed(2)),
    );
  const heads = ['connections', 'keys', 'keys a body', 'shards', 'increments/s', 'server CPU µs', 'p99 ms'];
  return `${markdownTable([heads, ...rows])}\n\n${newest.journal}. ${provenanceSentence(newest)}`;
}

function boundsTable(run: BoundsRecord | undefined): string | undefined {
  if (run === undefined) return undefined;
  const heads = ['journal', 'bound', 'key bytes', 'pending keys', 'MiB before', 'MiB at the bound', 'MiB at most', 's'];
  const rows = run.runs.map(({ journal, bound, keyBytes, keys, secondsToCommit, ...memory }) => [
    journal,
    `\`${bound}\``,
    ...[keyBytes, keys, memory.residentMibBefore, memory.residentMibAtBound, memory.residentMibMax].map(thousands),
    secondsToCommit.toFixed(1),
  ]);
  return `${markdownTable([heads, ...rows])}\n\n\`SHARDS=${run.shards}\`. ${provenanceSentence(run)}`;
}
