/**
 * Server-sent events over fetch, because an EventSource can send no bearer token. Connects again until it is closed.
 */

const RETRY_MIN_MS = 500;
const RETRY_MAX_MS = 5_000;
/** What another attempt would be answered, too. */
const FINAL_STATUSES = [400, 401, 403, 404];
/** No event and no comment for so long means that the connection is lost. */
const SILENCE_MS = 20_000;

/**
 * @typedef {object} EventHandlers
 * @property {(name: string, data: string) => void} event
 * @property {() => void} open
 * @property {() => void} lost The connection is lost, or was refused for now; it is tried again.
 * @property {(status: number, problem: { code?: string, detail?: string }) => void} refused What another request would not
 *   change (400, 401, 403, 404) is not tried again, everything else is. `lost` follows then.
 */

/**
 * Follows a stream until the returned function is called.
 * @param {string} path
 * @param {string} token '' for none
 * @param {EventHandlers} handlers
 * @param {number} [silenceMs]
 * @returns {() => void}
 */
export function followEvents(path, token, handlers, silenceMs = SILENCE_MS) {
  const closing = new AbortController();
  void follow(path, token, handlers, silenceMs, closing.signal);
  return () => closing.abort();
}

/**
 * @param {string} path
 * @param {string} token
 * @param {EventHandlers} handlers
 * @param {number} silenceMs
 * @param {AbortSignal} closed
 */
async function follow(path, token, handlers, silenceMs, closed) {
  let retryMs = RETRY_MIN_MS;
  while (!closed.aborted) {
    const opened = await once(path, token, handlers, silenceMs, closed);
    if (opened === 'refused' || closed.aborted) return;
    handlers.lost();
    retryMs = opened === 'opened' ? RETRY_MIN_MS : Math.min(retryMs * 2, RETRY_MAX_MS);
    await new Promise((resolve) => setTimeout(resolve, retryMs));
  }
}

/**
 * One connection. Resolves when it is over.
 * @param {string} path
 * @param {string} token
 * @param {EventHandlers} handlers
 * @param {number} silenceMs
 * @param {AbortSignal} closed
 * @returns {Promise<'opened' | 'failed' | 'refused'>}
 */
async function once(path, token, handlers, silenceMs, closed) {
  const silent = new AbortController();
  let timer = setTimeout(() => silent.abort(), silenceMs);
  /** @type {'opened' | 'failed'} */
  let outcome = 'failed';
  try {
    const response = await fetch(path, {
      headers: token === '' ? {} : { authorization: `Bearer ${token}` },
      cache: 'no-store',
      signal: AbortSignal.any([closed, silent.signal]),
    });
    if (!response.ok || response.body === null) return await refusal(response, handlers);
    outcome = 'opened';
    handlers.open();
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '';
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      clearTimeout(timer);
      timer = setTimeout(() => silent.abort(), silenceMs);
      const blocks = (text + part.value).split('\n\n');
      text = blocks.pop() ?? '';
      for (const block of blocks) take(block, handlers);
    }
  } catch (error) {
    // A lost connection, or one that was closed here. Anything else is a bug and must show.
    if (!(error instanceof DOMException || error instanceof TypeError)) throw error;
  } finally {
    clearTimeout(timer);
  }
  return outcome;
}

/**
 * @param {Response} response
 * @param {EventHandlers} handlers
 * @returns {Promise<'failed' | 'refused'>}
 */
async function refusal(response, handlers) {
  const problem = await response.json().catch(() => ({}));
  // A server that starts or stops is as one that cannot be reached.
  if (problem.code === 'starting' || problem.code === 'draining') return 'failed';
  handlers.refused(response.status, problem);
  return FINAL_STATUSES.includes(response.status) ? 'refused' : 'failed';
}

/**
 * @param {string} block
 * @param {EventHandlers} handlers
 */
function take(block, handlers) {
  const name = /^event: (.*)$/m.exec(block)?.[1];
  const data = /^data: (.*)$/m.exec(block)?.[1];
  if (name !== undefined && data !== undefined) handlers.event(name, data);
}
