/**
 * Requests to this server: with the key if there is one, errors as errors.
 *
 * Addresses are relative to the page, so it works behind a proxy's prefix, too.
 */

import { keyStore, refuseKey } from "./key.js";
import { eventsOf } from "./sse.js";

/** A proxy may ask for an hour; a server that is back is to be found sooner. */
const MAX_RETRY_AFTER_S = 60;

/**
 * What went wrong, in words that can be shown. `status` is 0 where there was no answer at all;
 * `retryAfterS` is how long the server wants to be left alone, 0 if it did not say.
 */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, retryAfterS = 0 } = {}) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.retryAfterS = retryAfterS;
  }
}

/** The JSON that a GET answers. *Throws* `ApiError`. */
export async function getJson(path, signal) {
  return (await send(path, { signal })).json();
}

/** The JSON that a POST of `body` answers. *Throws* `ApiError`. */
export async function postJson(path, body, signal) {
  return (await send(path, { ...asPost(body), signal })).json();
}

/** The events that a GET streams. *Throws* `ApiError`, also on the way. */
export function getEvents(path, signal) {
  return streamed(path, { signal });
}

/** The events that a POST of `body` streams. *Throws* `ApiError`, also on the way. */
export function postEvents(path, body, signal) {
  return streamed(path, { ...asPost(body), signal });
}

/** Whether an error only says that whoever asked no longer wants to know. */
export function isAbort(error) {
  return error instanceof DOMException && error.name === "AbortError";
}

async function* streamed(path, options) {
  const response = await send(path, options);
  try {
    yield* eventsOf(response);
  } catch (error) {
    throw isAbort(error) ? error : lostConnection();
  }
}

function asPost(body) {
  return {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" },
  };
}

async function send(path, { headers = {}, ...options }) {
  const { key } = keyStore.value;
  const authorization = key === null ? {} : { Authorization: `Bearer ${key}` };
  const accept = { Accept: "application/json, text/event-stream" };
  let response;
  try {
    response = await fetch(path, {
      ...options,
      headers: { ...accept, ...headers, ...authorization },
      cache: "no-store",
      credentials: "omit",
    });
  } catch (error) {
    throw isAbort(error) ? error : lostConnection();
  }
  if (response.ok) return response;
  if (response.status === 401) refuseKey(key);
  throw await errorOf(response);
}

/** Errors come in OpenAI's shape; a proxy's may come in any. */
async function errorOf(response) {
  const { status } = response;
  // A date, which proxies may give instead, is no number: then the page's own pace has to do.
  const asked = Number(response.headers.get("Retry-After")) || 0;
  const retryAfterS = Math.min(asked, MAX_RETRY_AFTER_S);
  try {
    const { error } = await response.json();
    if (typeof error?.message === "string") {
      return new ApiError(error.message, { status, code: error.code ?? null, retryAfterS });
    }
  } catch {
    // Not JSON: the status has to say it.
  }
  return new ApiError(`the server answered ${status} ${response.statusText}`.trim(), { status, retryAfterS });
}

function lostConnection() {
  return new ApiError("the connection to the server was lost");
}
