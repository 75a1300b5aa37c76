/**
 * Makes of the compiler's output what ships:
 *
 * - removes from `dist` what deleted sources have left there;
 * - copies the dashboard's files;
 * - copies what the validators of typia call into `dist/typia`, so that typia, and the compiler that it depends on, need
 *   not be installed where the server runs;
 * - makes the package of the client in `client/dist`, as an ES module and as CommonJS.
 */
import { copyFileSync, cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const root = fileURLToPath(new URL('..', import.meta.url));
const source = join(root, 'src');
const dist = join(root, 'dist');
const typia = join(root, 'node_modules/typia');
const validators = join(dist, 'typia');

const compiledName = /\.(js|cjs|js\.map|cjs\.map|d\.ts|d\.cts)$/;
const compiled = readdirSync(dist, { recursive: true, encoding: 'utf8' })
  .filter((path) => compiledName.test(path) && !/^(typia|http\/dashboard)\//.test(path))
  .map((path) => join(dist, path));

removeLeftovers();
rmSync(join(dist, 'http/dashboard'), { recursive: true, force: true });
cpSync(join(source, 'http/dashboard'), join(dist, 'http/dashboard'), { recursive: true });
bundleTypia();
makeClientPackage();

function removeLeftovers() {
  for (const path of compiled) {
    const extension = /\.(cjs|cjs\.map|d\.cts)$/.test(path) ? '.cts' : '.ts';
    if (!existsSync(join(source, relative(dist, path).replace(compiledName, extension)))) rmSync(path);
  }
}

function bundleTypia() {
  rmSync(validators, { recursive: true, force: true });
  for (const path of compiled.filter((file) => file.endsWith('.js') && existsSync(file))) {
    const code = readFileSync(path, 'utf8');
    // The transform has replaced every call, so the import of the package itself is unused.
    const linked = code
      .replace(/^import typia(, \{\})? from 'typia';$/gm, '')
      .replace(
        /from "typia\/lib\/internal\/(\w+)"/g,
        (_, name) => `from "${linkTo(path, copyModule(internal(name)))}"`,
      );
    if (/\bfrom\s*['"]typia\b|\btypia\./.test(withoutComments(linked))) throw new Error(`${path} still uses typia`);
    if (linked !== code) writeFileSync(path, linked);
  }
  // Already linked by an earlier build: the compiler writes only what has changed.
  for (const path of compiled.filter((file) => file.endsWith('.js') && existsSync(file))) {
    for (const [, name] of readFileSync(path, 'utf8').matchAll(/from "[./]*\/typia\/internal\/(\w+)\.js"/g))
      copyModule(internal(name));
  }
  copyFileSync(join(typia, 'LICENSE'), join(validators, 'LICENSE'));
}

function internal(name) {
  return join(typia, 'lib/internal', `${name}.mjs`);
}

/** Copies a module of typia and what it imports; returns the path of the copy. */
function copyModule(path) {
  const copy = join(validators, relative(join(typia, 'lib'), path).replace(/\.mjs$/, '.js'));
  if (existsSync(copy)) return copy;
  const code = readFileSync(path, 'utf8').replace(/^\/\/# sourceMappingURL=.*$/m, '');
  mkdirSync(dirname(copy), { recursive: true });
  writeFileSync(
    copy,
    code.replace(/from '(\.[^']+)'/g, (_, name) => `from '${linkTo(copy, copyModule(resolve(dirname(path), name)))}'`),
  );
  return copy;
}

function linkTo(from, to) {
  const path = relative(dirname(from), to);
  return path.startsWith('.') ? path : `./${path}`;
}

function withoutComments(code) {
  return code.replace(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '').replace(/method: "typia\.[^"]*"/g, '');
}

function makeClientPackage() {
  const made = join(root, 'client/dist');
  rmSync(made, { recursive: true, force: true });
  mkdirSync(made, { recursive: true });
  // The files import nothing but each other.
  const asCommonJs = (code) => code.replace(/((?:from |require\()["']\.\/[a-z-]+)\.js(?=["'])/g, '$1.cjs');
  const compilerOptions = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2023 };
  for (const file of readdirSync(join(source, 'client'))) {
    const name = file.replace(/\.ts$/, '');
    const built = (suffix) =>
      readFileSync(join(dist, 'client', name + suffix), 'utf8').replace(/^\/\/# sourceMappingURL=.*\n?/m, '');
    const { outputText } = ts.transpileModule(readFileSync(join(source, 'client', file), 'utf8'), { compilerOptions });
    writeFileSync(join(made, `${name}.js`), built('.js'));
    writeFileSync(join(made, `${name}.d.ts`), built('.d.ts'));
    writeFileSync(join(made, `${name}.cjs`), asCommonJs(outputText));
    writeFileSync(join(made, `${name}.d.cts`), asCommonJs(built('.d.ts')));
  }
  copyFileSync(join(root, 'LICENSE'), join(root, 'client/LICENSE'));
}
