/** The configuration of a command that works on the database. Main thread of a process of its own. */
import type { Config } from '../config/config.js';
import { readConfig } from '../config/read-config.js';

/** Reads the environment. A command has no role; a queue would refuse the default. Throws StartError. */
export function commandConfig(): Config {
  const { env } = process;
  const isQueue = env['JOURNAL']?.startsWith('sqs:') === true;
  return readConfig(isQueue ? { ROLE: 'roll-up', ...env } : env);
}
