/**
 * Which tests run: `npm test` runs the quick tier, `npm run test:all` that and the rest. `test/run.ts` sets TEST_TIER for files
 * that belong to both; without it a file runs whole.
 */
const named = process.env['TEST_TIER'] ?? '';
if (!['', 'quick', 'rest'].includes(named)) throw new Error(`TEST_TIER must be quick or rest, is ${named}`);

/** This run is the quick tier alone. */
export const isQuick = named === 'quick';

/** Of tests of one shape in both tiers: the first is quick, the others are the rest. */
export function ofTier<Case>(cases: readonly Case[]): readonly Case[] {
  if (named === '') return cases;
  return isQuick ? cases.slice(0, 1) : cases.slice(1);
}
