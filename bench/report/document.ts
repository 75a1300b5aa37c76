/**
 * `npm run bench:document -- [FILE]`: writes the figures of FILE, default the baseline, into docs/benchmarks.md and
 * docs/cost-model.md, so that nobody types them by hand. A document has places `<!-- figures: NAME -->` … `<!-- end
 * -->`, where NAME is a scenario or a name in figure-blocks.ts. The figures of the newest run of that name go between
 * them, or "Not measured yet.".
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { figures } from './figure-blocks.js';
import { withCleanup } from '../processes/owned-process.js';
import { projectRoot } from '../processes/project-paths.js';
import { baselineFile, readRecords } from './record.js';

const documents = ['benchmarks.md', 'cost-model.md'].map((name) => join(projectRoot, 'docs', name));
const place = /(<!-- figures: ([a-z0-9-]+) -->\n)[\s\S]*?(\n<!-- end -->)/g;

await withCleanup(() => {
  const file = process.argv[2] ?? baselineFile;
  if (!existsSync(file)) throw new Error(`There is no ${file}: the documents stay as they are.`);
  const records = readRecords(file);
  for (const document of documents) {
    const after = readFileSync(document, 'utf8').replaceAll(place, (_, head: string, name: string, tail: string) => {
      const text = figures(name, records);
      console.log(`${name}: ${text === undefined ? 'not measured yet' : 'written'}`);
      return `${head}\n${text ?? 'Not measured yet.'}\n${tail}`;
    });
    writeFileSync(document, after);
  }
});
