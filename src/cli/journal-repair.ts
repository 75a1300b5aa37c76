/** The commands that change a file journal. Main thread of a process of its own. */
import { join } from 'node:path';
import { readConfig } from '../config/read-config.js';
import { makeNodeId } from '../server/data-directory.js';
import { systemDisk } from '../shard-worker/journal/file/disk.js';
import { acceptCheckpoint, acceptGaps } from '../shard-worker/journal/file/stream-files.js';
import { rebindStream } from '../shard-worker/journal/file/stream-rebind.js';
import { repairStream } from '../shard-worker/journal/file/stream-repair.js';
import { findSegments, scanStream } from '../shard-worker/journal/file/stream-scan.js';
import { journalCommand } from '../shard-worker/journal/journal-command.js';
import { rangeText, say, usageError, type DirectoryArguments } from './journal-command-line.js';
import { rebindToDatabase } from './rebind-database.js';

/** Cuts damaged segments and keeps copies of them. */
export function repair(args: DirectoryArguments): boolean {
  let repaired = 0;
  for (const stream of args.streams) {
    const directory = join(args.journal, stream);
    for (const { path, copy, offset, lastLsn, rescued } of repairStream(systemDisk, directory, new Date())) {
      repaired += 1;
      say(`${path} is cut at offset ${offset}, after LSN ${lastLsn}; the damaged file is kept as ${copy}`);
      for (const range of rescued) say(`  kept LSN ${rangeText(range)} behind the damage`);
      if (rescued.length === 0) say('  no record behind the damage can be read: those records are lost');
    }
  }
  say(
    repaired === 0
      ? 'Nothing to repair.'
      : 'If the server does not start because LSNs are missing, its error names the command that accepts their loss.',
  );
  return true;
}

/** Accepts that missing records are lost, and what is counted where the database has lost a row. */
export function accept({ journal, choices }: DirectoryArguments): boolean {
  if (choices.length === 0) throw usageError('accept needs --stream and --above, one of each for each stream.');
  for (const { stream, above } of choices) {
    const directory = join(journal, stream);
    const { missing } = scanStream(systemDisk, findSegments(systemDisk, directory), above);
    if (missing.length > 0) acceptGaps(systemDisk, directory, missing, Date.now());
    acceptCheckpoint(systemDisk, directory, above, Date.now());
    const lost = missing.map(rangeText).join(', ');
    say(
      missing.length === 0 ? `No record of stream ${stream} is missing.` : `Accepted as lost: LSN ${lost} of ${stream}`,
    );
    say(`If the database has lost its row, the next start takes the records up to LSN ${above} as counted.`);
  }
  return true;
}

/** Gives the directory its own node id, or a stream to another database. */
export async function rebind(args: DirectoryArguments): Promise<boolean> {
  const { named, above, dataDir } = args;
  if ((named === undefined) !== (above === undefined))
    throw usageError('rebind needs both of --stream and --above, or none.');
  if (args.database) {
    return rebindToDatabase({
      dataDir,
      nodeId: args.nodeId,
      dataDirOption: args.dataDirOption,
      databaseUrl: readConfig(process.env).databaseUrl,
      choice: named === undefined || above === undefined ? undefined : { stream: named, above },
      say,
    });
  }
  const nodeId = makeNodeId(dataDir);
  say(`The node id of this data directory is now ${nodeId}.`);
  if (named === undefined || above === undefined) {
    for (const stream of args.streams) {
      const command = journalCommand('rebind', [{ stream, location: join(args.journal, stream), above: 'LSN' }]);
      say(`Stream ${stream} still belongs to both copies: ${command}, with the last LSN that the other copy has, too.`);
    }
    return args.streams.length === 0;
  }
  const { stream, records } = rebindStream(systemDisk, args.journal, named, above, nodeId);
  say(
    stream === undefined
      ? `There are no records above LSN ${above}.`
      : `${records} records are now in stream ${stream}.`,
  );
  say(`Stream ${named} ends at LSN ${above} now; the next start counts its uncounted records.`);
  return true;
}
