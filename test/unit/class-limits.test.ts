/**
 * Limits of what one class may hold, so that it fits in a head. An exception has its reason beside it.
 */
import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import ts from 'typescript';

const FIELDS_MAX = 15;
const GIVEN_MAX = 12;

const exceptions = {
  given: {
    CounterClientOptions: 'the settings of the published client, each with a default',
    FileJournalOptions: 'the settings of a journal on a disk; four have a default',
    FileJournalStreamsOptions: 'the same, and two for all streams of a shard',
    LoadOptions: 'the options of a command line, each with a default',
    OpenFileJournalOptions: 'the settings of a journal on a disk, and three of one stream',
  },
  optionalMethods: {
    'FileJournalOptions.newStreamId': 'has a default',
    'FileJournalOptions.warn': 'has a default',
    'SharedStreamsDeps.newStreamId': 'has a default',
    'ShardConnectionOptions.connect': 'has a default',
  },
  instanceOf: {
    ReplyAtBound: 'which request a reply stands for, which only the router that made it asks',
    SplitReply: 'the same',
  },
} as const satisfies Record<string, Readonly<Record<string, string>>>;

const sourceRoot = join(import.meta.dirname, '../../../src');
const classes = new Map<string, ts.ClassDeclaration>();
const interfaces = new Map<string, ts.InterfaceDeclaration>();
const instanceOf = new Set<string>();

for (const file of readdirSync(sourceRoot, { recursive: true, encoding: 'utf8' })) {
  if (!file.endsWith('.ts') || file.endsWith('.d.ts')) continue;
  const text = readFileSync(join(sourceRoot, file), 'utf8');
  const visit = (node: ts.Node): void => {
    if (ts.isClassDeclaration(node) && node.name !== undefined) classes.set(node.name.text, node);
    if (ts.isInterfaceDeclaration(node)) interfaces.set(node.name.text, node);
    if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.InstanceOfKeyword) {
      instanceOf.add(node.right.getText());
    }
    ts.forEachChild(node, visit);
  };
  visit(ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true));
}

/** Names of the members of an interface and of those that it extends. */
function membersOf(name: string): readonly string[] {
  const declared = interfaces.get(name);
  const own = declared?.members.map((member) => member.name?.getText() ?? '') ?? [];
  const extended = declared?.heritageClauses?.flatMap((clause) => clause.types.map((type) => type.getText())) ?? [];
  return [...new Set([...own, ...extended.flatMap(membersOf)])];
}

/** Those beyond a limit, and exceptions that are none any more. */
function compare(found: readonly string[], allowed: Readonly<Record<string, string>>): void {
  assert.deepEqual(found.toSorted(), Object.keys(allowed).toSorted());
}

test(`no class has more than ${FIELDS_MAX} fields`, () => {
  assert.ok(classes.size > 100);
  const large = Array.from(classes.values(), (declared) => ({
    name: declared.name?.text,
    fields: declared.members.filter((member) => ts.isPropertyDeclaration(member)).length,
  })).filter(({ fields }) => fields > FIELDS_MAX);
  assert.deepEqual(large, []);
});

test(`what a constructor is given has at most ${GIVEN_MAX} members, with named exceptions`, () => {
  const given = [...interfaces.keys()].filter((name) => /(Deps|Options|Parts)$/.test(name));
  assert.ok(given.length > 30);
  compare(
    given.filter((name) => membersOf(name).length > GIVEN_MAX),
    exceptions.given,
  );
});

test('no interface has an optional method, with named exceptions', () => {
  const optional = Array.from(interfaces).flatMap(([name, declared]) =>
    declared.members
      .filter((member) => member.questionToken !== undefined && isMethod(member))
      .map((member) => `${name}.${member.name?.getText() ?? ''}`),
  );
  compare(optional, exceptions.optionalMethods);
});

function isMethod(member: ts.TypeElement): boolean {
  return (
    ts.isMethodSignature(member) ||
    (ts.isPropertySignature(member) && member.type !== undefined && ts.isFunctionTypeNode(member.type))
  );
}

test('no instanceof chooses between classes of the product but errors, with named exceptions', () => {
  const chosen = [...instanceOf].filter((name) => classes.has(name) && !name.endsWith('Error'));
  compare(chosen, exceptions.instanceOf);
});
