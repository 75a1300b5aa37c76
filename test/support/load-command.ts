/** The command `npm run load`, as a user runs it. */
import { spawn, type ChildProcess } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const COMMAND = fileURLToPath(import.meta.resolve('#product/cli/load.js'));

/** How the command ended. */
export interface LoadEnd {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

/** What `--json` prints, as far as tests look at it. */
export interface LoadReport {
  readonly prefix: string;
  readonly seconds: number;
  readonly connections: number;
  readonly requests: Readonly<Record<'acknowledged' | 'refused' | 'unknown' | 'resent', number>>;
  readonly increments: Readonly<Record<'acknowledged' | 'unknown', number>>;
  readonly refusals: readonly { readonly name: string; readonly count: number }[];
  readonly lost_connections: number;
  readonly latency_ms: Readonly<Record<'p50' | 'p90' | 'p99' | 'p99_9' | 'max', number>> & {
    readonly measured_from: string;
  };
  readonly verdict: {
    readonly kind: string;
    readonly sentence: string;
    readonly keys?: number;
    readonly grown?: string;
    readonly wrong_keys?: number;
    readonly first_wrong?: readonly Readonly<Record<'key' | 'expected_min' | 'expected_max' | 'found', string>>[];
  };
}

/** A running command. */
export class LoadCommand {
  readonly child: ChildProcess;
  readonly ended: Promise<LoadEnd>;

  constructor(args: readonly string[], env: Readonly<Record<string, string>> = {}) {
    const child = spawn(process.execPath, [COMMAND, ...args], { env: { ...process.env, ...env } });
    this.child = child;
    let out = '';
    let err = '';
    child.stdout.on('data', (chunk: Buffer) => (out += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => (err += chunk.toString()));
    this.ended = new Promise((resolve) => {
      child.once('close', (code) => resolve({ code, out, err }));
    });
  }

  /** The exit code and the document of `--json`. */
  async report(): Promise<EndWithReport> {
    return reportOf(await this.ended);
  }
}

/** The exit code and the document of `--json`. */
interface EndWithReport {
  readonly code: number | null;
  readonly report: LoadReport;
}

export function reportOf({ code, out, err }: LoadEnd): EndWithReport {
  try {
    // The tests compare its members with what they expect.
    return { code, report: JSON.parse(out) as LoadReport };
  } catch (error) {
    throw new Error(`no report, exit code ${String(code)}: ${out}${err}`, { cause: error });
  }
}

/** Runs the command to its end. */
export function runLoadCommand(args: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<LoadEnd> {
  return new LoadCommand(args, env).ended;
}
