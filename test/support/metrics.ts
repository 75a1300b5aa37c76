/** The page of GET /metrics, read as Prometheus reads it. */
import { send } from './http.js';

/** One series of a scrape. */
export interface Series {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly value: number;
}

/** A parsed page. */
export class MetricsPage {
  readonly series: readonly Series[];
  /** HELP and TYPE by the name of the metric. */
  readonly help: ReadonlyMap<string, string>;
  readonly types: ReadonlyMap<string, string>;

  constructor(text: string) {
    const comments = (kind: string): ReadonlyMap<string, string> =>
      new Map(
        Array.from(text.matchAll(new RegExp(`^# ${kind} (\\S+) (.+)$`, 'gm')), ([, name = '', rest = '']) => [
          name,
          rest,
        ]),
      );
    this.help = comments('HELP');
    this.types = comments('TYPE');
    this.series = Array.from(
      text.matchAll(/^([a-z_]+)(?:\{(.*)\})? (\S+)$/gm),
      ([, name = '', labels = '', value]) => ({
        name,
        labels: Object.fromEntries(
          Array.from(labels.matchAll(/(\w+)="([^"]*)"/g), ([, label = '', text = '']) => [label, text]),
        ),
        value: value === '+Inf' ? Number.POSITIVE_INFINITY : Number(value),
      }),
    );
  }

  /** The sum of the series of this name (without the prefix) that have these labels. */
  total(name: string, labels: Readonly<Record<string, string>> = {}): number {
    return this.of(name)
      .filter((series) => Object.entries(labels).every(([label, value]) => series.labels[label] === value))
      .reduce((sum, { value }) => sum + value, 0);
  }

  /** All series of this name, without the prefix. */
  of(name: string): readonly Series[] {
    return this.series.filter((series) => series.name === `summing_counters_${name}`);
  }
}

/** Scrapes a server. */
export async function scrape(url: string, headers: Readonly<Record<string, string>> = {}): Promise<MetricsPage> {
  const answer = await send(url, '/metrics', { headers });
  if (answer.status !== 200) throw new Error(`the scrape was answered ${answer.status}: ${answer.body}`);
  return new MetricsPage(answer.body);
}

const CAME = ['accepted', 'recovered', 'adopted'];
const WENT = ['flushed', 'deduplicated', 'handed_over', 'rejected', 'lost'];

/** For each shard: what came less what went and what is pending. All 0 where the increments add up. */
export function imbalances(page: MetricsPage): ReadonlyMap<string, number> {
  const differences = new Map<string, number>();
  for (const { labels, value } of page.of('increments_pending')) {
    const shard = labels['shard'] ?? '';
    const total = (names: readonly string[]): number =>
      names.reduce((sum, name) => sum + page.total(`increments_${name}_total`, { shard }), 0);
    differences.set(shard, total(CAME) - total(WENT) - value);
  }
  return differences;
}
