/**
 * Manifests of Kubernetes: rendered by kubectl, and checked against the schemas of its API. Debian 13 has kubectl in the package
 * kubernetes-client.
 */
import { spawnSync } from 'node:child_process';
import { parseAllDocuments } from 'yaml';

/** The first version of Kustomize that renders these manifests: kubectl 1.27, which has components and labels for patches. */
const KUSTOMIZE_MIN = 5;

/** One object, as far as every kind has it. */
export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly labels?: Readonly<Record<string, string>> };
  readonly spec?: unknown;
  readonly data?: Readonly<Record<string, string>>;
}

/** Why a test with kubectl must be skipped on this machine, or false. In continuous integration it must be installed. */
export function kubectlMissing(): string | false {
  const { status, stdout } = spawnSync('kubectl', ['version', '--client'], { encoding: 'utf8' });
  if (status !== 0)
    return process.env['CI'] === 'true'
      ? false
      : 'kubectl is not installed (Debian 13: apt-get install kubernetes-client)';
  const version = Number(/^Kustomize Version: v(\d+)/m.exec(stdout)?.[1] ?? 0);
  return version >= KUSTOMIZE_MIN
    ? false
    : `kubectl is older than 1.27, as that of Debian 12 is; .ci/run debian13 has a newer one`;
}

/** What `kubectl apply -k DIRECTORY` would send. Throws what kubectl says. */
export function renderKustomization(directory: string): readonly Manifest[] {
  const { status, error, stdout, stderr } = spawnSync('kubectl', ['kustomize', directory], { encoding: 'utf8' });
  if (error !== undefined) throw error;
  if (status !== 0 || stderr !== '') throw new Error(`kubectl kustomize ${directory}: ${stderr}`);
  return parseAllDocuments(stdout).map((document) => {
    if (document.errors.length > 0) throw new Error(`${directory}: ${document.errors.join('\n')}`);
    // `schemaProblems` checks what it really is.
    return document.toJS() as Manifest;
  });
}

interface Model {
  readonly prototype: { validate(this: unknown): void };
}

/**
 * What the schema of its kind has against a manifest: values that do not match, and members that it does not know. The package
 * has the schemas as code, which lets unknown members pass; but it never reads them.
 */
export async function schemaProblems(manifest: Manifest): Promise<readonly string[]> {
  const { apiVersion, kind } = manifest;
  // Each version of the API is a module that exports its kinds.
  const kinds = (await import(`kubernetes-models/${apiVersion}`)) as Readonly<Record<string, Model | undefined>>;
  const model = kinds[kind];
  if (model === undefined) return [`${apiVersion} has no ${kind}`];
  const where = `${kind} ${manifest.metadata.name}`;
  const objects: ReadObject[] = [];
  try {
    model.prototype.validate.call(recorded(manifest, where, objects));
  } catch (error) {
    return [`${where}: ${String(error)}`];
  }
  return objects.flatMap(({ path, members, read, isMap }) =>
    isMap ? [] : members.filter((member) => !read.has(member)).map((member) => `${path}.${member} is unknown`),
  );
}

/** An object that a schema was applied to. */
interface ReadObject {
  readonly path: string;
  readonly members: readonly string[];
  readonly read: Set<string>;
  /** The schema takes any member, so it asked for their names. */
  isMap: boolean;
}

/** The value, such that `objects` gets what is read of it. */
function recorded<T>(value: T, path: string, objects: ReadObject[]): T {
  if (typeof value !== 'object' || value === null) return value;
  const object: ReadObject = { path, members: Object.keys(value), read: new Set(), isMap: Array.isArray(value) };
  objects.push(object);
  const inner = new Map<string | symbol, unknown>();
  return new Proxy(value, {
    get(target, member) {
      if (typeof member === 'string') object.read.add(member);
      if (!inner.has(member)) {
        inner.set(member, recorded(Reflect.get(target, member) as unknown, `${path}.${String(member)}`, objects));
      }
      return inner.get(member);
    },
    ownKeys(target) {
      object.isMap = true;
      return Reflect.ownKeys(target);
    },
  });
}
