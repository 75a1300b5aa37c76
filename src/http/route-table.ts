/** The table of routes for an application of uWebSockets.js: methods and patterns in order. HTTP thread. */
import type { Config } from '../config/config.js';
import type { Access } from './access.js';
import { isAlwaysAnswered, isStream, operationsByPath, type ApiOperation, type OperationName } from './api.js';
import { readPageFiles, writePageFile, type PageFile } from './dashboard-page.js';
import type { EventRoutes } from './events/event-routes.js';
import type { IncrementRoute } from './increment-route.js';
import type { OperationAnswers } from './operation-answers.js';
import { answer, problemReply, type HttpReply } from './reply.js';
import type { RequestAccess } from './request-access.js';
import {
  ASSET_ROUTE,
  PAGE_ROUTE,
  PREFLIGHT_ROUTE,
  UNKNOWN_ROUTE,
  type RequestStats,
  type RouteStats,
} from './request-stats.js';
import { makeRoutes, type RouteSources } from './routes.js';
import type { HttpRequest, HttpResponse } from './uws.js';

type Handle = (res: HttpResponse, req: HttpRequest) => void;

/** One row. The first match answers a request. */
export interface RouteEntry {
  readonly method: 'get' | 'head' | 'post' | 'del' | 'any';
  /** A final `*` stands for the rest of a path. */
  readonly pattern: string;
  readonly handle: Handle;
}

/** The collaborators of the rows. */
export interface RouteTableDeps {
  readonly role: Config['role'];
  readonly requestStats: RequestStats;
  readonly access: RequestAccess;
  readonly increments: IncrementRoute;
  readonly answers: OperationAnswers;
  readonly events: EventRoutes;
  readonly sources: RouteSources;
}

/** The text for each method in the Allow header. GET includes HEAD. */
const ALLOWED = { get: 'GET, HEAD', post: 'POST', delete: 'DELETE' } as const;

const METHODS = { get: ['get', 'head'], post: ['post'], delete: ['del'] } as const;

/** The rows of all operations, of the dashboard's files, and of all other requests. */
export function routeTable(deps: RouteTableDeps): readonly RouteEntry[] {
  const { role, requestStats, sources } = deps;
  const handleOf = handlesOf(deps, makeRoutes(sources));
  const ofOperations = [...operationsByPath()].flatMap(([path, operations]) => {
    const pattern = path.replace('{key}', '*');
    const stats = requestStats.of(path);
    const taken = operations.filter(([name]) => name !== 'increment' || role !== 'roll-up');
    const isOpen = operations.every(([, { access }]) => access === 'open');
    return [
      ...taken.flatMap(([name, operation]) => rows(operation.method, pattern, handleOf(name, operation, stats))),
      refusing(deps, pattern, isOpen ? 'open' : 'any', methodNotAllowed(taken), stats),
    ];
  });
  const unknown = problemReply('not-found', 'No operation has this path; see /openapi.json.');
  return [
    ...ofOperations,
    ...readPageFiles().flatMap((file) => pageFileRows(deps, file)),
    refusing(deps, '/*', 'any', unknown, requestStats.of(UNKNOWN_ROUTE)),
  ];
}

function rows(method: keyof typeof METHODS, pattern: string, handle: Handle): readonly RouteEntry[] {
  return METHODS[method].map((name) => ({ method: name, pattern, handle }));
}

/** The handlers of an operation. */
function handlesOf(
  { requestStats, access: clients, increments, answers, events }: RouteTableDeps,
  routes: ReturnType<typeof makeRoutes>,
): (name: OperationName, operation: ApiOperation, stats: RouteStats) => Handle {
  return (name, operation, stats) => {
    const { access } = operation;
    if (name === 'increment') {
      return (res, req) => {
        const refusal = clients.refusal(res, req, access);
        if (refusal === undefined) {
          increments.handle(res, req);
          return;
        }
        requestStats.countRefusal(refusal.code);
        answer(res, refusal.problem, false, stats);
      };
    }
    if (isStream(name)) {
      return (res, req) => {
        if (clients.admits(res, req, access, stats)) events.answer(res, req, name, operation, stats);
      };
    }
    const route = routes[name];
    const isAlways = isAlwaysAnswered(operation);
    return (res, req) => {
      if (clients.admits(res, req, access, stats)) answers.answer(res, req, route, { isAlways, stats });
    };
  };
}

function pageFileRows(deps: RouteTableDeps, file: PageFile): readonly RouteEntry[] {
  const stats = deps.requestStats.of(file.path === '/' ? PAGE_ROUTE : ASSET_ROUTE);
  const handle: Handle = (res, req) => {
    if (!deps.access.admits(res, req, 'page', stats)) return;
    const options = { ifNoneMatch: req.getHeader('if-none-match'), isHead: req.getMethod() === 'head' };
    res.cork(() => stats.count(writePageFile(res, file, options)));
  };
  const refused = methodNotAllowed([['page', { method: 'get' }]]);
  return [...rows('get', file.path, handle), refusing(deps, file.path, 'page', refused, stats)];
}

/** Answers requests that match no earlier row, with the problem or as a preflight, which has no bearer token. */
function refusing(
  { access: clients, requestStats }: RouteTableDeps,
  pattern: string,
  access: Access,
  problem: HttpReply,
  stats: RouteStats,
): RouteEntry {
  const preflightStats = requestStats.of(PREFLIGHT_ROUTE);
  const handle: Handle = (res, req) => {
    const preflight = clients.preflightReply(req);
    if (preflight !== undefined) {
      if (clients.admits(res, req, 'page', preflightStats)) answer(res, preflight, false, preflightStats);
    } else if (clients.admits(res, req, access, stats)) answer(res, problem, req.getMethod() === 'head', stats);
  };
  return { method: 'any', pattern, handle };
}

/** The refusal of all other methods of a path. A path may take none: a roll-up takes no increments. */
function methodNotAllowed(
  operations: readonly (readonly [string, { readonly method: keyof typeof ALLOWED }])[],
): HttpReply {
  const allow = operations.map(([, { method }]) => ALLOWED[method]).join(', ');
  const detail =
    allow === '' ? 'This server only flushes what others have taken (ROLE=roll-up).' : `This path allows ${allow}.`;
  return problemReply('method-not-allowed', detail, [['allow', allow]]);
}
